"""What one visitor's page has done: the current run, finished runs, pins. Kept per session, never shared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import isnan, sqrt
from string import ascii_uppercase
from time import monotonic
from typing import Any

import pandas as pd

from merging.evaluation.accuracy import Estimate
from merging.evaluation.intervals import Recovered, Values, as_values, gap_recovered
from merging.features.progress import Progress
from merging.services.settings import Settings

REMEMBERED = 256
DRAG = 1.0  # seconds within which moves are one for undo
LONGEST_TITLE = 40
DRAWS = 300  # of the bootstrap behind a number that is drawn again many times a second


@dataclass(frozen=True)
class Score:
    """Accuracy of one task in one run so far; `marks` as in `merging.evaluation.accuracy.Estimate`."""

    accuracy: float
    low: float
    high: float
    done: int
    total: int
    marks: str = ""


@dataclass
class Run:
    """One merge and its accuracy on test, filled in while it is evaluated.

    `progress` is how far the work before the first estimate is, `cancelled` that the visitor wants no more of it,
    `known` that its accuracy ships or was measured for somebody else, `live` that the visitor wants it measured all the
    same, `error` why it failed, `name` the letter under which it is pinned, `title` what the visitor calls the pin,
    `seconds` how long it took here.
    """

    settings: Settings
    limit: int
    tasks: tuple[str, ...]
    label: str
    state: str = "waiting"  # waiting, running, done, stopped, failed, refused
    scores: dict[str, Score] = field(default_factory=dict)
    progress: Progress | None = None
    cancelled: bool = False
    known: bool = False
    live: bool = False
    error: str = ""
    name: str = ""
    title: str = ""
    seconds: float | None = None

    def take(self, step: Progress | Estimate) -> bool:
        """Take a step of the evaluation up; tell whether it begins a new stage."""
        before = self.stage
        if isinstance(step, Progress):
            self.progress = step
        else:
            self.progress = None
            self.scores[step.task] = Score(step.accuracy, *step.interval, step.done, step.total, step.marks)
        return self.stage != before

    @property
    def stage(self) -> str:
        """What is going on: reading, merging or evaluating."""
        return self.progress.what if self.progress else "evaluating"

    @property
    def called(self) -> str:
        """The pin's letter, and what the visitor calls it or else what it is."""
        return f"{self.name}: {self.title or self.label}"

    @property
    def scaling(self) -> float | None:
        """λ, where the method has one."""
        return self.settings.spec.scaling


@dataclass(frozen=True)
class Summary:
    """The verdict on a run, over the tasks that have an estimate; base and own adapters on the very rows of the merge.

    `recovered` is the mean share of the gap between base and own adapter (NaN where no task has a clear gap yet), over
    `counted` tasks, `low` and `high` bound the `average`.
    """

    recovered: float
    recovered_low: float
    recovered_high: float
    counted: int
    average: float
    low: float
    high: float
    base: float
    single: float
    worst: str
    worst_points: float
    tasks: int

    @property
    def certain(self) -> bool:
        """Tell whether the average is known within 2 points either way."""
        return self.high - self.low < 0.04


def on_same_rows(scores: Mapping[str, Score], references: pd.DataFrame) -> pd.DataFrame:
    """Return `references` with `base` and `single` on the rows that the run has seen, where the rows' own marks are
    known.
    """
    ends = [_Ends.of(row, scores.get(str(row.task))) for row in references.itertuples()]
    return references.assign(base=[end.base for end in ends], single=[end.single for end in ends])


@dataclass(frozen=True)
class _Ends:
    """Base and own adapter of a task beside a run's score: accuracies, and marks on the rows of the run where all three
    are known.
    """

    base: float
    single: float
    marks: tuple[Values, Values, Values] | None = None  # base, own adapter, merge

    @staticmethod
    def of(row: Any, score: Score | None) -> "_Ends":
        if score is None or not (score.marks and row.base_marks and row.single_marks):
            return _Ends(row.base, row.single)
        seen = _seen(score.marks, row.base_marks, row.single_marks)
        base, single, merged = (as_values(marks)[seen] for marks in (row.base_marks, row.single_marks, score.marks))
        return (
            _Ends(float(base.mean()), float(single.mean()), (base, single, merged))
            if seen
            else _Ends(row.base, row.single)
        )


