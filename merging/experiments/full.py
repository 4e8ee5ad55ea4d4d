"""mergescope experiment full: do LoRA adapters of different tasks differ more in magnitude than full fine-tunes?

The six tasks are trained once more in full, on the modules, with the seeds, batches and heads of the shipped pool `default`, but on at
most 1,500 rows, cut at 64 tokens, for 2 epochs; LoRAs on these very rows and epochs are the controlled comparison, the shipped pools (all rows, 3
epochs) the one that a user meets. The learning rates differ by necessity: the full one is chosen on validation from a short list,
LoRA's is the pool's own. Since magnitudes may depend on it, the variance is also given at the runner-up, and at every rate of the list
on the few rows of the choice.

References
----------
Zheng et al., DO-Merging, arXiv 2505.15875, figure 1b; its formula was not found, see `merging.diagnostics.magnitude_variance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ..adapter import METADATA_FILE, Adapter, Head
from ..diagnostics import log_column_norms, magnitude_variance
from ..errors import MergeError
from ..evaluation import EncodedTask, encode_task
from ..full import full_fine_tune
from ..plugins import Decouple, decouple
from ..pools import POOLS, load_pool, settings_of
from ..search import append, measure, pack, read_table
from ..tasks import DEFAULT_TASKS, Task
from ..training import TrainingSettings, fine_tune, probe

QUANTILES = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Where the distributions of column norms are kept: 0.05, 0.10 .. 0.95."""
SETTINGS_POOL = "default"
FULL, LORA = "full", "LoRA, same rows"


@dataclass(frozen=True)
class Plan:
    """What is run; the defaults are the shipped reference.

    Attributes
    ----------
    rows, epochs : of every compared run; the rows are an upper limit, the smallest default task has fewer
    learning_rates : for the full fine-tunes; chosen by the mean validation accuracy over tasks after ``choice_epochs`` on ``choice_rows``
    test_rows : None = the whole test split
    """

    tasks: tuple[str, ...] = DEFAULT_TASKS
    rows: int = 1500
    epochs: int = 2
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    choice_rows: int = 500
    choice_epochs: int = 2
    validation_rows: int = 10_000
    test_rows: int | None = None
    max_length: int | None = 64


QUICK = Plan(
    tasks=("sms_spam", "movie"),
    rows=64,
    epochs=1,
    learning_rates=(1e-4, 1e-3),
    choice_rows=32,
    choice_epochs=1,
    validation_rows=32,
    test_rows=24,
    max_length=32,
)
"""The same from end to end in a minute: for tests, not for conclusions."""


@dataclass(frozen=True)
class Source:
    """One set of runs, a task each; ``learning_rate`` None = the pool's own, for a LoRA."""

    name: str
    folder: str
    learning_rate: float | None
    rows: int
    epochs: int


