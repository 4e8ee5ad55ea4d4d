"""Soft OSRM: OSRM's objective after training, on the adapters as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from ..features.moments import Features
from ..methods.base import Param, check_params
from .base import Plugin, Updates, modules_of

RIDGE = 1e-6


SOFT_OSRM_PARAMS = (
    Param(
        "mu",
        "Soft OSRM μ",
        0.0,
        2.0,
        0.05,
        0.3,
        "How much the other tasks' features count. 0 changes nothing, 1 is RegMean.",
        open_above=True,
    ),
    Param(
        "ridge",
        "Ridge",
        0.0,
        1.0,
        1e-6,
        RIDGE,
        "Added to every second moment, as a share of its mean eigenvalue.",
        open_above=True,
    ),
)


@dataclass(frozen=True)
class SoftOSRM:
    """Strength ``mu`` of soft OSRM and the ``ridge`` on every second moment, as a share of its mean eigenvalue."""

    mu: float = 0.3
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        check_params("soft_osrm", SOFT_OSRM_PARAMS, {"mu": self.mu, "ridge": self.ridge})


def soft_osrm(updates: Updates, features: Features, tasks: Sequence[str], options: SoftOSRM) -> Updates:
    """Turn each adapter's A away from the other tasks' features, without training (post-hoc OSRM).

    A_t' = A_t G_t (G_t + mu sum_{j != t} G_j)^-1 minimises E_t ||(A' - A_t) h||^2 + mu sum_{j != t} E_j ||A' h||^2:
    keep what the adapter does on its own texts, do little on the others'. It keeps B and the rank. With mu = 1 the sum
    over tasks is RegMean on the updates; its relatives are SSR-Merge (that regression inside what all A read), IterIS
    and LoRM (iterated, at a fixed rank). It needs k unlabelled texts per task; G_t are second moments of the base
    model's features plus a ridge; without one, texts that leave a direction empty are refused.

    References
    ----------
    Ours, after the objective of Zhang & Zhou (OSRM), ACL 2025, arXiv 2505.22934.
    """
    result: Updates = [dict(update) for update in updates]
    source = None
    for module in modules_of(updates):
        if source is None or features.shared.get(module, module) != source:
            # query, key and value of a layer read one tensor: its moments and their factors serve all three
            source = features.shared.get(module, module)
            moments = [ridged(features, task, module, options.ridge) for task in tasks]
            total = torch.stack(moments).sum(0)
            factors = [_cholesky(G + options.mu * (total - G), module) for G in moments]
        for i, update in enumerate(updates):
            if module in update:
                low = update[module]
                # X = A G D^-1 with symmetric D = L L^T: solve D X^T = G A^T
                A = torch.cholesky_solve(moments[i] @ low.A.double().T, factors[i]).T
                result[i][module] = LowRank(low.B, A.to(low.A.dtype))
    return result


def _cholesky(D: torch.Tensor, module: str) -> torch.Tensor:
    factor, failed = torch.linalg.cholesky_ex(D)
    if bool(failed):
        raise MergeError(f"soft_osrm: the texts leave directions at {module} without any energy: give a ridge above 0.")
    lower: torch.Tensor = factor
    return lower


def ridged(features: Features, task: str, module: str, ridge: float = RIDGE) -> torch.Tensor:
    """Return the token second moment of a task at a module plus ``ridge`` times its mean eigenvalue, (in, in)
    float64."""
    G = features.second_moment(task, module)
    return G + ridge * G.trace() / len(G) * torch.eye(len(G), dtype=G.dtype)


SOFT_OSRM = Plugin(
    "soft_osrm",
    "Soft OSRM (post-hoc)",
    "after Zhang & Zhou, ACL 2025, arXiv 2505.22934",
    SOFT_OSRM_PARAMS,
    soft_osrm,
    frozenset({"data"}),
)
