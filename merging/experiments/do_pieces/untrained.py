"""Figures 1c, 3a, 3b, 4a and 4b: what can be measured on the shipped pools without any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import pandas as pd

from ...adapters.adapter import Adapter
from ...diagnostics.measures import magnitude_variance
from ..sweep import ALONE
from .bench import Bench, Key, Lines, Subject, Unit
from .geometry import aligned, layout_of, nudged, scaled, with_updates

NOBODY = "none"
"""What stands in the column scaled where every adapter is as it was trained."""
COMPONENTS: dict[str, dict[str, Any]] = {
    "none": {"orthogonalize": "off", "decouple": 0.0},
    "orthogonalize": {"orthogonalize": "balanced", "decouple": 0.0},
    "decouple": {"orthogonalize": "off", "decouple": 1.0},
    "both": {"orthogonalize": "balanced", "decouple": 1.0},
}
"""DO-Merging's components as plug-ins: keyword arguments of `merging.merge`."""
IMBALANCE = {
    "task_arithmetic": {},
    "decouple": {"decouple": 1.0},
    "do_merging": {},
}
"""What figure 1c merges with."""


def ends_unit(bench: Bench, pool: str) -> Unit:
    """Return the unit that measures the base and each adapter alone of a shipped pool."""
    return Unit(
        f"ends-{pool}",
        lambda: bench.ends(pool, lambda: bench.pool(pool)),
        lambda: not bench.ledger.lacks("ends", set=pool),
    )


def descent_units(bench: Bench, pool: str) -> Iterator[Unit]:
    """Return figures 3a and 3b: the orthogonal descent stopped early, each adapter alone and the merge of all.

    Tables ``descent`` and ``descent_geometry``: pool, penalty, steps. 0 steps stand there once, under the penalty 0.
    """
    plan = bench.plan
    stops = [(0.0, 0)] if 0 in plan.steps else []
    for penalty, steps in (*stops, *((p, s) for p in plan.penalties for s in plan.steps if s)):
        key = {"pool": pool, "penalty": penalty, "steps": steps}
        make = cache(partial(_nudged, bench, pool, penalty, steps))
        yield _changed(bench, "descent", f"descent-{pool}-{penalty:g}-{steps}", pool, make, key)


def _nudged(bench: Bench, pool: str, penalty: float, steps: int) -> list[Adapter]:
    return nudged(bench.pool(pool), penalty, steps)


def direction_units(bench: Bench, pool: str) -> Iterator[Unit]:
    """Return figure 4b: directions turned towards each other. Tables ``directions`` and ``directions_geometry``: pool,
    side, strength.
    """
    for side in bench.plan.sides:
        for strength in bench.plan.strengths:
            key = {"pool": pool, "side": side, "strength": strength}
            make = cache(partial(_aligned, bench, pool, side, strength))
            methods = ("task_arithmetic", "do_merging")
            yield _changed(bench, "directions", f"directions-{pool}-{side}-{strength:g}", pool, make, key, methods)


def _aligned(bench: Bench, pool: str, side: str, strength: float) -> list[Adapter]:
    adapters = bench.pool(pool)
    return with_updates(adapters, aligned([dict(adapter.deltas) for adapter in adapters], strength, side))


def _changed(
    bench: Bench,
    table: str,
    name: str,
    pool: str,
    make: Callable[[], Sequence[Adapter]],
    key: Key,
    methods: Sequence[str] = ("task_arithmetic",),
) -> Unit:
    """Return the unit of one changed set: how its updates lie, each alone, and merges at the fixed scalings."""
    geometry = f"{table}_geometry"

    def work() -> Lines:
        if bench.ledger.lacks(geometry, **key):
            bench.ledger.append(geometry, pd.DataFrame([dict(key) | layout_of(make(), bench.pool(pool))]))
        yield from bench.alone(table, make, key)
        for method in methods:
            yield from bench.tested(table, Subject(make, method), key)

    def done() -> bool:
        lacking = bench.ledger.lacks(geometry, **key) or bench.ledger.lacks(table, **key, method=ALONE)
        return not lacking and bench.is_tested(table, methods, key)

    return Unit(name, work, done)


def imbalance_units(bench: Bench) -> Iterator[Unit]:
    """Return figure 1c: one adapter scaled, and the pools as they are, whose budgets differ.

    Tables ``imbalance`` (pool, scaled, factor, variant; the variant "alone" is of the scaled adapter only) and
    ``imbalance_geometry`` (variance over squared mean and norm ratio, averaged over modules).
    """
    plan = bench.plan
    sets = [(pool, NOBODY, 1.0) for pool in bench.whole_pools]
    if plan.imbalance_pool in bench.whole_pools:
        sets += [(plan.imbalance_pool, task, factor) for task in plan.imbalance_tasks for factor in plan.factors]
    for pool, task, factor in sets:
        yield _imbalance(bench, pool, task, factor)


def _imbalance(bench: Bench, pool: str, task: str, factor: float) -> Unit:
    key = {"pool": pool, "scaled": task, "factor": factor}

    def make() -> list[Adapter]:
        return scaled(bench.pool(pool), task, factor)

    def work() -> Lines:
        if bench.ledger.lacks("imbalance_geometry", **key):
            spread = magnitude_variance(make())
            row = dict(key) | {"variance": spread.variance.mean(), "norm_ratio": spread.norm_ratio.mean()}
            bench.ledger.append("imbalance_geometry", pd.DataFrame([row]))
        if task != NOBODY:
            yield from bench.alone("imbalance", lambda: [a for a in make() if a.task == task], key | {"variant": ALONE})
        for name, plugins in IMBALANCE.items():
            host = "task_arithmetic" if name == "decouple" else name
            yield from bench.tested("imbalance", Subject(make, host, plugins), key | {"variant": name})

    def done() -> bool:
        if bench.ledger.lacks("imbalance_geometry", **key):
            return False
        if task != NOBODY and bench.ledger.lacks("imbalance", **key, variant=ALONE):
            return False
        return all(
            bench.is_tested("imbalance", ["task_arithmetic" if n == "decouple" else n], key | {"variant": n})
            for n in IMBALANCE
        )

    return Unit(f"imbalance-{pool}-{task}-{factor:g}", work, done)


def component_units(bench: Bench, pool: str) -> Iterator[Unit]:
    """Return figure 4a: each component in front of every method. Table ``components``: pool, component."""
    for method in bench.plan.hosts.get(pool, ()):
        for component, plugins in COMPONENTS.items():
            subject = Subject(partial(bench.pool, pool), method, plugins)
            key = {"pool": pool, "component": component}
            yield Unit(
                f"components-{pool}-{method}-{component}",
                partial(bench.swept, "components", subject, key),
                partial(bench.is_swept, "components", subject, key),
            )