class FullReference:
    """The reference on one base model; `everything` yields a line per piece of work. Resumable: what exists is not made again.

    Tables (``full_<name>.csv``): ``learning_rate`` (validation per rate and task), ``runs`` (what was trained), ``columns`` and
    ``lora_columns`` (quantiles of log10 column norms), ``variance`` (per source and module), ``accuracy`` (base = the frozen base under
    the probe, where both trainings start).

    Parameters
    ----------
    model, tokenizer : see `merging.models.load_base`
    adapters : folder of the updates, ``<source>/<task>``
    tables : folder of the tables
    """

    def __init__(self, model: nn.Module, tokenizer: Any, plan: Plan, adapters: Path, tables: Path) -> None:
        if len(plan.tasks) < 2 or len(plan.learning_rates) < 2:
            raise MergeError("The reference compares tasks and learning rates: name two or more of each.")
        self.model, self.tokenizer, self.plan = model, tokenizer, plan
        self.adapters, self.tables = adapters, tables
        self._own = {adapter.task: settings_of(adapter.metadata) for adapter in load_pool(SETTINGS_POOL)}
        missing = [task for task in plan.tasks if task not in self._own]
        if missing:
            raise MergeError(f"The pool {SETTINGS_POOL} has no adapter of the task {missing[0]!r}, whose settings would be used.")
        self._probes: dict[tuple[str, int], Head] = {}
        self._encoded: dict[str, EncodedTask] = {}

    def everything(self) -> Iterator[str]:
        """Choose the learning rate, train, measure; the shipped pools come first, since they are there, the runner-up last."""
        plan = self.plan
        for pool in POOLS:
            if self._lacks("variance", source=pool):
                self._append("variance", variance_rows(pool, self._pool(pool), decoupled=True))
        yield from self.choose()
        best, further = self.ranked_rates()[:2]
        yield from self.train(Source(FULL, "full", best, plan.rows, plan.epochs))
        yield from self.train(Source(LORA, "lora", None, plan.rows, plan.epochs))
        for task in plan.tasks:
            yield from self._accuracy(task)
        yield from self.train(Source(f"{FULL}, lr {further:g}", f"full-{further:g}", further, plan.rows, plan.epochs))
        yield f"tables in {self.tables}"

    # -- learning rate -------------------------------------------------------------------------------------------------

    def choose(self) -> Iterator[str]:
        """Fine-tune every task in full at every rate on few rows: ``full_learning_rate.csv``."""
        for rate in self.plan.learning_rates:
            name = f"{FULL}, lr {rate:g}, {self.plan.choice_rows:,} rows"
            source = Source(name, f"choice-{rate:g}", rate, self.plan.choice_rows, self.plan.choice_epochs)
            for task in self.plan.tasks:
                if self._lacks("learning_rate", learning_rate=rate, task=task):
                    adapter = self._trained(source, task)
                    row = {
                        "learning_rate": rate, "task": task, "rows": source.rows, "epochs": source.epochs,
                        "validation": adapter.metadata["validation_accuracy"],
                    }  # fmt: skip
                    self._append("learning_rate", pd.DataFrame([row]))
                    yield f"lr {rate:g} {task}: {row['validation']:.3f} on validation, {adapter.metadata['seconds']:.0f} s"
            if self._lacks("variance", source=name):
                self._append("variance", variance_rows(name, self._set(source)))

    def ranked_rates(self) -> list[float]:
        """Return the learning rates by mean validation accuracy over tasks, best first; the smaller one where two are equal."""
        table = self.table("learning_rate")
        table = table[table.task.isin(self.plan.tasks)]
        means = {r: float(table[np.isclose(table.learning_rate, r)].validation.mean()) for r in self.plan.learning_rates}
        return sorted(means, key=lambda rate: (-means[rate], rate))

    # -- training ------------------------------------------------------------------------------------------------------

    def train(self, source: Source) -> Iterator[str]:
        """Train and test every task of a source, noted in ``full_runs.csv``, and measure their magnitudes."""
        for task in self.plan.tasks:
            if self._lacks("runs", source=source.name, task=task):
                row = self._tested(source, task)
                self._append("runs", pd.DataFrame([row]))
                yield f"{source.name} {task}: {row['correct']} of {row['total']} right on test, {row['seconds']:.0f} s"
        if self._lacks("variance", source=source.name):
            self._append("variance", variance_rows(source.name, self._set(source)))
        columns = {FULL: "columns", LORA: "lora_columns"}.get(source.name)
        if columns and self.table(columns).empty:
            self._append(columns, column_quantiles(self._set(source)))

    def _tested(self, source: Source, task: str) -> dict[str, Any]:
        adapter = self._trained(source, task)
        settings = settings_of(adapter.metadata)
        marks = self._marks(adapter)
        return {
            "source": source.name, "task": task, "learning_rate": settings.learning_rate,
            "rows": min(settings.rows, len(Task.load(task).train)), "epochs": settings.epochs, "seed": settings.seed,
            "steps": adapter.metadata["steps"]["done"], "validation": adapter.metadata["validation_accuracy"],
            "correct": marks.count("1"), "total": len(marks), "hits": pack(marks),
            "norm": sum(update.norm() ** 2 for update in adapter.deltas.values()) ** 0.5,
            "seconds": round(adapter.metadata["seconds"], 1),
        }  # fmt: skip

    def _trained(self, source: Source, task: str) -> Adapter:
        """Return the update of one task, trained now unless it is in the folder."""
        folder = self.adapters / source.folder / task
        if not (folder / METADATA_FILE).exists():
            settings = self.settings(source, task)
            head = self._probe(task, settings)
            loaded = Task.load(task)
            run = (
                fine_tune(self.model, self.tokenizer, loaded, settings, head=head)
                if source.learning_rate is None
                else full_fine_tune(self.model, self.tokenizer, loaded, settings, head)
            )
            *_, last = run
            assert last.adapter is not None
            replace(last.adapter, metadata=dict(last.adapter.metadata) | {"seconds": last.seconds}).save(folder)
        return Adapter.load(folder)

    def settings(self, source: Source, task: str) -> TrainingSettings:
        """Return the shipped adapter's own settings with the source's rows, epochs and learning rate."""
        own = self._own[task]
        return replace(
            own,
            rows=source.rows,
            epochs=source.epochs,
            learning_rate=source.learning_rate or own.learning_rate,
            validation_rows=self.plan.validation_rows,
            max_length=self.plan.max_length,
        )

    def _accuracy(self, task: str) -> Iterator[str]:
        """Note base, full and LoRA on the same test rows in ``full_accuracy.csv``."""
        if not self._lacks("accuracy", task=task):
            return
        runs = self.table("runs")
        found = {
            name: runs[(runs.source == source) & (runs.task == task)].iloc[0] for name, source in (("full", FULL), ("lora", LORA))
        }
        source = Source(LORA, "lora", None, self.plan.rows, self.plan.epochs)
        start = Adapter("base", {}, task=task, head=self._probe(task, self.settings(source, task)))
        correct = {"base": self._marks(start).count("1")} | {name: int(run.correct) for name, run in found.items()}
        total = int(found["full"].total)
        shares = {name: count / total for name, count in correct.items()}
        counts = {f"{name}_correct": count for name, count in correct.items()}
        self._append("accuracy", pd.DataFrame([{"task": task, **shares, **counts, "total": total}]))
        yield f"{task}: base {shares['base']:.3f}, full {shares['full']:.3f}, LoRA {shares['lora']:.3f}"

    # -- shared --------------------------------------------------------------------------------------------------------

    def table(self, name: str) -> pd.DataFrame:
        """Return ``full_<name>.csv`` as far as it is."""
        return read_table(self.tables / f"full_{name}.csv")

    def _set(self, source: Source) -> list[Adapter]:
        return [self._trained(source, task) for task in self.plan.tasks]

    def _pool(self, name: str) -> list[Adapter]:
        return [adapter for adapter in load_pool(name) if adapter.task in self.plan.tasks]

    def _probe(self, task: str, settings: TrainingSettings) -> Head:
        if (task, settings.rows) not in self._probes:
            self._probes[task, settings.rows] = probe(self.model, self.tokenizer, Task.load(task), settings)
        return self._probes[task, settings.rows]

    def _marks(self, adapter: Adapter) -> str:
        task = adapter.task
        if task not in self._encoded:
            limit, length = self.plan.test_rows, self.plan.max_length
            self._encoded[task] = encode_task(self.tokenizer, Task.load(task), "test", limit, length)
        return measure(self.model, self.tokenizer, adapter, [self._encoded[task]])[task]

    def _lacks(self, name: str, **key: Any) -> bool:
        table = self.table(name)
        for column, value in key.items():
            if table.empty:
                return True
            # a float may come back from a file one bit off
            same = np.isclose(table[column], value) if isinstance(value, float) else table[column] == value
            table = table[same]
        return bool(table.empty)

    def _append(self, name: str, rows: pd.DataFrame) -> None:
        append(self.tables / f"full_{name}.csv", rows)


def variance_rows(source: str, adapters: Sequence[Adapter], decoupled: bool = False) -> pd.DataFrame:
    """Return `magnitude_variance` of a set: source, module, variance, norm_ratio; and once more after full decoupling, if asked."""
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
        pd.DataFrame({"task": task, "module": module, "quantile": QUANTILES, "log10_norm": np.quantile(group, QUANTILES)})
        for (task, module), group in norms.groupby(["task", "module"], sort=False).log10_norm
    ]
    return pd.concat(frames, ignore_index=True).round({"log10_norm": 6})
