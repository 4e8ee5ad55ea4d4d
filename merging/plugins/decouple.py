"""Decouple: magnitude and direction apart, as DO-Merging has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from ..adapters.lowrank import LowRank
from ..methods.base import Param, check_params
from .base import DO_PAPER, Plugin, Updates, modules_of

DEAD_COLUMN = 1e-6
"""A column whose norm is below this share of its adapter's largest has no direction, only round-off."""


GRANULARITIES = ("column", "module")


DECOUPLE_PARAMS = (
    Param(
        "strength",
        "Strength γ",
        0.0,
        1.0,
        0.05,
        1.0,
        "0 keeps every magnitude, 1 gives all tasks the same one. (Ours.)",
    ),
    Param(
        "granularity",
        "One magnitude per",
        default="column",
        choices=GRANULARITIES,
        help="What is made equal: the norm of every column (input feature), as in the paper's figure, or of every "
        "module. (Ours.)",
    ),
    Param(
        "max_up",
        "Amplify at most",
        1.0,
        20.0,
        0.5,
        None,
        "No update is made larger by more than this factor; 1 = magnitudes only shrink. (Ours.)",
        optional=True,
        open_above=True,
    ),
    Param(
        "renormalise",
        "Renormalise the sum",
        default=False,
        help="Bring the sum of the directions to length 1 before it gets its magnitude: its best λ is about sqrt(T) "
        "times larger. (Ours.)",
    ),
)


@dataclass(frozen=True)
class Decouple:
    """How to give all tasks the same magnitude; all four choices are ours, the paper's own were not found.

    Attributes
    ----------
    strength : γ from 0 (off, whatever the others say) to 1 (equal magnitudes)
    granularity : what has one magnitude: "column", as the paper's overview figure has it, or "module" (Frobenius norm)
    max_up : no update is amplified by more than this factor, at least 1; None or inf = no limit, 1 = magnitudes only
        shrink
    renormalise : the sum of the directions is brought to length 1 before it gets its magnitude, so that directions that
        agree or cancel change nothing of its size. Not subject to ``max_up``.
    """

    strength: float = 1.0
    granularity: str = "column"
    max_up: float | None = None
    renormalise: bool = False

    def __post_init__(self) -> None:
        if self.max_up == math.inf:
            object.__setattr__(self, "max_up", None)
        check_params("decouple", DECOUPLE_PARAMS, asdict(self))

    @property
    def words(self) -> str:
        """The options in words, "decouple 0.5, per module"; empty where it is off."""
        said = [f"decouple {self.strength:g}"] if self.strength else []
        if said:
            said += ["per module"] if self.granularity == "module" else []
            said += [f"amplified at most {self.max_up:g} times"] if self.max_up is not None else []
            said += ["renormalised"] if self.renormalise else []
        return ", ".join(said)

    @property
    def follows_strength(self) -> bool:
        """True if the column norms of the separate updates say what any strength makes of them."""
        return (self.granularity, self.max_up, self.renormalise) == ("column", None, False)


def decouple(updates: Updates, options: Decouple) -> Updates:
    """Give all tasks the same magnitude in every column and keep their directions (DO-Merging's decoupling).

    A column is what one input feature contributes. With α_i its norm in adapter i and ᾱ the mean of α over the adapters
    in which it is alive, column j of adapter i is multiplied by (ᾱ / α_i)^γ: γ = 0 changes nothing, γ = 1 equalises
    fully. In exact low-rank form: A_i diag((ᾱ / α_i)^γ). Full equalisation can also hurt an adapter whose large norm
    carries its skill, hence the strength.

    Ours are: the mean ᾱ; the strength γ; the granularity (one α per column, or one per module); the limit max_up on
    (ᾱ / α_i)^γ, since a column that is nearly silent is mostly noise; and renormalise, which multiplies column j of
    every adapter by (ᾱ / ||s_j||)^γ, where s_j is the sum of the adapters' columns after the step above (before weights
    and λ). At γ = 1 the column of a sum with weights 1 then has exactly the norm λ ᾱ. Where the adapters' B are
    orthogonal, s_j has the norm ᾱ sqrt(T): renormalising is the sum over sqrt(T), or the mean times sqrt(T).

    References
    ----------
    Zheng et al., DO-Merging, arXiv 2505.15875; a reconstruction.
    """
    result: Updates = [dict(update) for update in updates]
    if not options.strength:
        return result
    for module in modules_of(updates):
        present = [i for i, update in enumerate(updates) if module in update]
        decoupled = _decoupled([updates[i][module] for i in present], options)
        for i, update in zip(present, decoupled, strict=True):
            result[i][module] = update
    return result


def _decoupled(updates: Sequence[LowRank], options: Decouple) -> list[LowRank]:
    """Decouple one module."""
    alpha = _magnitudes(updates, options.granularity)
    # equalising what has no direction would turn noise into signal
    alive = alive_columns(alpha)
    mean = (alpha * alive).sum(0) / alive.sum(0).clamp(min=1)
    factors = torch.where(alive, (mean / torch.where(alive, alpha, 1.0)) ** options.strength, 1.0)
    if options.max_up is not None:
        factors = factors.clamp(max=options.max_up)
    scaled = [update.scale_columns(row) for update, row in zip(updates, factors, strict=True)]
    if not options.renormalise:
        return scaled
    [total] = _magnitudes([LowRank.concat(scaled)], options.granularity)
    # what has cancelled down to round-off has no direction either
    kept = alive.any(0) & (total > DEAD_COLUMN * (alpha * factors).sum(0))
    back = torch.where(kept, (mean / torch.where(kept, total, 1.0)) ** options.strength, 1.0)
    return [update.scale_columns(back) for update in scaled]


def _magnitudes(updates: Sequence[LowRank], granularity: str) -> torch.Tensor:
    """Return the norms of the columns, (adapters, in), or of the whole updates, (adapters, 1); float64."""
    norms = torch.stack([update.column_norms() for update in updates])
    return norms if granularity == "column" else torch.linalg.vector_norm(norms, dim=1, keepdim=True)


def alive_columns(norms: torch.Tensor) -> torch.Tensor:
    """Return which columns have a direction, from the column norms (adapters, in) of one module."""
    return norms > DEAD_COLUMN * norms.amax(1, keepdim=True)


DECOUPLE = Plugin("decouple", "Decouple magnitude", DO_PAPER, DECOUPLE_PARAMS, decouple)
