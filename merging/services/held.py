"""What values hold in memory: tensors, arrays, frames and texts. What several of them share is counted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import getsizeof
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..features.moments import Moments
from .limits import UNBOUNDED

Buffers = dict[int, int]
"""{identity of a buffer, as long as it is held: its bytes}"""


def buffers_of(value: Any) -> Buffers:
    """Return what a value holds, through dataclasses, collections and modules. `Moments` are left out: many features
    share them, and they have a bound of their own.
    """
    found: Buffers = {}
    left, seen = [value], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, np.ndarray):
            found[id(one if one.base is None else one.base)] = one.nbytes
        elif isinstance(one, (pd.DataFrame, pd.Series)):
            found[id(one)] = int(np.sum(one.memory_usage()))
        elif isinstance(one, (str, bytes)):
            found[id(one)] = getsizeof(one)
        elif isinstance(one, nn.Module):
            left += [*one.parameters(), *one.buffers()]
        elif isinstance(one, Mapping):
            left += one.values()
        elif isinstance(one, (list, tuple, set, frozenset)):
            if one and isinstance(next(iter(one)), (int, float)):
                found[id(one)] = 8 * len(one)
            else:
                left += one
        elif hasattr(one, "__dict__") and type(one).__module__.startswith("merging.") and not isinstance(one, Moments):
            left += vars(one).values()
    return found


def together(held: Iterable[Buffers]) -> int:
    """Return the bytes of several values."""
    every: Buffers = {}
    for buffers in held:
        every |= buffers
    return sum(every.values())


def bound(name: str, value: int) -> str:
    """Write the value of a limit, a name of `merging.services.limits.Limits`, for people."""
    return "no limit" if value >= UNBOUNDED else size(value) if name.endswith("_bytes") else f"{value:,}"


def size(count: int) -> str:
    """Write bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
