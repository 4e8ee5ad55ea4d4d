"""mergescope experiment osrm: how much of OSRM's gain is its subspace, and how much is that each task has an own A?

Six ways to start A, otherwise equal runs: PEFT's default and random orthonormal rows, each with one seed for all tasks and with
an own seed per task; OSRM from full second moments and as released (task means). Every set of adapters is merged with the
same methods at the scaling that is best on validation, and compared on the same test rows.

Every table is long, is appended to as results come, and is valid while incomplete; what exists is not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ..adapter import METADATA_FILE, Adapter, Head
from ..diagnostics import interference
from ..errors import MergeError
from ..evaluation import EncodedTask, encode_task
from ..features import Features, collect_features
from ..intervals import Values, average
from ..search import CONTENDERS, append, as_rows, best_scalings, grid, measure, pack, read_table, unpack
from ..tasks import DEFAULT_TASKS, Task
from ..training import TrainingSettings, fine_tune, osrm_start, probe, target_names

METHODS_COMPARED = ("task_arithmetic", "ties", "regmean", "emr", "do_merging", "soft_osrm")


@dataclass(frozen=True)
class Variant:
    """One way to start A."""

    name: str
    title: str
    init: str
    shared_seed: bool = False
    pooling: str = "token"

    def seed(self, task: int, repetition: int) -> int:
        """Return the seed of the run of one task (its place) in one repetition."""
        return 1000 * (repetition + 1) + (0 if self.shared_seed else task + 1)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("default_shared", "PEFT default, one seed", "default", shared_seed=True),
        Variant("default_own", "PEFT default, own seeds", "default"),
        Variant("orthonormal_shared", "random orthonormal, one seed", "orthonormal", shared_seed=True),
        Variant("orthonormal_own", "random orthonormal, own seeds", "orthonormal"),
        Variant("osrm", "OSRM, full second moment", "osrm"),
        Variant("osrm_official", "OSRM, as released", "osrm", pooling="official"),
    )
}


@dataclass(frozen=True)
class Experiment:
    """What is run; the defaults are the shipped experiment.

    Attributes
    ----------
    training : everything but init and seed, which the variants set
    learning_rates : further axis, with ``axis_variants`` in the first repetition only
    """

    tasks: tuple[str, ...] = tuple(DEFAULT_TASKS)
    variants: tuple[str, ...] = tuple(VARIANTS)
    repetitions: tuple[int, ...] = (0, 1)
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(epochs=2, rows=1000, validation_rows=300, learning_rate=4e-3, max_length=64)
    )
    methods: tuple[str, ...] = METHODS_COMPARED
    scalings: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.3)
    validation_rows: int = 100
    test_rows: int = 400
    learning_rates: tuple[float, ...] = (2e-3,)
    axis_variants: tuple[str, ...] = ("default_shared", "orthonormal_own", "osrm")

    @property
    def counts(self) -> tuple[int, ...]:
        """2, 3 .. all tasks."""
        return tuple(range(2, len(self.tasks) + 1))


QUICK = Experiment(
    tasks=("sms_spam", "movie"),
    repetitions=(0,),
    training=TrainingSettings(epochs=1, rows=96, validation_rows=32, learning_rate=2e-3, max_length=32, k=10),
    methods=("task_arithmetic", "regmean"),
    scalings=(0.4, 1.0),
    validation_rows=16,
    test_rows=24,
    learning_rates=(4e-3,),
    axis_variants=("osrm",),
)
"""The same from end to end in a minute or two: for tests, not for conclusions."""


class OsrmExperiment:
    """The experiment on one base model; `everything` yields a line per piece of work.

    Parameters
    ----------
    model, tokenizer : see `merging.models.load_base`
    adapters : folder of the trained adapters, ``<variant>/<repetition>/<task>``
    tables : folder of the tables ``osrm_*.csv``
    """

    def __init__(self, model: nn.Module, tokenizer: Any, experiment: Experiment, adapters: Path, tables: Path) -> None:
        if len(set(experiment.tasks)) != len(experiment.tasks) or len(experiment.tasks) < 2:
            raise MergeError("The experiment needs two or more different tasks: OSRM keeps each task's A away from the others'.")
        self.model, self.tokenizer, self.experiment = model, tokenizer, experiment
        self.adapters, self.tables = adapters, tables
        self.modules = target_names(model, experiment.training.modules)
        self._features: dict[int, Features] = {}
        self._probes: dict[str, Head] = {}
        self._encoded: dict[tuple[str, str], EncodedTask] = {}

    def everything(self) -> Iterator[str]:
        """Train and merge, one repetition after the other and the further axis last; the summaries are written after each."""
        further: list[tuple[str, float | None]] = [
            (name, rate) for rate in self.experiment.learning_rates for name in self.experiment.axis_variants
        ]
        start: list[tuple[str, float | None]] = [(name, None) for name in self.experiment.variants]
        parts = [(repetition, start) for repetition in self.experiment.repetitions]
        if 0 in self.experiment.repetitions:
            parts.append((0, further))
        for repetition, planned in parts:
            # a set whose results are all in the tables needs its adapters no more
            sets = [
                (name, rate)
                for name, rate in planned
                if not self._finished(axis_name(name, rate), repetition, fewer=rate is None)
            ]
            yield from self.train(sets, repetition)
            for name, rate in sets:
                yield from self.merges(axis_name(name, rate), repetition, fewer=rate is None)
            summarise(self.tables)
        yield f"tables in {self.tables}"

    # -- training ------------------------------------------------------------------------------------------------------

    def train(self, sets: Sequence[tuple[str, float | None]], repetition: int) -> Iterator[str]:
        """Fine-tune the adapters of (variant, learning rate or None) that are not there yet, noted in ``osrm_runs.csv``."""
        for place, task in enumerate(self.experiment.tasks):
            for name, rate in sets:
                variant = VARIANTS[name]
                settings = replace(
                    self.experiment.training,
                    init=variant.init,
                    pooling=variant.pooling,
                    seed=variant.seed(place, repetition),
                    learning_rate=rate or self.experiment.training.learning_rate,
                )
                yield from self._run(axis_name(name, rate), repetition, task, settings)

    def _run(self, variant: str, repetition: int, task: str, settings: TrainingSettings) -> Iterator[str]:
        folder = self.folder(variant, repetition, task)
        if not (folder / METADATA_FILE).exists():
            features = self.features(settings.k) if settings.init == "osrm" else None
            start = osrm_start(features, task, settings, self.modules) if features else None
            *_, last = fine_tune(self.model, self.tokenizer, Task.load(task), settings, start, self._probe(task))
            assert last.adapter is not None
            replace(last.adapter, metadata=dict(last.adapter.metadata) | {"seconds": last.seconds}).save(folder)
        if self._lacks("runs", variant=variant, repetition=repetition, task=task):
            adapter = Adapter.load(folder)
            [marks] = measure(self.model, self.tokenizer, adapter, [self.encoded(task, "test")]).values()
            drift = adapter.metadata["drift"]
            row = {
                "variant": variant, "repetition": repetition, "task": task, "seed": settings.seed,
                "learning_rate": settings.learning_rate, "validation": adapter.metadata["validation_accuracy"],
                "correct": marks.count("1"), "total": len(marks), "hits": pack(marks),
                "drift_frobenius": drift["frobenius"], "drift_procrustes": drift["procrustes"],
                "norm": sum(update.norm() ** 2 for update in adapter.deltas.values()) ** 0.5,
                "seconds": round(adapter.metadata["seconds"], 1), "settings": json.dumps(asdict(settings)),
            }  # fmt: skip
            self._append("runs", pd.DataFrame([row]))
            yield f"{variant} {repetition} {task}: {row['correct']} of {row['total']} right alone, {row['seconds']:.0f} s"

    def features(self, k: int) -> Features:
        """Return the features of the first ``k`` training texts of each task."""
        if k not in self._features:
            texts = {task: Task.load(task).train.texts[:k] for task in self.experiment.tasks}
            length = self.experiment.training.max_length or 128
            self._features[k] = collect_features(
                self.model, self.tokenizer, texts, k, self.modules, max_length=length, keep_tokens=False
            )
        return self._features[k]

    # -- merging -------------------------------------------------------------------------------------------------------

    def merges(self, variant: str, repetition: int, fewer: bool) -> Iterator[str]:
        """Merge one set of adapters: sweep on validation, test at the best scaling, interference, and ``fewer`` tasks."""
        adapters = [Adapter.load(self.folder(variant, repetition, task)) for task in self.experiment.tasks]
        key = {"variant": variant, "repetition": repetition}
        if self._lacks("interference", **key):
            measured = interference(adapters, self.features(self.experiment.training.k))
            pairs = measured.groupby(["source", "target"], sort=False).ratio.mean().reset_index()
            self._append("interference", pairs.assign(**key))
        for method in self.experiment.methods:
            yield from self._sweep(adapters, method, key)
        if fewer:
            yield from self._fewer(adapters, key)

    def _sweep(self, adapters: Sequence[Adapter], method: str, key: Mapping[str, Any]) -> Iterator[str]:
        for scaling in grid(method, self.experiment.scalings):
            if self._lacks("sweep", **key, method=method, scaling=scaling):
                marks = self._merge(adapters, method, scaling, "validation")
                self._append("sweep", as_rows(marks, method, scaling).drop(columns="hits").assign(**key))
        best = self._best(method, key)
        if self._lacks("test", **key, method=method, scaling=best):
            rows = as_rows(self._merge(adapters, method, best, "test"), method, best)
            self._append("test", rows.assign(**key))
            yield f"{key['variant']} {key['repetition']} {method} at {best:g}: {(rows.correct / rows.total).mean():.3f}"

    def _fewer(self, adapters: Sequence[Adapter], key: Mapping[str, Any]) -> Iterator[str]:
        """Merge the first 2, 3 .. tasks at the scaling that was best for all of them."""
        for method in self.experiment.methods:
            best = self._best(method, key)
            for count in self.experiment.counts:
                if self._lacks("tasks", **key, method=method, count=count):
                    rows = as_rows(self._merge(adapters[:count], method, best, "validation"), method, best)
                    self._append("tasks", rows.drop(columns="hits").assign(**key, count=count))
                    yield f"{key['variant']} {key['repetition']} {method}, {count} tasks: {(rows.correct / rows.total).mean():.3f}"

    def _merge(self, adapters: Sequence[Adapter], method: str, scaling: float, split: str) -> dict[str, str]:
        contender = CONTENDERS[method]
        features = self.features(self.experiment.training.k) if "data" in contender.needs else None
        tasks = [self.encoded(adapter.task, split) for adapter in adapters]
        return measure(self.model, self.tokenizer, contender.merge(adapters, scaling, features), tasks)

    def _best(self, method: str, key: Mapping[str, Any]) -> float:
        table = self.table("sweep")
        mine = table[(table.variant == key["variant"]) & (table.repetition == key["repetition"]) & (table.method == method)]
        return best_scalings(mine)[method]

    # -- shared --------------------------------------------------------------------------------------------------------

    def folder(self, variant: str, repetition: int, task: str) -> Path:
        """Return where one adapter is kept."""
        return self.adapters / variant / str(repetition) / task

    def table(self, name: str) -> pd.DataFrame:
        """Return ``osrm_<name>.csv`` as far as it is."""
        return read_table(self.tables / f"osrm_{name}.csv")

    def encoded(self, task: str, split: str) -> EncodedTask:
        """Return a split of a task, tokenised once."""
        if (task, split) not in self._encoded:
            limit = self.experiment.test_rows if split == "test" else self.experiment.validation_rows
            loaded = Task.load(task)
            self._encoded[task, split] = encode_task(self.tokenizer, loaded, split, limit, self.experiment.training.max_length)
        return self._encoded[task, split]

    def _probe(self, task: str) -> Head:
        if task not in self._probes:
            self._probes[task] = probe(self.model, self.tokenizer, Task.load(task), self.experiment.training)
        return self._probes[task]

    def _finished(self, variant: str, repetition: int, fewer: bool) -> bool:
        key = {"variant": variant, "repetition": repetition}
        lacking = [self._lacks("runs", **key, task=task) for task in self.experiment.tasks]
        lacking += [self._lacks("interference", **key)]
        lacking += [self._lacks("test", **key, method=method) for method in self.experiment.methods]
        if fewer:
            counts = [(method, count) for method in self.experiment.methods for count in self.experiment.counts]
            lacking += [self._lacks("tasks", **key, method=method, count=count) for method, count in counts]
        return not any(lacking)

    def _lacks(self, name: str, **key: Any) -> bool:
        table = self.table(name)
        for column, value in key.items():
            if table.empty:
                return True
            table = table[table[column] == value]
        return bool(table.empty)

    def _append(self, name: str, rows: pd.DataFrame) -> None:
        append(self.tables / f"osrm_{name}.csv", rows)


EFFECTS = {
    "own A instead of one seed (PEFT default)": ("default_own", "default_shared"),
    "own A instead of one seed (orthonormal)": ("orthonormal_own", "orthonormal_shared"),
    "orthonormal instead of PEFT default (own seeds)": ("orthonormal_own", "default_own"),
    "OSRM's subspace instead of a random one (own, orthonormal)": ("osrm", "orthonormal_own"),
    "OSRM against the usual baseline (PEFT default, one seed)": ("osrm", "default_shared"),
    "OSRM as released instead of a random subspace": ("osrm_official", "orthonormal_own"),
    "OSRM as released against the usual baseline": ("osrm_official", "default_shared"),
}
"""What is compared with what: each line changes one thing, but for the two against the usual baseline."""


def summarise(tables: Path) -> None:
    """Write averages per variant and method, and the paired differences of `EFFECTS`, from the tables on disk.

    Intervals (95 %) are bootstrapped over the test rows of each task, averaged over the repetitions that there are (``n``).
    """
    tested = read_table(tables / "osrm_test.csv")
    runs = read_table(tables / "osrm_runs.csv").assign(method="single-task")
    both = pd.concat([frame[["variant", "repetition", "method", "task", "total", "hits"]] for frame in (runs, tested)])
    complete = both.groupby(["variant", "repetition", "method"]).task.transform("nunique") == both.task.nunique()
    both = both[complete]
    summary, effects = [], []
    for method in both.method.unique():
        mine = both[both.method == method]
        for variant in mine.variant.unique():
            marks = _marks(mine[mine.variant == variant])
            summary.append((variant, method, len(marks), *average(dict(enumerate(_mean(marks))))))
        for effect, (variant, reference) in EFFECTS.items():
            one, other = (_marks(mine[mine.variant == name]) for name in (variant, reference))
            shared = sorted(one.keys() & other.keys())
            if shared:
                differences = {r: {task: one[r][task] - other[r][task] for task in one[r]} for r in shared}
                effects.append((effect, variant, reference, method, len(shared), *average(dict(enumerate(_mean(differences))))))
    columns = ["method", "n", "average", "low", "high"]
    pd.DataFrame(summary, columns=["variant", *columns]).to_csv(tables / "osrm_summary.csv", index=False)
    columns = ["effect", "variant", "reference", "method", "n", "difference", "low", "high"]
    pd.DataFrame(effects, columns=columns).to_csv(tables / "osrm_effects.csv", index=False)


Marks = dict[str, Values]


def _marks(rows: pd.DataFrame) -> dict[int, Marks]:
    """Return {repetition: {task: 1.0 or 0.0 per row}}."""
    found: dict[int, Marks] = {}
    for row in rows.itertuples():
        found.setdefault(int(row.repetition), {})[str(row.task)] = unpack(row.hits, row.total)
    return found


def _mean(repetitions: Mapping[int, Marks]) -> list[Values]:
    """Return, per task, the mean over repetitions of every row."""
    every = list(repetitions.values())
    return [np.mean([marks[task] for marks in every], axis=0) for task in every[0]]


def axis_name(variant: str, learning_rate: float | None) -> str:
    """Return what a variant is called in the tables, at another learning rate than the experiment's if one is given."""
    return variant if learning_rate is None else f"{variant}@{learning_rate:g}"