def _gap(ends: Mapping[str, _Ends]) -> Recovered:
    marks = {task: end.marks for task, end in ends.items() if end.marks is not None}
    base, alone, merged = ({task: three[which] for task, three in marks.items()} for which in range(3))
    return gap_recovered(base, alone, merged, draws=DRAWS)


def gap_of(scores: Mapping[str, Score], references: pd.DataFrame) -> Recovered:
    """Return the gap that a run recovers, see `summarise`."""
    return _gap(_ends(scores, references.itertuples()))


def _ends(scores: Mapping[str, Score], references: Iterable[Any]) -> dict[str, _Ends]:
    return {str(row.task): _Ends.of(row, scores[str(row.task)]) for row in references if row.task in scores}


def summarise(scores: Mapping[str, Score], references: pd.DataFrame) -> Summary | None:
    """Condense a run into its verdict.

    The interval of the average adds the distances to the tasks' own bounds in squares: their texts are independent.

    Parameters
    ----------
    scores : mapping
        Task -> score; may be incomplete.
    references : DataFrame
        `task`, `base`, `single` (accuracies), `base_marks`, `single_marks` (a 1 or 0 per test row, or nothing).

    Returns
    -------
    Summary or None
        None while there is no estimate. `worst_points` is the change of the task hurt most against its own adapter, in
        percentage points (negative is a loss).
    """
    return _summarised(tuple(scores.items()), tuple(references.itertuples(index=False)))


@lru_cache(maxsize=256)  # a figure asks for the verdict on each of its runs, and everybody opens the same merge
def _summarised(known: tuple[tuple[str, Score], ...], references: tuple[Any, ...]) -> Summary | None:
    scores = dict(known)
    ends = _ends(scores, references)
    if not ends:
        return None
    mine = [scores[task] for task in ends]
    average = sum(score.accuracy for score in mine) / len(mine)
    down = sqrt(sum((score.accuracy - score.low) ** 2 for score in mine)) / len(mine)
    up = sqrt(sum((score.high - score.accuracy) ** 2 for score in mine)) / len(mine)
    change = {task: scores[task].accuracy - end.single for task, end in ends.items()}
    worst = min(change, key=lambda task: (isnan(change[task]), change[task]))
    gap = _gap(ends)
    return Summary(
        recovered=gap.mean,
        recovered_low=gap.low,
        recovered_high=gap.high,
        counted=len(gap.tasks),
        average=average,
        low=average - down,
        high=average + up,
        base=sum(end.base for end in ends.values()) / len(ends),
        single=sum(end.single for end in ends.values()) / len(ends),
        worst=worst,
        worst_points=100 * change[worst],
        tasks=len(ends),
    )


def _seen(marks: str, *known: str) -> list[int]:
    """Return the rows that a run has evaluated, as far as the others' marks are known there."""
    return [row for row, mark in enumerate(marks[: min(map(len, known))]) if mark != "."]


