"""The search: Optuna proposes a merge, its accuracy streams in on validation rows, and what cannot win is stopped."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import nn

from ..adapters.adapter import Adapter
from ..engine import merge_spec, plugged
from ..errors import Cancelled, MergeError
from ..evaluation.accuracy import EncodedTask, Subject, evaluate, own_head
from ..features.moments import Features
from ..plugins.base import Updates
from ..recipes.spec import MergeSpec
from .goal import Goal, as_marks
from .space import Space

HEARTBEAT = 30
"""Seconds between two signs of life of a worker; what was silent for twice as long is taken up by another one."""
KEPT_UPDATES = 8
STATES = {TrialState.COMPLETE: "measured", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class Candidate:
    """One merge that was tried.

    Attributes
    ----------
    state : "measured" on all rows, "stopped" because it could not win any more, or "failed"
    value : what the search maximises, so far
    average, worst : accuracies over tasks, of the rows seen
    rows : that were seen of all tasks together
    seconds : that it took
    """

    number: int
    spec: MergeSpec | None
    state: str
    value: float
    average: float
    worst: float
    rows: int
    seconds: float


@dataclass(eq=False)
class Search:
    """A search over the merges of some adapters, of one process; others may work on the same study.

    Attributes
    ----------
    model, tokenizer : the base; its weights are themselves again after every candidate
    tasks : validation rows, encoded; never test rows
    features : of at least ``space.start.k`` texts per task, where ``space.texts``
    tuned : merges to begin with, the best first
    storage : None = in memory; a file ending in .log is an Optuna journal; any other file an SQLite database; or a URL
        of a database. On a database, a killed worker's candidate is taken up by another one.
    """

    model: nn.Module
    tokenizer: Any
    adapters: Sequence[Adapter]
    tasks: Sequence[EncodedTask]
    space: Space
    goal: Goal
    seed: int = 0
    features: Features | None = None
    tuned: Sequence[MergeSpec] = ()
    storage: str | None = None
    name: str = "tune"
    study: Study = field(init=False)
    _updates: dict[MergeSpec, Updates] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.heads = {adapter.task: own_head(adapter) for adapter in self.adapters}
        storage, about = opened_storage(self.storage), self._about()
        try:
            study = optuna.create_study(storage=storage, study_name=self.name, direction="maximize")
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=self.name, storage=storage or "")
            if study.user_attrs.get("about", about) != about:
                raise MergeError(
                    f"The study {self.name!r} in {self.storage} is of other adapters, rows, methods or another goal: "
                    "name another one."
                ) from None
            # the same seed again would propose the same merges again
            entropy: Any = [self.seed, len(study.trials), os.getpid()]
        else:
            study.set_user_attr("about", about)
            for params in self.space.starts(len(self.adapters), self.tuned):
                study.enqueue_trial(params)
            entropy = self.seed
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        with warnings.catch_warnings():  # Optuna calls ``group`` experimental: methods have parameters of their own
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
        ask = study.ask

        def ask_alone(*args: Any, **options: Any) -> Trial:
            with alone(self.storage):
                return ask(*args, **options)

        study.ask = ask_alone  # type: ignore[method-assign]
        self.study = study

    def run(
        self, trials: int | None = None, seconds: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Candidate]:
        """Yield one candidate after the other until the study has ``trials`` of them or the ``seconds`` are over.

        Closing the generator, or ``stop`` returning True, ends the search and keeps what it found.
        """
        if trials is None and seconds is None:
            raise MergeError("A search needs an end: a number of trials, or seconds.")
        began, last = time.monotonic(), -1

        def note(_: Study, trial: FrozenTrial) -> None:
            nonlocal last
            last = trial.number

        while not stop() and (seconds is None or time.monotonic() - began < seconds):
            if trials is not None and self._count() >= trials:
                return
            try:
                self.study.optimize(lambda trial: self._measure(trial, stop), n_trials=1, callbacks=[note])
            except Cancelled:
                return
            except optuna.exceptions.UpdateFinishedTrialError:  # silent for so long that another process has taken it
                continue
            yield candidate(self.study.trials[last], self.goal)

    def table(self) -> pd.DataFrame:
        """Return every candidate so far as a row, the best first; ``pareto`` where none is better in average and worst
        task both.
        """
        return ranked(self.candidates)

    @property
    def candidates(self) -> list[Candidate]:
        """All of the study that have ended, in the order in which they were begun."""
        return [candidate(trial, self.goal) for trial in self.study.trials if trial.state in STATES]

    @property
    def best(self) -> Candidate | None:
        """The candidate that was measured on all rows and has the highest value; the earlier one of two equal ones."""
        best = self._best_trial()
        return candidate(best, self.goal) if best else None

    def subject(self, spec: MergeSpec) -> Subject | Adapter:
        """Return what is measured, and what would be exported: the merge, or the adapter of the rank that it is cut
        to.
        """
        key = spec.plug_ins
        features = self.features.first(spec.k) if self.features is not None and spec.needs_data else None
        if key not in self._updates:
            if len(self._updates) >= KEPT_UPDATES:
                self._updates.pop(next(iter(self._updates)))
            self._updates[key] = plugged(self.adapters, spec, features)
        merged = merge_spec(self.adapters, spec, features, updates=self._updates[key])
        rank = self.space.rank
        return merged if rank is None else merged.to_adapter(rank)

    def _measure(self, trial: Trial, stop: Callable[[], bool]) -> float:
        spec, began = self.space.suggest(trial, len(self.adapters)), time.monotonic()
        trial.set_user_attr("spec", spec.to_dict())
        lines = {task.name: "." * len(task.labels) for task in self.tasks}
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for same in (other for other in done if other.user_attrs["spec"] == spec.to_dict()):  # TPE may repeat itself
            trial.set_user_attr("marks", same.user_attrs["marks"])
            return same.value or 0.0
        best = self._best_trial()
        marks = as_marks(best.user_attrs["marks"]) if best else None
        steps = evaluate(self.model, self.tokenizer, self.subject(spec), self.tasks, heads=self.heads)  # type: ignore[arg-type]
        with closing(steps):  # type: ignore[type-var]
            for place, estimate in enumerate(steps, 1):
                lines[estimate.task] = estimate.marks
                if stop():
                    raise Cancelled
                if place % len(self.tasks) == 0 and marks and self.goal.hopeless(as_marks(lines), marks):
                    break
        trial.set_user_attr("marks", lines)
        trial.set_user_attr("seconds", time.monotonic() - began)
        if any("." in line for line in lines.values()):
            raise optuna.TrialPruned
        return self.goal.value(as_marks(lines))

    def _best_trial(self) -> FrozenTrial | None:
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(done, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)

    def _count(self) -> int:
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return len(self.study.get_trials(deepcopy=False, states=states))

    def _about(self) -> str:
        """Return a mark of everything on which the candidates' values depend, so that only like is compared."""
        rows = [(task.name, len(task.labels)) for task in self.tasks]
        space = self.space
        words = [a.fingerprint for a in self.adapters], rows, repr(self.goal), space.allowed, sorted(space.groups)
        options = space.start.to_dict(), space.texts, space.rank
        return hashlib.sha256(json.dumps([words, options]).encode()).hexdigest()


