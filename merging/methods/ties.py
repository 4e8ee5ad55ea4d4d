"""TIES and DARE-TIES: prune each update, elect a sign per entry, average what agrees with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from .base import SCALING, Method, Param, Stack, density_param
from .sparsify import Trim, agreeing_mean, dense_updates, drop, kept, merge_by_rows, trim_to
from .threshold import model_trim

TRIM = Param(
    "trim",
    "Trim within",
    default="module",
    choices=("module", "model"),
    help="Where the largest entries are picked: in every module (PEFT, mergekit) or over the whole model (official "
    "code).",
)
ELECTION = Param(
    "election", "Election", default="unweighted", choices=("unweighted", "weighted"),
    help="Sign of the plain sum (PEFT, official) or of the weighted one, with weights made relative (mergekit).",
)  # fmt: skip


def ties(
    stack: Stack, scaling: float, density: float, trim: str, election: str, trims: list[dict[str, Trim]] | None = None
) -> Tensor:
    """TrIm, Elect Sign and merge: keep each update's largest entries, let every entry vote on its sign, average the
    agreeing.

    1. Trim: keep the int(density * numel) entries of largest magnitude of each B_i A_i, the rest becomes 0.
    2. Elect: the sign of the sum over adapters, per entry (a sum of 0 elects +).
    3. Merge: λ times the mean of the entries that have the elected sign (zeros do not vote and do not count).

    It helps where a few large entries carry a task. On LoRA updates, whose entries are spread evenly, it often loses to
    methods that work on subspaces. Dense: it needs the whole B A of one module at a time.

    Dialects: PEFT's per-tensor one is the default (trim "module", election "unweighted"); the official code trims over
    the whole model and keeps k + 1; mergekit weighs before the election and divides by the agreeing weights
    ("weighted").

    References
    ----------
    Yadav et al., "TIES-Merging", NeurIPS 2023, arXiv 2306.01708, algorithm 1.
    """
    if trims is None:
        prunes = [trim_to(dense, kept(density, dense.numel())) for dense in dense_updates(stack)]
    else:
        prunes = [replace(trims[i][stack.module]) for i in stack.present]
    return merge_by_rows(stack, prunes, partial(agreeing_mean, election=election), scaling)


def model_trims(
    stacks: Callable[[], Iterator[Stack]], parts: Callable[[Stack], Mapping[int, Tensor]], density: float, trim: str
) -> dict[str, Any]:
    """Return {"trims": {module: trim} of each adapter} for trim "model", else nothing.

    Parameters
    ----------
    parts : {adapter: what is trimmed of it} at one module
    """
    if trim == "module":
        return {}
    adapters = len(next(stacks()).updates)

    def of(i: int) -> Iterator[tuple[str, Tensor]]:
        return (
            (stack.module, found[i]) for stack, found in ((stack, parts(stack)) for stack in stacks()) if i in found
        )

    return {"trims": [model_trim(partial(of, i), density) for i in range(adapters)]}


def prepare_ties(stacks: Callable[[], Iterator[Stack]], density: float, trim: str, **_: Any) -> dict[str, Any]:
    """Find the whole-model thresholds if they are asked for."""
    return model_trims(stacks, lambda stack: dict(zip(stack.present, dense_updates(stack), strict=True)), density, trim)


def dare_ties(stack: Stack, scaling: float, density: float) -> Tensor:
    """Drop entries at random and rescale (DARE), then elect signs and average what agrees (TIES without its trim).

    Each entry of B_i A_i survives with probability density and is divided by it; then as in TIES. The random masks
    depend on the seed, the adapter and the module only, so that moving a slider keeps them.

    References
    ----------
    Yu et al., "Language Models are Super Mario" (DARE), ICML 2024, arXiv 2311.03099; Yadav et al. (TIES), arXiv
    2306.01708.
    """
    prunes = [partial(drop, density=density, generator=stack.generator(i)) for i in stack.present]
    return merge_by_rows(stack, prunes, partial(agreeing_mean, election="unweighted"), scaling)


TIES_PAPER = "Yadav et al., NeurIPS 2023, arXiv 2306.01708"
DARE_PAPER = "Yu et al., ICML 2024, arXiv 2311.03099"

TIES = Method(
    "ties", "TIES", TIES_PAPER, "full", ties,
    (SCALING, density_param(0.2, "Share of each update's entries that survive the trim."), TRIM, ELECTION),
    prepare=prepare_ties, low_rank=False,
)  # fmt: skip
DARE_TIES = Method(
    "dare_ties", "DARE-TIES", DARE_PAPER, "full", dare_ties,
    (SCALING, density_param(0.1, "Probability with which an entry is kept.")), low_rank=False, random=True,
)  # fmt: skip
