"""Does a merge survive 4 or 8 bits? What is left of an update when the sum W0 + dW is quantised, module by module.

Merged into the weights and then quantised, an update reaches the model as Q(W0 + dW) - Q(W0). Most updates are far
smaller than a step of the quantised grid, so most entries do not move at all and a few jump a whole step. Kept apart
(an adapter on the quantised base, as QLoRA has it) the same update acts in full: Q(W0) + dW.

References
----------
Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314: NF4, appendix E.
Dettmers et al. 2022, LLM.int8(), https://arxiv.org/abs/2208.07339: one scale per row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ..adapters.adapter import Adapter
from ..adapters.lowrank import LowRank
from ..errors import MergeError
from ..merged import Merged
from ..models.checkpoint import Checkpoint, find_checkpoint

NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The sixteen values of NF4, as the paper prints them."""
BLOCK = 64
"""Neighbouring entries of a row-major weight that share a scale in NF4."""
ENTRIES_AT_ONCE = 1 << 22
SURVIVES, DROWNS = 0.1, 1.0
"""Errors below which an update counts as kept, and above which rounding is larger than the update."""


@dataclass(frozen=True)
class Loss:
    """What quantising W0 + dW does to dW.

    Attributes
    ----------
    error : ||Q(W0 + dW) - Q(W0) - dW|| / ||dW||, Frobenius; 0 = the update arrives whole, 1 = what arrives is as far
        from it as nothing at all, more = the rounding is larger than the update; 0 for the zero update
    unchanged : share of the entries whose code (the level's or step's number) is the same with and without the update
    """

    error: float
    unchanged: float


def nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (codes 0 to 15, the values that they stand for) of a weight in NF4: absmax per block of 64 entries.

    Parameters
    ----------
    weight : shape (out, in), float32; the blocks run along the rows and on into the next, the last may be shorter

    Notes
    -----
    The scales stay float32; QLoRA's second quantisation of the scales would add a little.
    """
    flat = weight.reshape(-1)
    padding = -flat.numel() % BLOCK
    blocks = torch.nn.functional.pad(flat, (0, padding)).reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4_LEVELS)
    codes = torch.bucketize(blocks / scale.clamp_min(torch.finfo(torch.float32).tiny), (levels[1:] + levels[:-1]) / 2)
    values = levels[codes] * scale
    return tuple(x.reshape(-1)[: flat.numel()].reshape(weight.shape) for x in (codes, values))  # type: ignore[return-value]


def int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (codes -127 to 127, the values that they stand for) of a weight (out, in) in 8 bits: absmax per row."""
    step = weight.abs().amax(1, keepdim=True) / 127
    codes = torch.round(weight / step.clamp_min(torch.finfo(torch.float32).tiny))
    return codes, codes * step


FORMATS: Mapping[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"nf4": nf4, "int8": int8}
COLUMNS = ["module", "size", *(f"{kind}_{what}" for kind in FORMATS for what in ("error", "unchanged"))]


def loss(W0: Tensor, update: LowRank | Tensor, kind: str) -> Loss:
    """Return what is lost of ``update`` (out, in) when ``W0`` plus it is quantised to ``kind``, a name in `FORMATS`.

    Some million entries at a time, in float32.
    """
    error, norm, same = torch.stack(list(_sums(W0, update, FORMATS[kind]))).sum(0).tolist()
    return Loss(math.sqrt(error / norm) if norm else 0.0, same / W0.numel())


def _sums(
    W0: Tensor, update: LowRank | Tensor, quantise: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Iterator[Tensor]:
    """Yield [sum of squared errors, of the squared update, number of entries that stay] of some rows at a time."""
    # whole blocks of NF4 in every part, wherever the rows end
    rows = max(1, ENTRIES_AT_ONCE // (BLOCK * W0.shape[1])) * BLOCK
    for start in range(0, W0.shape[0], rows):
        here = slice(start, start + rows)
        before = W0[here].float()
        dW = update.B[here] @ update.A if isinstance(update, LowRank) else update[here]
        (old, from_), (new, to) = quantise(before), quantise(before + dW.float())
        off = (to - from_ - dW).double()
        yield torch.stack([off.square().sum(), dW.double().square().sum(), (old == new).sum().double()])


def quantisation(subject: Merged | Adapter, base: str | Path | Checkpoint) -> pd.DataFrame:
    """Return what 4 and 8 bits leave of a merge or an adapter, a row per module.

    Parameters
    ----------
    base : the model with its own weights, not quantised: a folder, "minilm", "smollm2" or a hub id; its tensors are
        read one at a time

    Returns
    -------
    DataFrame with module, size (||dW|| / ||W0||) and for each of `FORMATS` a column ``nf4_error`` and
    ``nf4_unchanged``, see `Loss`.

    Raises
    ------
    MergeError
        If the base cannot be read, is quantised already, or has no such module.
    """
    return pd.DataFrame(rows_of(subject, base), columns=COLUMNS)


def rows_of(subject: Merged | Adapter, base: str | Path | Checkpoint) -> Iterator[tuple[str | float, ...]]:
    """Yield the rows of `quantisation` one after the other, for whoever shows how far it is."""
    checkpoint = base if isinstance(base, Checkpoint) else find_checkpoint(base)
    modules = list(subject.deltas if isinstance(subject, Adapter) else subject.modules)
    shapes = {m: u.shape for m, u in subject.deltas.items()} if isinstance(subject, Adapter) else subject.shapes
    checkpoint.check(shapes, ())
    for module in modules:
        with checkpoint.opened() as reader:  # anew for each, so that no page of the base stays mapped
            stored = checkpoint.weight(module, reader)
            if not stored.is_floating_point():
                raise MergeError(f"{module} is stored as {stored.dtype} in {checkpoint.name}: it is quantised already.")
            W0 = stored.float()
        update = subject.deltas[module] if isinstance(subject, Adapter) else subject.result(module)
        norm = update.norm() if isinstance(update, LowRank) else float(torch.linalg.vector_norm(update.double()))
        found = [loss(W0, update, kind) for kind in FORMATS]
        size = norm / (float(torch.linalg.vector_norm(W0)) or math.inf)
        yield (module, size, *(value for one in found for value in (one.error, one.unchanged)))


def advice(rows: pd.DataFrame) -> list[str]:
    """Return a sentence per format: what the median module loses, and what to do about it.

    Parameters
    ----------
    rows : of `quantisation`
    """
    return [_advice(kind, rows[f"{kind}_error"], rows[f"{kind}_unchanged"]) for kind in FORMATS] if len(rows) else []


def _advice(kind: str, errors: pd.Series, unchanged: pd.Series) -> str:
    middle = float(errors.median())
    said = f"{kind}: the median module's update arrives with an error of {middle:.0%}"
    said += f" ({float(unchanged.median()):.0%} of the weights keep their code)"
    if middle <= SURVIVES:
        return f"{said}: the merge survives, quantise the full model."
    if middle < DROWNS:
        return f"{said}: keep the adapter apart on the quantised base, or quantise the merged model and re-tune it."
    return (
        f"{said}, more than the update itself: keep the adapter apart on the quantised base; if it must be one file, "
        "merge before quantising and re-tune."
    )