class Session:
    """State of one page; handlers change it in place, so a running evaluation sees at once that it is out of date."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.before: Run | None = None
        self.pins: list[Run] = []
        self.against = ""  # the pin that the current run is compared with; "" = the last one
        self.past: list[tuple[Settings, int]] = []  # what the controls said before, for undo
        self.future: list[tuple[Settings, int]] = []
        self.now: tuple[Settings, int] | None = None
        self.drag, self.moved_at = DRAG, 0.0
        self.curve: tuple[Settings, pd.DataFrame] | None = None  # a merge over λ, measured here on validation
        self.presses = 0  # of “Tune λ”: odd while it runs
        self.sent: dict[str, str] = {}
        self._drawn: dict[str, tuple[Any, ...]] = {}
        self._runs: dict[tuple[Any, ...], Run] = {}

    def start(self, key: tuple[Any, ...], run: Run) -> Run:
        """Make `run` the current one; a run with the same key that is finished or still current is taken up instead.

        A current one that the visitor has cancelled stays too: only `again` or another merge goes on.
        """
        known = self._runs.get(key)
        if known is not None and (known.state == "done" or (known is self.run and _holds(known))):
            run = known
        elif known is not None:  # stopped half way: what was to be measured here still is
            run.live = known.live
        if run is not self.run:
            if self.run is not None and self.run.scores and self.run.settings.pool == run.settings.pool:
                self.before = self.run
            self.run = run
        self._runs[key] = run
        while len(self._runs) > REMEMBERED:
            del self._runs[next(iter(self._runs))]
        return run

    def curve_of(self, settings: Settings) -> pd.DataFrame | None:
        """Return what was measured here of a merge over λ, if anything was."""
        if self.curve is None or settings.spec.scaling is None:
            return None
        mine, rows = self.curve
        return rows if mine.changed(scaling=1.0).canonical() == settings.changed(scaling=1.0).canonical() else None

    def cancel(self) -> None:
        """Let the current run stop at its next step."""
        if self.run is not None and self.run.state in {"waiting", "running"}:
            self.run.cancelled, self.run.state = True, "stopped"

    def again(self) -> None:
        """Let the next start of a cancelled run begin anew; what was known before is measured."""
        if self.run is None:
            return
        self.run.cancelled = False
        if self.run.known:
            self.run.known, self.run.live, self.run.state, self.run.scores = False, True, "waiting", {}

    def pin(self) -> None:
        """Keep the current run for comparison."""
        if self.run is not None:
            self.keep(self.run)

    def keep(self, run: Run) -> None:
        """Pin a run under the first free letter."""
        if run in self.pins:
            return
        taken = {pin.name for pin in self.pins}
        run.name = next((letter for letter in ascii_uppercase if letter not in taken), "")
        if run.name:
            self.pins.append(run)

    def unpin(self, name: str) -> None:
        """Forget the pin of that letter; all, for no letter."""
        self.pins = [pin for pin in self.pins if name and pin.name != name]

    def rename(self, name: str, title: str) -> None:
        """Call the pin of that letter something else; nothing = what it is."""
        for pin in self.pins:
            if pin.name == name:
                pin.title = " ".join(title.split())[:LONGEST_TITLE]

    def visit(self, settings: Settings, limit: int) -> None:
        """Note what the controls say now; what they said before can be gone back to."""
        here, at = (settings, limit), monotonic()
        if self.now is not None and self.now != here:
            if at - self.moved_at > self.drag:  # a slider on its way is one move
                self.past = [*self.past, self.now][-REMEMBERED:]
            self.future = []
            self.moved_at = at
        self.now = here

    def turn(self, back: bool) -> tuple[Settings, int] | None:
        """Go one step back, or forward again; gives what the controls are to say, None where there is no step."""
        source, target = (self.past, self.future) if back else (self.future, self.past)
        if not source or self.now is None:
            return None
        target.append(self.now)
        self.now = source.pop()
        return self.now

    def pins_of(self, pool: str) -> list[Run]:
        """Give the pinned runs of a pool that have an accuracy."""
        return [run for run in self.pins if run.settings.pool == pool and run.scores]

    def forget_page(self) -> None:
        """Note that the page shows nothing (it was opened anew)."""
        self.sent.clear()
        self._drawn.clear()

    def moved(self, name: str, depends_on: tuple[Any, ...]) -> bool:
        """Tell whether what a figure depends on is something else than when it was asked for last; frames are compared
        as objects.
        """
        before = self._drawn.get(name)
        self._drawn[name] = depends_on
        return before is None or any(
            a is not b and (pd.DataFrame in (type(a), type(b)) or a != b)
            for a, b in zip(before, depends_on, strict=True)
        )

    def changed(self, **values: str) -> dict[str, str]:
        """Keep those values that differ from what the page already shows, and note that they are being sent."""
        news = {name: value for name, value in values.items() if self.sent.get(name) != value}
        self.sent.update(news)
        return news


def _holds(run: Run) -> bool:
    return run.cancelled or run.state in {"waiting", "running"}
