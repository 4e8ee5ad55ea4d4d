"""What one visitor has done on the OSRM panel: the plan that is looked at, a training, the sets of adapters it made."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from merging.services.plan import Plan, Trained
from merging.services.visitor import Visitor
from viz.panels.merge.session import Score

SETS = 8
"""Sets that a visitor can keep; the oldest goes."""


@dataclass
class Training:
    """One training, filled in while it runs."""

    plan: Plan
    root: Path
    state: str = "waiting"  # waiting, reading, running, done, stopped, failed
    read: tuple[int, int] = (0, 0)
    last: Trained | None = None
    finished: list[Trained] = field(default_factory=list)
    error: str = ""
    _steps: list[tuple[str, int, float]] = field(default_factory=list, repr=False)
    _epochs: list[tuple[str, int, float, float, float]] = field(default_factory=list, repr=False)

    def take(self, event: Trained) -> bool:
        """Take an event up; tell whether it says more than another step."""
        self.last = event
        if event.folder is not None:
            self.finished.append(event)
        elif event.validation is not None and event.drift is not None:
            self._epochs.append((event.task, event.step, event.validation, *event.drift))
        else:
            self._steps.append((event.task, event.step, event.loss))
            return len(self._steps) == 1
        return True

    @property
    def steps(self) -> pd.DataFrame:
        """`task`, `step`, `loss`."""
        return pd.DataFrame(self._steps, columns=["task", "step", "loss"])

    @property
    def epochs(self) -> pd.DataFrame:
        """`task`, `step`, `validation`, `frobenius`, `procrustes`."""
        return pd.DataFrame(self._epochs, columns=["task", "step", "validation", "frobenius", "procrustes"])

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in {"waiting", "reading", "running"}

    @property
    def stop_file(self) -> Path:
        """A file that means stop: on a borrowed GPU the training is in another process, which shares the disk and no
        more.
        """
        return self.root / "stop"

    def cancel(self) -> None:
        """Let the training end at its next step; what is done is kept."""
        if self.running and self.root.exists():  # a visitor who has left took it along
            self.stop_file.touch()

    @property
    def cancelled(self) -> bool:
        """Whether the visitor has stopped it, or left."""
        return self.stop_file.exists() or not self.root.exists()


@dataclass
class TrainedSet:
    """A finished set of adapters: a row of the visitor's table, and a pool of the Merge panel.

    `merged` holds the scores by λ and task, as far as they have been measured.
    """

    key: str
    number: int
    plan: Plan
    root: Path
    adapters: list[Trained]
    drifts: dict[str, tuple[float, float]]
    merged: dict[float, dict[str, Score]] = field(default_factory=dict)

    @property
    def folders(self) -> dict[str, str]:
        """{task: folder}."""
        return {trained.task: str(trained.folder) for trained in self.adapters}

    @property
    def single(self) -> float:
        """Average accuracy of the adapters alone."""
        return sum(trained.single or 0.0 for trained in self.adapters) / len(self.adapters)

    def complete(self, scaling: float) -> bool:
        """Tell whether the merge at λ has been measured on all rows."""
        scores = self.merged.get(scaling, {})
        return len(scores) == len(self.adapters) and all(score.done == score.total for score in scores.values())


class OsrmSession:
    """State of the tab on one page."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "OsrmSession":
        """Make a new visitor: Gradio copies a state's first value for every page."""
        return OsrmSession()

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.part: tuple[str, str, str] = ("", "", "")
        self.looked = 0  # counts the visitor's moves, so that older work sees that it is out of date
        self.stopped = False  # reading, by the visitor
        self.refused = False  # the last file that was to be a task
        self.reading: tuple[int, int] | None = None
        self.error = ""
        self.training: Training | None = None
        self.sets: list[TrainedSet] = []
        self.scaling = 0.5
        self.made = 0
        self.measuring = 0  # counts measurements: a newer one replaces an older
        self.question, self.figure = "", ""  # what is seen; nothing was picked yet
        self.sent: dict[str, Any] = {}
        self.visitor = Visitor()  # the page puts the tabs' common one in its place

    def move(self) -> int:
        """Count a move of the visitor."""
        self.looked += 1
        return self.looked

    def keep(self, training: Training) -> TrainedSet | None:
        """Turn a training into a set, if it has made an adapter."""
        if not training.finished:
            return None
        self.made += 1
        epochs = training.epochs.set_index("task")[["frobenius", "procrustes"]]
        drifts = {t.task: tuple(epochs.loc[[t.task]].iloc[-1]) for t in training.finished if t.task in epochs.index}
        new = TrainedSet(
            f"{self.visitor.key}-set{self.made}", self.made, training.plan, training.root, training.finished, drifts
        )
        self.sets.append(new)
        return new

    def drop_oldest(self) -> TrainedSet | None:
        """Forget the oldest set if there are too many, with its files."""
        if len(self.sets) <= SETS:
            return None
        old = self.sets.pop(0)
        shutil.rmtree(old.root, ignore_errors=True)
        return old

    def changed(self, **values: str) -> dict[str, str]:
        """Keep those values that differ from what the page already shows, and note that they are being sent."""
        news = {name: value for name, value in values.items() if self.sent.get(name) != value}
        self.sent.update(news)
        return news

    def close(self) -> None:
        """Stop what runs."""
        self.looked += 1
        if self.training is not None:
            self.training.cancel()
