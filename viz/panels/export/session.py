"""What one visitor's page has exported: the files, which of them is of the form as it stands, and which push was
shown."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from merging.evaluation.accuracy import Estimate
from merging.evaluation.intervals import Accuracy
from merging.services.settings import Settings
from merging.services.visitor import Visitor
from viz.panels.merge.controls import Catalogue
from viz.panels.merge.session import Run, gap_of

KEPT = 3


@dataclass(frozen=True)
class Pending:
    """A push that the visitor was shown: which file, as which repository, who may see it."""

    file: Path
    target: str
    private: bool


@dataclass
class ExportSession:
    """One visitor's files; they live in the visitor's folder. ``merge`` is what the panel was last opened or written
    with."""

    number: int = 0
    files: list[Path] = field(default_factory=list)
    current: Path | None = None
    pending: Pending | None = None
    merge: Settings | None = None
    visitor: Visitor = field(default_factory=Visitor)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ExportSession":
        """Make a new visitor: Gradio copies a state's first value for every page."""
        return ExportSession()

    def next(self) -> Path:
        """Return where the next file's parts go, and drop the oldest files."""
        self.outdated()
        self.number += 1
        while len(self.files) >= KEPT:
            self.files.pop(0).unlink(missing_ok=True)
        return self.visitor.folder("export") / f"{self.number}-{secrets.token_hex(4)}"

    def take(self, file: Path) -> None:
        """Take up a file that has been written."""
        self.files.append(file)
        self.current = file

    def turn(self, merge: Settings) -> bool:
        """Note the merge that the panel is of; returns whether it is another one than before."""
        same, self.merge = self.merge == merge, merge
        return not same

    def outdated(self) -> None:
        """Note that the form has moved on: no file is of it, and no push has been shown."""
        self.current = self.pending = None

    def close(self) -> None:
        """Forget the files; the folder goes with the visitor."""
        self.outdated()


@dataclass(frozen=True)
class Measured:
    """Accuracy for the card, and what to say about it."""

    accuracy: Accuracy | None
    said: str


def measured(
    run: Run | None,
    settings: Settings,
    methods: Catalogue,
    cut: bool,
    head: str | None,
    references: pd.DataFrame | None = None,
) -> Measured:
    """Take the accuracy of the Merge tab's run for the card, if it is of exactly the merge that is exported.

    Parameters
    ----------
    cut : an adapter of a lower rank goes out, which the run did not measure
    head : the task that the export is for; a method with a merge per task has only that one's accuracy
    references : base and own adapters, see `merging.services.results`; None = no gap is told
    """
    scores: Mapping[str, Any] = run.scores if run is not None else {}
    own = "task_id" in methods[settings.spec.method].needs
    wanted = [head] if own and head else list(run.tasks) if run is not None else []
    same = run is not None and run.settings.canonical() == settings.canonical()
    if not same or any(task not in scores or not scores[task].done for task in wanted):
        return Measured(None, "Evaluate on the Merge tab first to have accuracy in the card.")
    if cut:
        return Measured(None, "The Merge tab's accuracy is of the exact merge: at a chosen rank the card has none.")
    estimates = [
        Estimate(task, score.accuracy, (score.low, score.high), score.done, score.total)
        for task, score in ((task, scores[task]) for task in wanted)
    ]
    rows = sorted({estimate.done for estimate in estimates})
    count = f"{rows[0]:,}" if len(rows) == 1 else f"{rows[0]:,} to {rows[-1]:,}"
    gap = None if references is None or len(estimates) < len(scores) else gap_of(scores, references)
    return Measured(
        Accuracy(estimates, gap), f"With the accuracy measured on the Merge tab ({count} test rows per task)."
    )
