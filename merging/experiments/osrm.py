"""mergescope experiment osrm: of what OSRM gains over its own baseline, how much is scale, how much an own A, how much
the data?

Eight ways to start A (`merging.training.variants`), otherwise equal runs, in several repetitions. Every set of adapters
is merged with the same methods over a grid of scalings on validation, and tested at 0.3, at 1 and at its best. Then
further axes, each on one pair of arms and in the first repetition only: number of tasks, k, rank, epochs, frozen A.

Tables (``osrm_<name>.csv``) are long and whole while incomplete; what is in them is not done again, and several
processes share the work: each skips what another one is at. See `merging.experiments.osrm_summary` for what is made of
them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ..adapters.adapter import METADATA_FILE, Adapter
from ..adapters.metadata import read_metadata
from ..diagnostics.measures import interference
from ..errors import MergeError
from ..evaluation.accuracy import EncodedTask, encode_task, own_head
from ..features.moments import Features
from ..io.assets import assets_folder
from ..models.layers import target_names
from ..shipped import collect_for_osrm, settings_of
from ..tasks.task import Task
from ..training.lora import osrm_start, starting_A
from ..training.settings import TrainingSettings
from ..training.trainer import fine_tune
from ..training.variants import VARIANTS
from .ledger import Ledger
from .osrm_plan import ARM, AdapterSet, Experiment
from .osrm_summary import summarise
from .sweep import ALONE, BASE, CONTENDERS, as_rows, best_scalings, grid, measure, scalings_on_test


class OsrmExperiment:
    """The experiment on one base model; `everything` yields a line per piece of work.

    Parameters
    ----------
    model, tokenizer : see `merging.models.load.load_base`
    adapters : folder of the trained adapters, ``<variant>[@<axis>=<value>]/<repetition>/<task>``
    tables : folder of the tables: ``runs``, ``interference``, ``sweep`` (validation), ``test`` (with the base under the
        adapters' heads and each adapter alone) and the summaries
    pools : folder of the shipped pools, from which adapters with the very settings of a run are taken; None =
        assets/adapters
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        experiment: Experiment,
        adapters: Path,
        tables: Path,
        pools: Path | None = None,
    ) -> None:
        if len(set(experiment.tasks)) != len(experiment.tasks) or len(experiment.tasks) < 2:
            raise MergeError(
                "The experiment needs two or more different tasks: OSRM keeps each task's A away from the others'."
            )
        self.model, self.tokenizer, self.experiment = model, tokenizer, experiment
        self.adapters, self.pools = adapters, pools or assets_folder() / "adapters"
        self.ledger = Ledger(tables, "osrm")
        # claims leave files behind, which have no place among the tables
        self.claims = Ledger(adapters / "claims", "osrm")
        self.modules = target_names(model, experiment.training.modules)
        self._features: dict[int, Features] = {}
        self._encoded: dict[tuple[str, str], EncodedTask] = {}

    def everything(self) -> Iterator[str]:
        """Train, merge and summarise whatever is lacking and not claimed by another process."""
        busy = True
        while busy:  # once more: what another process held then may be free now
            busy = False
            for sets in self.experiment.parts():
                for which in sets:
                    for line in self.work(which):
                        busy = True
                        yield line
                if busy:
                    summarise(self.ledger)
        summarise(self.ledger)
        lacking = sum(not self.finished(which) for sets in self.experiment.parts() for which in sets)
        more = f", without {lacking} sets that other processes are at" if lacking else ""
        yield f"tables in {self.ledger.folder}{more}"

    def work(self, which: AdapterSet) -> Iterator[str]:
        """Train what one set lacks, then merge it if it is whole."""
        if self.finished(which):  # its adapters are needed no more
            return
        for task in self.experiment.tasks_of(which):
            with self.claims.claim(f"train {_run(which)} {task}") as mine:
                if mine:
                    yield from self._train(which, task)
        if all(self._trained(which, task) for task in self.experiment.tasks_of(which)):
            yield from self._merges(which)

    def finished(self, which: AdapterSet) -> bool:
        """Tell whether everything about a set is in the tables."""
        if which.axis == ARM and self.ledger.lacks("interference", **which.key):
            return False
        tasks = self.experiment.tasks_of(which)
        if which.axis != "tasks" and any(self.ledger.lacks("runs", **which.key, task=task) for task in tasks):
            return False
        return not any(self._missing(which, method) for method in self.experiment.methods_of(which))

    # -- training ------------------------------------------------------------------------------------------------------

    def folder(self, which: AdapterSet, task: str) -> Path:
        """Return where one adapter is, or is to be kept: that of a shipped pool, if it was trained in the very same
        way.
        """
        pool = VARIANTS[which.variant].pool
        metadata = self.pools / str(pool) / task / METADATA_FILE
        if (
            pool
            and metadata.exists()
            and settings_of(read_metadata(metadata, str(metadata))) == self.experiment.settings(which, task)
        ):
            return metadata.parent
        return self.adapters / which.name / task

    def _trained(self, which: AdapterSet, task: str) -> bool:
        there = (self.folder(which, task) / METADATA_FILE).exists()
        return there and (which.axis == "tasks" or not self.ledger.lacks("runs", **which.key, task=task))

    def _train(self, which: AdapterSet, task: str) -> Iterator[str]:
        """Fine-tune one adapter that is not there yet, and note in ``osrm_runs.csv`` what it can do alone."""
        settings, folder = self.experiment.settings(which, task), self.folder(which, task)
        start = osrm_start(self.features(settings.k), task, settings, self.modules) if settings.init == "osrm" else None
        if not (folder / METADATA_FILE).exists():
            for progress in fine_tune(self.model, self.tokenizer, Task.load(task), settings, start):
                if progress.checkpoint is not None:
                    at = replace(which, value=float(progress.epoch + 1))
                    _save(progress.checkpoint, self.folder(at, task), progress.seconds)
            if not settings.checkpoints:
                assert progress.adapter is not None
                _save(progress.adapter, folder, progress.seconds)
        if which.axis != "tasks" and self.ledger.lacks("runs", **which.key, task=task):
            row = self._run_row(which, task, settings, starting_A(self.model, settings, start))
            self.ledger.append("runs", pd.DataFrame([row]))
            yield (
                f"{which} {task}: {row['correct']} of {row['total']} right alone, {row['base_correct']} with its "
                "head only"
            )

    def _run_row(
        self, which: AdapterSet, task: str, settings: TrainingSettings, A: Mapping[str, Any]
    ) -> dict[str, Any]:
        adapter = Adapter.load(self.folder(which, task))
        encoded, heads = [self.encoded(task, "test")], {task: own_head(adapter)}
        right = {}
        for name, subject in ((BASE, None), (ALONE, adapter)):
            marks = measure(self.model, self.tokenizer, subject, encoded, bf16=True, heads=heads)
            right[name] = marks[task].count("1")
            if self.ledger.lacks("test", **which.key, method=name, task=task):
                self.ledger.append("test", as_rows(marks, name, 0.0).assign(**which.key))
        noted, norms = adapter.metadata, [float(rows.norm(dim=1).mean()) for rows in A.values()]
        relative = list(noted.relative_norms.values())
        return which.key | {
            "task": task,
            "seed": settings.seed,
            "validation": noted.validation_accuracy,
            "correct": right[ALONE],
            "base_correct": right[BASE],
            "total": len(encoded[0].labels),
            "drift_frobenius": noted.drift and noted.drift.frobenius,
            "drift_procrustes": noted.drift and noted.drift.procrustes,
            "norm": sum(update.norm() ** 2 for update in adapter.deltas.values()) ** 0.5,
            "relative_norm": sum(relative) / len(relative),
            "row_norm": sum(norms) / len(norms),
            "seconds": round(noted.seconds, 1) if noted.seconds is not None else float("nan"),
            "settings": json.dumps(asdict(settings)),
        }

    def features(self, k: int) -> Features:
        """Return the features of the first ``k`` training texts of each task."""
        if k not in self._features:
            settings = replace(self.experiment.training, k=k)
            self._features[k] = collect_for_osrm(self.model, self.tokenizer, self.experiment.tasks, settings)
        return self._features[k]

    # -- merging -------------------------------------------------------------------------------------------------------

    def _merges(self, which: AdapterSet) -> Iterator[str]:
        """Merge one set with every method, and measure the interference of an arm."""
        adapters = [Adapter.load(self.folder(which, task)) for task in self.experiment.tasks_of(which)]
        if which.axis == ARM:
            with self.claims.claim(f"interference {which.name}") as mine:
                if mine and self.ledger.lacks("interference", **which.key):
                    measured = interference(adapters, self.features(self.experiment.training.k))
                    pairs = measured.groupby(["source", "target"], sort=False).ratio.mean().reset_index()
                    self.ledger.append("interference", pairs.assign(**which.key))
        for method in self.experiment.methods_of(which):
            with self.claims.claim(f"merge {which} {method}") as mine:
                if mine:
                    yield from self._sweep(which, adapters, method)

    def _sweep(self, which: AdapterSet, adapters: Sequence[Adapter], method: str) -> Iterator[str]:
        while missing := self._missing(which, method):
            split, scaling = missing[0]
            contender = CONTENDERS[method]
            features = self.features(self.experiment.training.k) if "data" in contender.needs else None
            tasks = [self.encoded(adapter.task, split) for adapter in adapters]
            merged = contender.merge(adapters, scaling, features)
            rows = as_rows(measure(self.model, self.tokenizer, merged, tasks, bf16=True), method, scaling)
            kept = rows if split == "test" else rows.drop(columns="hits")
            self.ledger.append("test" if split == "test" else "sweep", kept.assign(**which.key))
            if split == "test":
                yield f"{which} {method} at {scaling:g}: {(rows.correct / rows.total).mean():.3f}"

    def _missing(self, which: AdapterSet, method: str) -> list[tuple[str, float]]:
        """Return the (split, scaling) that the tables lack: the grid on validation, and then the tested ones."""
        key = which.key | {"method": method}
        lacking = [
            s for s in grid(method, self.experiment.scalings) if self.ledger.lacks("sweep", **key, scaling=float(s))
        ]
        if lacking:
            return [("validation", scaling) for scaling in lacking]
        best = best_scalings(self.ledger.rows("sweep", **key))[method]
        tested = scalings_on_test(method, best)
        return [("test", scaling) for scaling in tested if self.ledger.lacks("test", **key, scaling=float(scaling))]

    def encoded(self, task: str, split: str) -> EncodedTask:
        """Return a split of a task, tokenised once."""
        if (task, split) not in self._encoded:
            limit = self.experiment.test_rows if split == "test" else self.experiment.validation_rows
            loaded = Task.load(task)
            self._encoded[task, split] = encode_task(
                self.tokenizer, loaded, split, limit, self.experiment.training.max_length
            )
        return self._encoded[task, split]


def _run(which: AdapterSet) -> str:
    """Name the training that a set comes from: all epochs come from one."""
    return f"{which.variant}@epochs/{which.repetition}" if which.axis == "epochs" else which.name


def _save(adapter: Adapter, folder: Path, seconds: float) -> None:
    replace(adapter, metadata=adapter.metadata.changed(seconds=seconds)).save(folder)
