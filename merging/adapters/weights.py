"""Tensors of files that anybody may have written: safetensors, and pickles of which only tensors are read."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import MergeError
from ..io.untrusted import check_safetensors, is_text


def read_tensors(path: Path, where: str) -> dict[str, Tensor]:
    """Return {key: tensor} of a .safetensors or a pickled .bin file; ``where`` names the adapter in messages.

    Raises
    ------
    MergeError
        If the file is damaged, holds anything but floating-point tensors, or NaN or infinite values; a pickle that
        would run code is refused by torch before it runs.
    """
    tensors = _unpickled(path, where) if path.suffix == ".bin" else _from_safetensors(path, where)
    for key, tensor in tensors.items():
        if not all_finite(tensor):
            raise MergeError(
                f"{where}: {key} holds NaN or infinite values; the adapter is broken, train or save it again."
            )
    return tensors


def all_finite(tensor: Tensor) -> bool:
    """Tell whether no entry is NaN or infinite, in one pass and without a mask: extremes carry both."""
    return not tensor.numel() or all(math.isfinite(extreme) for extreme in torch.aminmax(tensor))


def _from_safetensors(path: Path, where: str) -> dict[str, Tensor]:
    check_safetensors(path, f"{where}: {path.name}")
    try:
        with safe_open(path, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise MergeError(f"{where}: {path.name} is not a readable safetensors file ({error}).") from error


def _unpickled(path: Path, where: str) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MergeError(
            f"{where}: {path.name} is a pickle that holds more than tensors, which could run code, or is damaged: "
            "nothing of it was run; save the adapter with safetensors."
        ) from error
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        AssertionError,
    ) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise MergeError(f"{where}: {path.name} is not a readable pickle of tensors ({first.rstrip('.')}).") from error
    if not isinstance(loaded, dict):
        raise MergeError(f"{where}: {path.name} holds no tensors by name, as an adapter does.")
    size = path.stat().st_size
    for key, tensor in loaded.items():
        plain = isinstance(key, str) and is_text(key) and isinstance(tensor, Tensor)
        if not plain or tensor.layout != torch.strided:
            raise MergeError(f"{where}: {path.name} holds {str(key)[:100]!r}, which is no plain tensor.")
        if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            name = str(tensor.dtype).removeprefix("torch.")
            raise MergeError(
                f"{where}: {path.name}: {key} holds {name}, not floating-point numbers of 16, 32 or 64 bits."
            )
        if tensor.numel() * tensor.element_size() > size:  # a view that repeats its numbers
            raise MergeError(f"{where}: {path.name}: {key} is larger than the file that holds it.")
    return {key: tensor.detach().contiguous() for key, tensor in loaded.items()}
