"""Figures 1a, 1b and 5: full fine-tunes of the same tasks on the same rows, from the same heads, beside the LoRAs.

The learning rate is the one thing that differs, by necessity: the full one is the best on validation out of a short
list, after few rows. Since magnitudes may depend on it, their variance is given at every rate of the list.

References
----------
Zheng et al., DO-Merging, arXiv 2505.15875; the variance's formula was not found, see
`merging.diagnostics.measures.magnitude_variance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd

from ...adapters.adapter import METADATA_FILE, Adapter
from ...diagnostics.measures import log_column_norms, magnitude_variance
from ...methods import METHODS
from ...plugins.decouple import Decouple, decouple
from ..sweep import ALONE
from .bench import Bench, Lines, Subject, Unit
from .geometry import truncated
from .training import settings_for, train, training_units

QUANTILES = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Where the distributions of column norms are kept: 0.05, 0.10 .. 0.95."""
FULL = "full"


def lora_units(bench: Bench) -> Iterator[Unit]:
    """Return the LoRA side of figure 1a, and the variance of every shipped pool for 1b: nothing of it needs
    training."""
    plan = bench.plan
    for pool in bench.whole_pools:
        yield Unit(f"variance-{pool}", partial(_variance, bench, pool), partial(_has_variance, bench, pool))
    if plan.lora_pool in bench.whole_pools:
        yield from method_units(bench, plan.lora_pool, [*plan.methods])


def _variance(bench: Bench, pool: str) -> Lines:
    bench.ledger.append("variance", variance_rows(pool, bench.pool(pool), decoupled=True))
    yield f"variance of {pool}"


def _has_variance(bench: Bench, source: str) -> bool:
    return not bench.ledger.lacks("variance", source=source)


def full_units(bench: Bench) -> list[Unit]:
    """Return the choice of the learning rate, the full fine-tunes, and what is measured of them.

    Tables: ``rates``, ``runs``, ``variance``, ``columns`` (quantiles of log10 column norms), ``methods`` (set, rank;
    rank 0 = as trained), ``truncation`` (rank) and ``truncation_energy``.
    """
    plan = bench.plan
    choice = [_choice(bench, rate, task) for rate in plan.rates for task in plan.tasks]
    # what is made from the trained set; when it is all there, the set is needed no more
    ready = partial(bench.has, FULL)
    measured = [
        Unit(
            "ends-full",
            partial(bench.ends, FULL, partial(bench.made, FULL)),
            lambda: not bench.ledger.lacks("ends", set=FULL),
            ready,
        ),
        Unit("variance-full", partial(_full_magnitudes, bench), partial(_has_variance, bench, FULL), ready),
        *(replace(unit, ready=ready) for unit in method_units(bench, FULL, [*plan.methods])),
        *(replace(unit, ready=ready) for unit in _truncation_units(bench)),
    ]
    chosen = [
        replace(unit, ready=lambda: all(made.done() for made in choice))
        for unit in training_units(
            bench,
            FULL,
            lambda task: settings_for(bench, task, learning_rate=ranked_rates(bench)[0]),
            measured,
            full=True,
        )
    ]
    return [*choice, *chosen, *measured]


def method_units(bench: Bench, name: str, methods: Sequence[str]) -> Iterator[Unit]:
    """Return figure 1a on one set. DO-Merging takes full fine-tunes truncated: full matrices cannot be orthogonal to
    each other.
    """
    for method in methods:
        rank = bench.plan.do_rank if name == FULL and method == "do_merging" else 0
        # the singular values of eight full matrices side by side take most of a minute
        once = name == FULL and METHODS[method].low_rank
        subject, key = Subject(cache(partial(_set, bench, name, rank)), method, once=once), {"set": name, "rank": rank}
        yield Unit(
            f"methods-{name}-{method}",
            partial(bench.swept, "methods", subject, key),
            partial(bench.is_swept, "methods", subject, key),
        )


def _set(bench: Bench, name: str, rank: int = 0) -> list[Adapter]:
    adapters = bench.made(name) if name == FULL else bench.pool(name)
    return [truncated(adapter, rank)[0] for adapter in adapters] if rank else adapters


def _truncation_units(bench: Bench) -> Iterator[Unit]:
    for rank in bench.plan.truncations:
        make = cache(partial(_set, bench, FULL, rank))
        subjects = [Subject(make, method) for method in ("task_arithmetic", "do_merging")]
        yield Unit(
            f"truncation-{rank}", partial(_truncation, bench, rank, subjects),
            partial(_truncation_done, bench, rank, subjects),
        )  # fmt: skip


