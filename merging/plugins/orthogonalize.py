"""DO-Merging's orthogonalization: nudge the adapters' factors until different tasks' factors are nearly orthogonal.

At every module, with the rows of all adapters' A stacked to V (likewise the columns of B), minimise

    L(V) = sum_{i != j} ||V_i V_j^T||_F^2 + g ||V - V0||_F^2

because <W_i, W_j>_F = tr((B_i^T B_j)(A_j A_i^T)) vanishes with either factor. Every gradient is a square matrix times
V, plus a multiple of V0, so V = C V0 all along: it is solved for the small C with the Gram matrix V0 V0^T, whatever the
layer's width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from ..methods.base import Param, check_params
from .base import DO_PAPER, Plugin, Updates

MODES = ("off", "balanced", "raw")
CHUNK = 16
"""Modules solved in one batch: enough to fill a bmm, little enough to keep the bases of a large model out of memory."""
TOLERANCE = 1e-7
"""Relative change of the loss in a step below which a module is done."""
PATIENCE = 3
"""Steps in a row that the change must stay below: momentum makes a single small one possible far from the end."""
DUPLICATE = 1e-6
ORTHOGONALIZE_PARAMS = (
    Param(
        "penalty",
        "Penalty g",
        0.05,
        1.0,
        0.05,
        0.1,
        "How strongly each factor is held where it was: small g separates the tasks further and changes them more.",
        open_above=True,
        open_below=True,
    ),
    Param(
        "steps",
        "Steps at most",
        1,
        2000,
        50,
        500,
        "Cap on the descent; it stops earlier when the loss stands still.",
        integer=True,
    ),
)


@dataclass(frozen=True)
class Orthogonalize:
    """How to make the adapters mutually orthogonal.

    Attributes
    ----------
    mode : "off", "balanced" (default: independent of how each product is split into B and A) or "raw" (factors as
        stored)
    penalty : g, how strongly each factor is held to where it was; None = 0.1 balanced, 1.0 raw
    steps : cap on the descent's steps; it stops earlier when the loss no longer changes
    """

    mode: str = "balanced"
    penalty: float | None = None
    steps: int = 500

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise MergeError(f"orthogonalize = {self.mode!r} is not one of {', '.join(MODES)}.")
        given = {"steps": self.steps} | ({} if self.penalty is None else {"penalty": self.penalty})
        check_params("orthogonalize", ORTHOGONALIZE_PARAMS, given)
        if self.penalty is not None and self.penalty < 0:
            raise MergeError(f"orthogonalize: penalty = {self.penalty} is negative; it must be at least 0.")

    @property
    def g(self) -> float:
        """The penalty in force."""
        return (1.0 if self.mode == "raw" else 0.1) if self.penalty is None else float(self.penalty)


def orthogonalize(updates: Updates, options: Orthogonalize) -> Updates:
    """Nudge A_i and B_i, separately, so that different tasks' factors become orthogonal to each other (data-free).

    L_A = sum_{i != j} ||A_i A_j^T||_F^2 + g sum_i ||A_i - A_i^0||_F^2, the same for B. Each task gives a little of its
    update for not being disturbed by the others; a smaller g separates more and changes more. Mode "balanced" first
    splits each product evenly between B and A and gives all factors norm 1, so that the result depends on the updates
    only; mode "raw" takes the factors as they are stored. Adapters of one update stay one update (the loss has a saddle
    there).

    References
    ----------
    Zheng et al., DO-Merging, arXiv 2505.15875; a reconstruction: the paper's printed loss is unbounded if taken
    literally, and the gauge, g and the solver (accelerated gradient descent on small matrices) are ours.
    """
    result = [dict(update) for update in updates]
    modules = sorted({module for update in updates for module in update})
    for start in range(0, len(modules), CHUNK):
        problems = []
        for module in modules[start : start + CHUNK]:
            present = [i for i, update in enumerate(updates) if module in update and update[module].norm() > 0]
            if len(present) > 1:
                problems += _problems(module, present, [updates[i][module] for i in present], options.mode)
        _solve_all(problems, options.g, options.steps)
        halves: dict[str, dict[str, list[Tensor]]] = defaultdict(dict)
        for problem in problems:
            halves[problem.module][problem.side] = problem.factors()
        by_module = {problem.module: problem.adapters for problem in problems}
        for module, adapters in by_module.items():
            for i, A, Bt in zip(adapters, halves[module]["A"], halves[module]["B"], strict=True):
                dtype = updates[i][module].A.dtype
                result[i][module] = LowRank(Bt.T.to(dtype), A.to(dtype))
    return result


@dataclass(eq=False)
class _Problem:
    """One side (A, or B transposed) of one module: the stacked rows V0 of all adapters, and C once it is solved."""

    module: str
    side: str
    adapters: list[int]
    ranks: tuple[int, ...]
    norms: list[Tensor]
    V0: Tensor  # (sum of ranks, width)
    gram: Tensor  # (sum of ranks, sum of ranks)
    C: Tensor

    def factors(self) -> list[Tensor]:
        rows = torch.split(self.C @ self.V0, list(self.ranks))
        return [part * norm for part, norm in zip(rows, self.norms, strict=True)]


def _problems(module: str, present: list[int], lows: Sequence[LowRank], mode: str) -> list[_Problem]:
    lows = [low.to(torch.float64) for low in lows]
    if mode == "balanced":
        lows = _merge_duplicates([low.balanced() for low in lows])
    result = []
    for side in ("A", "B"):
        parts = [low.A if side == "A" else low.B.T for low in lows]
        norms = [torch.linalg.matrix_norm(p) if mode == "balanced" else torch.ones((), dtype=p.dtype) for p in parts]
        V0 = torch.cat([p / norm for p, norm in zip(parts, norms, strict=True)])
        gram = V0 @ V0.T
        result.append(
            _Problem(
                module, side, present, tuple(len(p) for p in parts), norms, V0, gram, torch.eye(len(V0), dtype=V0.dtype)
            )
        )
    return result


def _merge_duplicates(lows: list[LowRank]) -> list[LowRank]:
    """Give updates of one direction the very same factors: between two of them the loss has a saddle that amplifies
    round-off.
    """
    norms = [low.norm() for low in lows]
    result = list(lows)
    for i in range(len(lows)):
        for j in range(i):
            if lows[i].rank == lows[j].rank:
                distance = LowRank.concat([lows[i] * (1 / norms[i]), lows[j] * (-1 / norms[j])]).norm()
                if distance <= DUPLICATE:
                    root = (norms[i] / norms[j]) ** 0.5
                    result[i] = LowRank(result[j].B * root, result[j].A * root)
                    break
    return result


def _solve_all(problems: Sequence[_Problem], g: float, steps: int) -> None:
    groups: dict[tuple[int, ...], list[_Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.ranks].append(problem)
    for ranks, group in groups.items():
        for problem, C in zip(group, descend(torch.stack([p.gram for p in group]), ranks, g, steps), strict=True):
            problem.C = C


def descend(G: Tensor, ranks: Sequence[int], g: float, steps: int) -> Tensor:
    """Minimise L(C V0) over a batch of stacked factors by Nesterov's accelerated gradient, monotone by restarts.

    Parameters
    ----------
    G : Tensor, shape (batch, n, n), float64: V0 V0^T, n the sum of ``ranks``
    ranks : rows of each adapter
    g : penalty
    steps : cap; each problem of the batch stops by itself, so that its result does not depend on its neighbours

    Returns
    -------
    C, of the shape of G
    """
    owner = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
    cross = (owner[:, None] != owner[None, :]).to(G)
    start = torch.eye(G.shape[1], dtype=G.dtype).expand_as(G)
    step = 1.0 / (8.0 * torch.linalg.matrix_norm(G, ord=2) + 2.0 * g)[:, None, None]

    def loss(C: Tensor, CG: Tensor) -> Tensor:
        return ((CG @ C.mT * cross) ** 2).sum((1, 2)) + g * ((CG - G) * (C - start)).sum((1, 2))

    # C G goes along with C: it is linear in C, so that a look ahead costs no product
    C = look = start
    CG = look_G = G
    momentum = torch.ones(len(G), dtype=G.dtype)
    value = loss(C, CG)
    # what is orthogonal already must come back unchanged, not polished at the level of round-off
    active = value > torch.finfo(G.dtype).eps * G.diagonal(dim1=1, dim2=2).sum(1) ** 2
    calm = torch.zeros(len(G), dtype=torch.long)
    for _ in range(steps):
        if not bool(active.any()):
            break
        gradient = 4.0 * (look_G @ look.mT * cross) @ look + 2.0 * g * (look - start)
        candidate = look - step * gradient
        candidate_G = candidate @ G
        new_value = loss(candidate, candidate_G)
        better = (new_value < value) & active
        restart = ~better & active
        grown = (1.0 + (1.0 + 4.0 * momentum**2).sqrt()) / 2.0
        ahead = ((momentum - 1.0) / grown)[:, None, None]
        small = value - new_value <= TOLERANCE * value
        calm = torch.where(better & small, calm + 1, torch.zeros_like(calm))
        # a plain step (momentum 1) that does not lower the loss is at the floor of the arithmetic
        finished = (calm >= PATIENCE) | (restart & (momentum == 1.0))
        take, back = better[:, None, None], restart[:, None, None]
        look = torch.where(take, candidate + ahead * (candidate - C), torch.where(back, C, look))
        look_G = torch.where(take, candidate_G + ahead * (candidate_G - CG), torch.where(back, CG, look_G))
        C, CG = torch.where(take, candidate, C), torch.where(take, candidate_G, CG)
        value = torch.where(better, new_value, value)
        momentum = torch.where(better, grown, torch.ones_like(momentum))
        active = active & ~finished
    return C


def nudges(before: Sequence[Mapping[str, LowRank]], after: Sequence[Mapping[str, LowRank]]) -> list[float]:
    """Return per adapter ||W' - W||_F / ||W||_F over all modules: what the plug-in cost each task."""
    result = []
    for old, new in zip(before, after, strict=True):
        moved = sum(
            LowRank.concat([new[m].to(torch.float64), old[m].to(torch.float64) * -1.0]).norm() ** 2 for m in old
        )
        whole = sum(update.norm() ** 2 for update in old.values())
        result.append((moved / whole) ** 0.5 if whole else 0.0)
    return result


ORTHOGONALIZE = Plugin("orthogonalize", "Orthogonalize", DO_PAPER, ORTHOGONALIZE_PARAMS, orthogonalize)
