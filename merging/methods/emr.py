"""EMR: elect one unified update, then give every task its own mask and rescaling of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .base import Method, Stack
from .sparsify import merge_by_rows


def emr(stack: Stack, task: str, rescalers: dict[str, float]) -> Tensor:
    """Elect, Mask and Rescale: one shared update, and per task a mask of signs and one number.

    With δ_t = w_t B_t A_t: γ = sign(sum_t δ_t) (0 counts as -); the unified update takes in every entry γ times the
    largest |δ_t| that agrees with γ; task t uses λ_t (δ_t γ > 0) * unified, with λ_t = sum_n mean|δ_t| / sum_n
    mean|masked unified| over all modules n. Nearly as good as the adapters themselves, because it needs to know the
    task at inference and keeps a full-size mask for each: not one merged model, and not an adapter.

    References
    ----------
    Huang et al., "EMR-Merging: Tuning-Free High-Performance Model Merging", NeurIPS 2024, arXiv 2405.17461.
    """
    place = stack.tasks.index(task)
    if stack.updates[place] is None:
        return torch.zeros(stack.shape, dtype=stack.dtype)
    row = stack.present.index(place)

    def combine(parts: Tensor, weights: Tensor) -> Tensor:
        unified, masks = elect_unified(parts * weights[:, None, None])
        return unified * masks[row]

    return merge_by_rows(stack, [_as_is] * len(stack.present), combine, rescalers[task])


def elect_unified(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Return (unified update, masks): parts (T, ..) to (..) and (T, ..) bool."""
    gamma = torch.where(parts.sum(0) > 0, 1.0, -1.0).to(parts)
    masks = parts * gamma > 0
    return gamma * (parts.abs() * masks).amax(0), masks


def rescalers(stacks: Callable[[], Iterator[Stack]]) -> dict[str, Any]:
    """Return {"rescalers": {task: λ_t}}: the size of the task's own update over that of its masked unified one."""
    own: dict[str, float] = {}
    masked: dict[str, float] = {}
    for stack in stacks():
        numel = stack.shape[0] * stack.shape[1]
        names = [stack.tasks[i] for i in stack.present]

        def measure(parts: Tensor, weights: Tensor, names: list[str] = names, numel: int = numel) -> Tensor:
            weighted = parts * weights[:, None, None]
            unified, masks = elect_unified(weighted)
            for name, part, mask in zip(names, weighted, masks, strict=True):
                own[name] = own.get(name, 0.0) + float(part.abs().sum()) / numel
                masked[name] = masked.get(name, 0.0) + float((unified * mask).abs().sum()) / numel
            return unified

        merge_by_rows(stack, [_as_is] * len(names), measure, 1.0)
    return {"rescalers": {name: own[name] / masked[name] if masked[name] else 0.0 for name in own}}


def _as_is(x: Tensor) -> Tensor:
    return x


EMR = Method(
    "emr", "EMR (task known)", "Huang et al., NeurIPS 2024, arXiv 2405.17461", "full", emr,
    needs=frozenset({"task_id"}), prepare=rescalers, low_rank=False,
)  # fmt: skip
