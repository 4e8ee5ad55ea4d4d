"""compatibility(): can these adapters be merged, and what should one know before?"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from ..adapters.adapter import Adapter, number_equal_names
from ..adapters.lowrank import LowRank
from ..adapters.same_base import base_warnings, problems_of
from ..evaluation.heads import order_warnings

NORM_IMBALANCE = 10.0
SHARED_START_FACTOR = 5.0


@dataclass(frozen=True, eq=False)
class CompatibilityReport:
    """What `compatibility` found.

    Attributes
    ----------
    problems : list of str
        Each blocks a merge and says what to do.
    warnings : list of str
        What hurts merges without making them impossible.
    modules : DataFrame with a row per adapter and module
        adapter, module, rank, alpha, scaling (LoRA's own), out, in, norm (of the scaled update), relative_norm (||ΔW||
        / ||W_0||, where the adapter records it); rank 0, norm 0 and no alpha where an adapter lacks a module.
    adapters : DataFrame with a row per adapter
        adapter, task, base, rank ("8", or "4 to 16"), modules, missing, norm, relative_norm (mean
        over modules), head, prefix.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    modules: pd.DataFrame = field(default_factory=pd.DataFrame)
    adapters: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def ok(self) -> bool:
        """True if the adapters can be merged."""
        return not self.problems


def compatibility(adapters: Sequence[Adapter]) -> CompatibilityReport:
    """Check that ``adapters`` are updates of one base model, and note what is likely to hurt their merge."""
    if not adapters:
        return CompatibilityReport(problems=["No adapters given: a merge needs at least one."])
    named = number_equal_names(list(adapters))
    problems = problems_of(named)
    warnings = (
        base_warnings(named)
        + _duplicate_warnings(named)
        + _norm_warnings(named)
        + _coverage_warnings(named)
        + _trained_warnings(named)
        + order_warnings(named)
    )
    if not problems:
        warnings += _shared_start_warnings(named)
    return CompatibilityReport(problems, warnings, _module_table(named), _adapter_table(named))


def _duplicate_warnings(adapters: Sequence[Adapter]) -> list[str]:
    return [
        f"{a.name} and {b.name} are the same update: together they count twice."
        for a, b in itertools.combinations(adapters, 2)
        if a.fingerprint == b.fingerprint
    ]


def _norm_warnings(adapters: Sequence[Adapter]) -> list[str]:
    norms = {a.name: sum(u.norm() ** 2 for u in a.deltas.values()) ** 0.5 for a in adapters}
    warnings = [f"{name} is the zero update: it changes nothing." for name, norm in norms.items() if norm == 0]
    alive = {name: norm for name, norm in norms.items() if norm}
    if len(alive) > 1:
        largest, median = max(alive, key=alive.__getitem__), statistics.median(alive.values())
        smallest = min(alive, key=alive.__getitem__)
        if alive[largest] > NORM_IMBALANCE * alive[smallest]:
            warnings.append(
                f"{largest} is {alive[largest] / alive[smallest]:.0f} times as large as {smallest} (norms "
                f"{alive[largest]:.3g} and {alive[smallest]:.3g}, median {median:.3g}): it will dominate a sum; lower "
                "its weight or use Decouple."
            )
    return warnings


def _coverage_warnings(adapters: Sequence[Adapter]) -> list[str]:
    everything = {module for adapter in adapters for module in adapter.deltas}
    return [
        f"{a.name} has no update in {len(everything) - len(a.deltas)} of {len(everything)} modules, for example "
        f"{min(everything - set(a.deltas))}: it counts as zero there."
        for a in adapters
        if len(a.deltas) < len(everything)
    ]


def _trained_warnings(adapters: Sequence[Adapter]) -> list[str]:
    return [
        f"{adapter.name} holds {len(adapter.trained)} tensors whole, for example {min(adapter.trained)} (trained, or "
        "saved beside the LoRA): merging them needs the base's own values."
        for adapter in adapters
        if adapter.trained and len(adapters) > 1
    ]


def _shared_start_warnings(adapters: Sequence[Adapter]) -> list[str]:
    """Adapters that started from one random A keep most of it; overlap far above chance gives them away."""
    from .measures import chance_overlap, subspace_overlap  # noqa: PLC0415 - diagnostics needs pool's neighbours

    if len(adapters) < 2:
        return []
    frame = subspace_overlap(adapters, side="A")
    pairs = frame[frame.adapter_a < frame.adapter_b].groupby(["adapter_a", "adapter_b"]).overlap.mean()
    if pairs.empty:
        return []
    chance = chance_overlap(adapters, side="A")
    shared = pairs[pairs > max(SHARED_START_FACTOR * chance, 0.3)]
    if shared.empty:
        return []
    a, b = shared.index[0]
    return [
        f"{a} and {b} share their A subspace (overlap {shared.iloc[0]:.2f}, chance {chance:.2f}; {len(shared)} of "
        f"{len(pairs)} pairs): trained from one seed, or started where the same texts have least energy (OSRM); shared "
        "inputs let them interfere."
    ]


def _module_table(adapters: Sequence[Adapter]) -> pd.DataFrame:
    shapes = {module: update.shape for adapter in adapters for module, update in adapter.deltas.items()}
    rows = []
    for adapter in adapters:
        for module, shape in sorted(shapes.items()):
            update = adapter.deltas.get(module, LowRank.zero(shape))
            scaling = adapter.scalings.get(module, 1.0) if module in adapter.deltas else math.nan
            alpha = scaling * (math.sqrt(update.rank) if adapter.config.get("use_rslora") else update.rank)
            relative = adapter.metadata.relative_norms.get(module, math.nan if module in adapter.deltas else 0.0)
            rows.append((adapter.name, module, update.rank, alpha, scaling, *shape, update.norm(), relative))
    columns = ["adapter", "module", "rank", "alpha", "scaling", "out", "in", "norm", "relative_norm"]
    return pd.DataFrame(rows, columns=columns)


def _adapter_table(adapters: Sequence[Adapter]) -> pd.DataFrame:
    everything = {module for adapter in adapters for module in adapter.deltas}
    rows = []
    for adapter in adapters:
        ranks = {update.rank for update in adapter.deltas.values()} or {0}
        rank = f"{min(ranks)} to {max(ranks)}" if len(ranks) > 1 else f"{max(ranks)}"
        norm = math.sqrt(sum(update.norm() ** 2 for update in adapter.deltas.values()))
        head = "no head" if adapter.head is None else f"{adapter.head.kind} head"
        if adapter.head is not None and adapter.head.labels:
            head += f", {len(adapter.head.labels)} labels"
        counts = len(adapter.deltas), len(everything) - len(adapter.deltas)
        recorded = adapter.metadata.relative_norms
        relative = statistics.fmean(recorded.values()) if recorded else math.nan
        rows.append((adapter.name, adapter.task, adapter.base, rank, *counts, norm, relative, head, adapter.prefix))
    columns = [
        "adapter",
        "task",
        "base",
        "rank",
        "modules",
        "missing",
        "norm",
        "relative_norm",
        "head",
        "prefix",
    ]
    return pd.DataFrame(rows, columns=columns)
