"""Figure 4c and accuracy against epochs: LoRAs trained for this experiment; and how any set is trained, one task a
unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pandas as pd

from ...adapters.adapter import METADATA_FILE, Adapter
from ...shipped import SHIPPED
from ...tasks.task import Task
from ...training.full import full_fine_tune
from ...training.settings import TrainingSettings
from ...training.trainer import fine_tune
from .bench import Bench, Lines, Subject, Unit

METHODS = ("task_arithmetic", "do_merging")


def settings_for(bench: Bench, task: str, **changes: Any) -> TrainingSettings:
    """Return the plan's settings with the seed that the LoRA pool has for this task, so that heads and rows start
    alike.
    """
    return replace(bench.plan.training, seed=SHIPPED[bench.plan.lora_pool].seed(task), **changes)


def train(bench: Bench, name: str, task: str, settings: TrainingSettings, full: bool = False) -> Lines:
    """Train one task and keep it in the cache; checkpoints go to the sets ``<name>-<epoch>``, the end to ``<name>``
    unless there are some.

    Table ``runs``: set, task, learning_rate, rank, rows, epochs, seed, validation, norm, seconds.
    """
    run = full_fine_tune if full else fine_tune
    last: Adapter | None = None
    seconds = 0.0
    for progress in run(bench.model, bench.tokenizer, Task.load(task), settings):
        if progress.checkpoint is not None:
            progress.checkpoint.save(bench.folder(f"{name}-{progress.epoch + 1}", task))
        last, seconds = progress.adapter, progress.seconds
    assert last is not None
    if not settings.checkpoints:
        last.save(bench.folder(name, task))
    rows = min(settings.rows, len(Task.load(task).train))
    accuracy = last.metadata.validation_accuracy
    row = {
        "set": name,
        "task": task,
        "learning_rate": settings.learning_rate,
        "rank": 0 if full else settings.rank,
        "rows": rows,
        "epochs": settings.epochs,
        "seed": settings.seed,
        "validation": accuracy,
        "norm": sum(update.norm() ** 2 for update in last.deltas.values()) ** 0.5,
        "seconds": round(seconds, 1),
    }
    bench.ledger.append("runs", pd.DataFrame([row]))
    yield f"trained {name} {task}: {accuracy:.3f} on validation, {seconds:.0f} s"


def training_units(
    bench: Bench, name: str, settings: Callable[[str], TrainingSettings], measured: Sequence[Unit], full: bool = False
) -> Iterator[Unit]:
    """Return a unit per task; a set whose results are all in the tables is trained no more."""

    def done(task: str) -> bool:
        checkpoints = () if full else settings(task).checkpoints
        names = [f"{name}-{epoch}" for epoch in checkpoints] or [name]
        made = all((bench.folder(each, task) / METADATA_FILE).exists() for each in names)
        return made or all(unit.done() for unit in measured)

    def run(task: str) -> Lines:
        # the settings are asked for when it is this unit's turn: they may rest on what others have measured
        return train(bench, name, task, settings(task), full)

    for task in bench.plan.tasks:
        yield Unit(f"train-{name}-{task}", partial(run, task), partial(done, task))


def epoch_units(bench: Bench) -> list[Unit]:
    """Return accuracy against the epochs before the merge, all out of one run a task. Table ``epochs``: epochs.

    References
    ----------
    arXiv 2506.14126: long training raises single-task accuracy and degrades merging.
    """
    plan = bench.plan
    measured = [
        unit
        for epoch in plan.checkpoints
        for unit in _merged_units(bench, "epochs", f"epochs-{epoch}", {"epochs": epoch})
    ]

    def settings(task: str) -> TrainingSettings:
        return settings_for(bench, task, epochs=plan.epochs, checkpoints=plan.checkpoints)

    return [*training_units(bench, "epochs", settings, measured), *measured]


def rank_units(bench: Bench) -> list[Unit]:
    """Return figure 4c: the same training at other ranks, alpha = 2 * rank. Table ``ranks``: rank."""
    plan, units = bench.plan, []
    for rank in plan.ranks:
        if rank == plan.training.rank:
            # the pool itself is this training
            if plan.lora_pool in bench.whole_pools:
                units += _merged_units(
                    bench, "ranks", plan.lora_pool, {"rank": rank}, partial(bench.pool, plan.lora_pool)
                )
            continue
        name = f"rank-{rank}"
        measured = _merged_units(bench, "ranks", name, {"rank": rank})
        units += [*training_units(bench, name, partial(_at_rank, bench, rank), measured), *measured]
    return units


def _at_rank(bench: Bench, rank: int, task: str) -> TrainingSettings:
    return settings_for(bench, task, rank=rank, alpha=2.0 * rank)


def _merged_units(
    bench: Bench, table: str, name: str, key: dict[str, Any], adapters: Callable[[], Sequence[Adapter]] | None = None
) -> list[Unit]:
    """Return what is measured of a trained set: its ends, and the merges over λ."""
    make = adapters or cache(partial(bench.made, name))
    ready = (lambda: True) if adapters else partial(bench.has, name)
    units = [
        Unit(f"ends-{name}", partial(bench.ends, name, make), lambda: not bench.ledger.lacks("ends", set=name), ready)
    ]
    for method in METHODS:
        subject = Subject(make, method)
        units.append(
            Unit(
                f"{table}-{name}-{method}",
                partial(bench.swept, table, subject, key),
                partial(bench.is_swept, table, subject, key),
                ready,
            )
        )
    return units
