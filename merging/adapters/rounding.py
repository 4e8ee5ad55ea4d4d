"""Factors in fewer bits, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..errors import MergeError
from .adapter import Adapter
from .lowrank import LowRank

WRITTEN = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PARENTS = "parents"


def chosen_dtype(name: str, adapters: Sequence[Adapter]) -> torch.dtype:
    """Return the type that ``name`` means: one of `WRITTEN`, or "parents" for the widest that the adapters were stored
    in.

    Raises
    ------
    MergeError
        For another name.
    """
    if name == PARENTS:
        widest = adapters[0].dtype
        for adapter in adapters[1:]:
            widest = torch.promote_types(widest, adapter.dtype)
        return torch.float32 if widest == torch.float64 else widest
    if name not in WRITTEN:
        raise MergeError(
            f"dtype = {name!r}: choose one of {', '.join(WRITTEN)}, or {PARENTS} for what the adapters are stored in."
        )
    return WRITTEN[name]


def rounded(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    """Return the adapter with balanced factors rounded to ``dtype``; ``metadata.rounding`` says the relative error of
    the whole update.
    """
    if dtype == torch.float32:
        return adapter
    lost, total, deltas = 0.0, 0.0, {}
    for module, update in adapter.deltas.items():
        even = update.balanced() if update.rank else update  # factors of one size use the few exponents of float16 best
        new = even.to(dtype).to(torch.float32)
        lost += LowRank.concat([update, new * -1.0]).norm() ** 2
        total += update.norm() ** 2
        deltas[module] = new
    error = math.sqrt(lost / total) if total else 0.0
    note = {"dtype": str(dtype).removeprefix("torch."), "error": error}
    return replace(adapter, deltas=deltas, dtype=dtype, metadata=adapter.metadata.changed(rounding=note))
