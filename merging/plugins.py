"""Plug-ins: they change the updates before any method merges them. Order: soft OSRM, orthogonalize, decouple."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

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
"""A column whose norm is below this share of its adapter's largest has no direction, only round-off."""
GRANULARITIES = ("column", "module")


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
class Decouple:
    """How to give all tasks the same magnitude; all four choices are ours, the paper's own were not found.

    Attributes
    ----------
    strength : γ from 0 (off, whatever the others say) to 1 (equal magnitudes)
    granularity : what has one magnitude: "column", as the paper's overview figure has it, or "module" (Frobenius norm)
    max_up : no update is amplified by more than this factor, at least 1; None or inf = no limit, 1 = magnitudes only shrink
    renormalise : the sum of the directions is brought to length 1 before it gets its magnitude, so that directions that agree or cancel
        change nothing of its size. Not subject to ``max_up``.
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


def decouple(updates: Updates, options: Decouple) -> Updates:
    """Give all tasks the same magnitude in every column and keep their directions (DO-Merging's decoupling).

    A column is what one input feature contributes. With α_i its norm in adapter i and ᾱ the mean of α over the adapters in
    which it is alive, column j of adapter i is multiplied by (ᾱ / α_i)^γ: γ = 0 changes nothing, γ = 1 equalises fully. In
    exact low-rank form: A_i diag((ᾱ / α_i)^γ). Full equalisation can also hurt an adapter whose large norm carries its
    skill, hence the strength.

    Ours are: the mean ᾱ; the strength γ; the granularity (one α per column, or one per module); the limit max_up on
    (ᾱ / α_i)^γ, since a column that is nearly silent is mostly noise; and renormalise, which multiplies column j of every
    adapter by (ᾱ / ||s_j||)^γ, where s_j is the sum of the adapters' columns after the step above (before weights and λ).
    At γ = 1 the column of a sum with weights 1 then has exactly the norm λ ᾱ. Where the adapters' B are orthogonal, s_j has
    the norm ᾱ sqrt(T): renormalising is the sum over sqrt(T), or the mean times sqrt(T).

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
    Param("strength", "Strength γ", 0.0, 1.0, 0.05, 1.0, "0 keeps every magnitude, 1 gives all tasks the same one. (Ours.)"),
    Param("granularity", "One magnitude per", default="column", choices=GRANULARITIES,
          help="What is made equal: the norm of every column (input feature), as in the paper's figure, or of every module. (Ours.)"),
    Param("max_up", "Amplify at most", 1.0, 20.0, 0.5, None,
          "No update is made larger by more than this factor; 1 = magnitudes only shrink. (Ours.)", optional=True, open_above=True),
    Param("renormalise", "Renormalise the sum", default=False,
          help="Bring the sum of the directions to length 1 before it gets its magnitude: its best λ is about sqrt(T) times larger. (Ours.)"),
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