def _truncation(bench: Bench, rank: int, subjects: Sequence[Subject]) -> Lines:
    """Truncate every full fine-tune to one rank, note the energy kept, and measure alone and merged."""
    if bench.ledger.lacks("truncation_energy", rank=rank):
        kept = [(rank, adapter.task, truncated(adapter, rank)[1]) for adapter in bench.made(FULL)]
        bench.ledger.append("truncation_energy", pd.DataFrame(kept, columns=["rank", "task", "energy"]))
    yield from bench.alone("truncation", subjects[0].adapters, {"rank": rank})
    for subject in subjects:
        yield from bench.swept("truncation", subject, {"rank": rank})


def _truncation_done(bench: Bench, rank: int, subjects: Sequence[Subject]) -> bool:
    lacking = bench.ledger.lacks("truncation_energy", rank=rank) or bench.ledger.lacks(
        "truncation", rank=rank, method=ALONE
    )
    return not lacking and all(bench.is_swept("truncation", subject, {"rank": rank}) for subject in subjects)


def _choice(bench: Bench, rate: float, task: str) -> Unit:
    """Return the unit that fine-tunes one task in full at one rate on few rows."""
    plan = bench.plan
    name, source = f"choice-{rate:g}", f"{FULL}, lr {rate:g}, {plan.choice_rows:,} rows"
    settings = replace(
        settings_for(bench, task, learning_rate=rate), rows=plan.choice_rows, validation_rows=plan.choice_validation
    )

    def work() -> Lines:
        if not (bench.folder(name, task) / METADATA_FILE).exists():
            yield from train(bench, name, task, settings, full=True)
        if bench.ledger.lacks("rates", learning_rate=rate, task=task):
            accuracy = Adapter.load(bench.folder(name, task)).metadata.validation_accuracy
            row = {
                "learning_rate": rate,
                "task": task,
                "rows": settings.rows,
                "epochs": settings.epochs,
                "validation": accuracy,
            }
            bench.ledger.append("rates", pd.DataFrame([row]))
        if bench.has(name) and not _has_variance(bench, source):
            bench.ledger.append("variance", variance_rows(source, bench.made(name)))

    return Unit(f"{name}-{task}", work, lambda: not bench.ledger.lacks("rates", learning_rate=rate, task=task))


def ranked_rates(bench: Bench) -> list[float]:
    """Return the learning rates by mean validation accuracy over tasks, best first; the smaller one where two are
    equal.
    """
    table = bench.ledger.table("rates")
    means = {rate: float(table[np.isclose(table.learning_rate, rate)].validation.mean()) for rate in bench.plan.rates}
    return sorted(means, key=lambda rate: (-means[rate], rate))


def _full_magnitudes(bench: Bench) -> Lines:
    adapters = bench.made(FULL)
    if bench.ledger.table("columns").empty:
        bench.ledger.append("columns", column_quantiles(adapters))
    bench.ledger.append("variance", variance_rows(FULL, adapters))
    yield f"variance of {FULL}"


def variance_rows(source: str, adapters: Sequence[Adapter], decoupled: bool = False) -> pd.DataFrame:
    """Return `magnitude_variance` of a set: source, module, variance, norm_ratio; and once more after full decoupling,
    if asked.
    """
    tables = [magnitude_variance(adapters).assign(source=source)]
    if decoupled:
        equalised = decouple([dict(adapter.deltas) for adapter in adapters], Decouple())
        changed = [replace(adapter, deltas=updates) for adapter, updates in zip(adapters, equalised, strict=True)]
        tables.append(magnitude_variance(changed).assign(source=f"{source}, decoupled"))
    return pd.concat(tables)[["source", "module", "variance", "norm_ratio"]]


def column_quantiles(adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Return `QUANTILES` of the log10 column norms (zero columns left out): task, module, quantile, log10_norm."""
    norms = log_column_norms(adapters)
    frames = [
        pd.DataFrame(
            {"task": task, "module": module, "quantile": QUANTILES, "log10_norm": np.quantile(group, QUANTILES)}
        )
        for (task, module), group in norms.groupby(["task", "module"], sort=False).log10_norm
    ]
    return pd.concat(frames, ignore_index=True).round({"log10_norm": 6})
