"""Plug-ins: they change the updates before any method merges them. Order: soft OSRM, orthogonalize, decouple."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .errors import MergeError
from .features import Features
from .lowrank import LowRank
from .methods.base import Param, check_params
from .orthogonalize import MODES, orthogonalize

Updates = list[dict[str, LowRank]]
"""Per adapter {module: update}; plug-ins map one such list to another of the same modules and shapes."""

RIDGE = 1e-6
DEAD_COLUMN = 1e-6


@dataclass(frozen=True)
class Orthogonalize:
    """How to make the adapters mutually orthogonal.

    Attributes
    ----------
    mode : "off", "balanced" (default: independent of how each product is split into B and A) or "raw" (factors as stored)
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


@dataclass(frozen=True)
class SoftOSRM:
    """Strength ``mu`` of soft OSRM and the ``ridge`` on every second moment, as a share of its mean eigenvalue."""

    mu: float = 0.3
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        check_params("soft_osrm", SOFT_OSRM_PARAMS, {"mu": self.mu, "ridge": self.ridge})


@dataclass(frozen=True)
class Plugin:
    """Description of a plug-in, with the same fields as a `Method`'s where both have them."""

    name: str
    title: str
    paper: str
    params: tuple[Param, ...]
    function: Callable[..., Updates]
    needs: frozenset[str] = frozenset()

    @property
    def doc(self) -> str:
        """The plug-in's page."""
        return inspect.getdoc(self.function) or ""


def soft_osrm(updates: Updates, features: Features, tasks: Sequence[str], options: SoftOSRM) -> Updates:
    """Turn each adapter's A away from the other tasks' features, without training (post-hoc OSRM).

    A_t' = A_t G_t (G_t + mu sum_{j != t} G_j)^-1 minimises E_t ||(A' - A_t) h||^2 + mu sum_{j != t} E_j ||A' h||^2: keep what the
    adapter does on its own texts, do little on the others'. It keeps B and the rank. With mu = 1 the sum over tasks
    is RegMean on the updates. It needs k unlabelled texts per task; G_t are second moments of the base model's
    features plus a ridge; without one, texts that leave a direction empty are refused.

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
    """Return the token second moment of a task at a module plus ``ridge`` times its mean eigenvalue, (in, in) float64."""
    G = features.second_moment(task, module)
    return G + ridge * G.trace() / len(G) * torch.eye(len(G), dtype=G.dtype)


def decouple(updates: Updates, strength: float) -> Updates:
    """Give all tasks the same magnitude in every column and keep their directions (DO-Merging's decoupling).

    A column is what one input feature contributes. With α_i its norm in adapter i and ᾱ the mean of α over the adapters in
    which it is alive, column j of adapter i is multiplied by (ᾱ / α_i)^γ: γ = 0 changes nothing, γ = 1 equalises fully. In
    exact low-rank form: A_i diag((ᾱ / α_i)^γ). Full equalisation can also hurt an adapter whose large norm carries its
    skill, hence the strength, which is ours.

    References
    ----------
    Zheng et al., DO-Merging, arXiv 2505.15875; a reconstruction.
    """
    result: Updates = [dict(update) for update in updates]
    for module in modules_of(updates):
        present = [i for i, update in enumerate(updates) if module in update]
        alpha = torch.stack([updates[i][module].column_norms() for i in present])  # (adapters, in)
        # a column at round-off of its own adapter has no direction; equalising it would turn noise into signal
        alive = alpha > DEAD_COLUMN * alpha.amax(1, keepdim=True)
        mean = (alpha * alive).sum(0) / alive.sum(0).clamp(min=1)
        factors = torch.where(alive, (mean / torch.where(alive, alpha, 1.0)) ** strength, 1.0)
        for i, row in zip(present, factors, strict=True):
            result[i][module] = updates[i][module].scale_columns(row)
    return result


def modules_of(updates: Sequence[Mapping[str, LowRank]]) -> list[str]:
    """Return the sorted union of all modules."""
    return sorted({module for update in updates for module in update})


ORTHOGONALIZE_PARAMS = (
    Param("penalty", "Penalty g", 0.05, 1.0, 0.05, 0.1,
          "How strongly each factor is held where it was: small g separates the tasks further and changes them more.", open_above=True, open_below=True),
    Param("steps", "Steps at most", 1, 2000, 50, 500, "Cap on the descent; it stops earlier when the loss stands still.", integer=True),
)  # fmt: skip
SOFT_OSRM_PARAMS = (
    Param("mu", "Soft OSRM μ", 0.0, 2.0, 0.05, 0.3, "How much the other tasks' features count. 0 changes nothing, 1 is RegMean.", open_above=True),
    Param("ridge", "Ridge", 0.0, 1.0, 1e-6, RIDGE, "Added to every second moment, as a share of its mean eigenvalue.", open_above=True),
)  # fmt: skip
DECOUPLE_PARAMS = (
    Param("strength", "Strength γ", 0.0, 1.0, 0.05, 1.0, "0 keeps every magnitude, 1 gives all tasks the same one."),
)  # fmt: skip
DO_PAPER = "Zheng et al., 2025, arXiv 2505.15875"

PLUGINS: dict[str, Plugin] = {
    plugin.name: plugin
    for plugin in (
        Plugin("soft_osrm", "Soft OSRM (post-hoc)", "after Zhang & Zhou, ACL 2025, arXiv 2505.22934", SOFT_OSRM_PARAMS, soft_osrm, frozenset({"data"})),
        Plugin("orthogonalize", "Orthogonalize", DO_PAPER, ORTHOGONALIZE_PARAMS, orthogonalize),
        Plugin("decouple", "Decouple magnitude", DO_PAPER, DECOUPLE_PARAMS, decouple),
    )
}  # fmt: skip