def alone(place: str | None) -> AbstractContextManager[Any]:
    """Return a lock between processes where a study is an SQLite file, which locks no rows: two would take one waiting
    candidate.
    """
    shared = place is not None and not place.endswith(".log") and "://" not in place
    return FileLock(f"{place}.lock") if shared else nullcontext()


def opened_storage(place: str | None) -> optuna.storages.BaseStorage | None:
    """Return where a study is kept; see `Search`."""
    if place is None:
        return None
    if place.endswith(".log"):
        return JournalStorage(JournalFileBackend(place))
    url = place if "://" in place else f"sqlite:///{Path(place).resolve()}"
    with warnings.catch_warnings():  # heartbeats are experimental in Optuna; without them nobody notices a dead worker
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _with_heartbeat(url, place)


def _with_heartbeat(url: str, place: str) -> optuna.storages.RDBStorage:
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback()

    def once(study: Study, lost: FrozenTrial) -> None:
        """Queue what a killed worker has left, unless another process has done so."""
        with alone(place):
            histories = [t.system_attrs.get("retry_history", []) for t in study.get_trials(deepcopy=False)]
            if not any(history and history[-1] == lost.number for history in histories):
                retry(study, lost)

    return optuna.storages.RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None,
        heartbeat_interval=HEARTBEAT,
        heartbeat_stale_trial_callback=once,
    )


def candidate(trial: FrozenTrial, goal: Goal) -> Candidate:
    """Return a trial as what it tried and found."""
    marks = as_marks(trial.user_attrs.get("marks", {}))
    means = [float(np.nanmean(values)) for values in marks.values()] or [float("nan")]
    noted = trial.user_attrs.get("spec")
    return Candidate(
        trial.number,
        MergeSpec.from_dict(noted) if noted else None,
        STATES.get(trial.state, "running"),
        goal.value(marks) if marks else float("nan"),
        float(np.mean(means)),
        min(means),
        sum(int(np.isfinite(values).sum()) for values in marks.values()),
        float(trial.user_attrs.get("seconds", 0.0)),
    )


def ranked(candidates: Sequence[Candidate]) -> pd.DataFrame:
    """Return candidates as a table, those measured on all rows first, the best at the top."""
    rows = [
        {"trial": c.number, "merge": c.spec.words() if c.spec else "", "state": c.state, "value": c.value}
        | {"average": c.average, "worst": c.worst, "rows": c.rows, "seconds": round(c.seconds, 2)}
        for c in sorted(candidates, key=lambda c: (c.state != "measured", -c.value, c.number))
    ]
    columns = ["trial", "merge", "state", "value", "average", "worst", "rows", "seconds"]
    table = pd.DataFrame(rows, columns=columns)
    whole = table[table.state == "measured"]
    beaten = [
        bool(
            (
                ((whole.average >= row.average) & (whole.worst > row.worst))
                | ((whole.average > row.average) & (whole.worst >= row.worst))
            ).any()
        )
        for row in whole.itertuples()
    ]
    table["pareto"] = table.trial.isin(whole.trial[[not b for b in beaten]]) if len(whole) else False
    return table
