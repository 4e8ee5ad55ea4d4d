"""Lessons as data: what a step says, the screen it opens, the guess it asks for, and the measured numbers behind it.

A lesson is one file, ``assets/lessons/<place>_<id>.yaml``. Its `numbers` are means over rows of the shipped tables, so
that a sentence about a result changes, and its `claim` fails, when the tables do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import MergeError
from ..io.assets import assets_folder

WORDS_A_MINUTE = 180
LOOK, GUESS, TOUCH = 20, 15, 30
"""Seconds that a step takes beside reading: to look at its figure, to guess, to move what it asks for."""

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Tab = Literal["merge", "lessons", "try", "adapters", "diagnose", "osrm", "export"]


class Strict(BaseModel):
    """Data from a file that ships: no field beside those named, and none changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(Strict):
    """A measured number: the mean of `value`, an expression over columns, on the rows `where` of a shipped table."""

    table: Name
    where: Text
    value: Text = "correct / total"


class Guess(Strict):
    """A question that is asked before the figure is shown: one of three answers, or a bar that one drags.

    Attributes
    ----------
    answer : place of the right one of `choices`
    number : name of the measured number that the bar is held against; both are shown in percent
    within : percentage points off that still count as right
    """

    question: Text
    choices: tuple[Text, Text, Text] | None = None
    answer: Literal[0, 1, 2] | None = None
    number: Name | None = None
    low: float = 0.0
    high: float = 100.0
    within: float = 10.0

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.choices is None) != (self.answer is None) or (self.choices is None) == (self.number is None):
            raise ValueError("a guess has choices and an answer, or a number for its bar")
        return self


class Done(Strict):
    """How the card notices that the learner has done it: what the touched control then says."""

    at_most: float | None = None
    at_least: float | None = None
    begins: Text | None = None
    changed: Literal[True] | None = None
    clicked: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("done has exactly one condition")
        return self


class Turn(Strict):
    """A question of a decision path; an answer leads to another question, or to an outcome."""

    ask: Text
    answers: dict[Text, Name]


class Outcome(Strict):
    """Where a decision path ends: what to take and why, and the merge that the controls then show."""

    say: Text
    link: Text


class DecisionPath(Strict):
    """A decision path: it begins at `first`; `turns` and `outcomes` by name."""

    first: Name
    turns: dict[Name, Turn]
    outcomes: dict[Name, Outcome]

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        known = {*self.turns, *self.outcomes}
        aims = {self.first, *(aim for turn in self.turns.values() for aim in turn.answers.values())}
        if aims != known:
            raise ValueError(f"the path names {sorted(aims ^ known)} only on one side")
        return self


class Step(Strict):
    """One step of a lesson.

    Attributes
    ----------
    say : one or two sentences
    tab, link : the screen: the tab, and the merge as the query of an address (without one, that of the step before)
    set : {CSS selector: value} of fields of that tab
    figure : CSS selector of what to look at
    touch, do, done : CSS selector of the control that is highlighted, what to do with it, and when that is done
    guess : asked before the figure is shown
    claim : a comparison of numbers that the tables have to bear out
    happened : said after the guess and the doing; ``{number:.0%}`` is a measured number, ``[[average]]`` what the Merge
        tab's verdict says now
    draw : a small figure of the card's own
    """

    id: Name
    title: Text
    say: Text
    tab: Tab = "merge"
    link: Text | None = None
    set: dict[Text, Text] = {}
    figure: Text
    touch: Text
    do: Text | None = None
    done: Done | None = None
    guess: Guess | None = None
    claim: Text | None = None
    happened: Text
    draw: Literal["two_vectors"] | None = None
    path: DecisionPath | None = None

    @model_validator(mode="after")
    def _noticed(self) -> Self:
        if (self.do is None) != (self.done is None):
            raise ValueError("what is asked for (do) and how it is noticed (done) go together")
        return self

    @property
    def words(self) -> list[str]:
        """All that is read in this step."""
        guess = [self.guess.question, *(self.guess.choices or ())] if self.guess else []
        path = [turn.ask for turn in self.path.turns.values()] if self.path else []
        return " ".join([self.title, self.say, self.do or "", *guess, *path, self.happened]).split()

    @property
    def seconds(self) -> float:
        """How long the step takes: reading, looking, guessing and doing."""
        pauses = LOOK + GUESS * (self.guess is not None) + TOUCH * (self.do is not None or self.path is not None)
        return 60 * len(self.words) / WORDS_A_MINUTE + pauses


class Lesson(Strict):
    """A lesson: four to seven steps about one idea, and the numbers that they speak of."""

    id: Name
    title: Text
    about: Text
    numbers: dict[Name, Number] = {}
    steps: Annotated[tuple[Step, ...], Field(min_length=4, max_length=7)]

    @model_validator(mode="after")
    def _begins_somewhere(self) -> Self:
        if self.steps[0].link is None:
            raise ValueError("the first step needs a link: it sets the merge that the others go on from")
        if len({step.id for step in self.steps}) < len(self.steps):
            raise ValueError("two steps have one id")
        return self

    @property
    def minutes(self) -> float:
        """How long the lesson takes at 180 words a minute, with its waits."""
        return sum(step.seconds for step in self.steps) / 60

    def link(self, place: int) -> str:
        """Return the merge of the step at `place` (from 0): its own, or that of the nearest step before."""
        return next(link for step in reversed(self.steps[: place + 1]) if (link := step.link) is not None)

    def measured(self, tables: Path) -> dict[str, float]:
        """Look the lesson's numbers up in the folder of tables."""
        return {name: measure(number, tables) for name, number in self.numbers.items()}


def read_lesson(path: Path) -> Lesson:
    """Read a lesson's file.

    Raises
    ------
    MergeError
        With the file and the first field that does not fit.
    """
    try:
        return Lesson.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise MergeError(f"The lesson {path.name} does not fit at {place or 'its top'}: {first['msg']}.") from error
    except yaml.YAMLError as error:
        raise MergeError(f"The lesson {path.name} is not valid YAML: {' '.join(str(error).split())}.") from error


def shipped_lessons() -> tuple[Lesson, ...]:
    """Read all lessons that ship, in the order of their files' names."""
    return tuple(read_lesson(path) for path in sorted((assets_folder() / "lessons").glob("*.yaml")))


def measure(number: Number, tables: Path) -> float:
    """Look a number up in the folder of tables.

    Raises
    ------
    MergeError
        If there is no such table, or no such row in it.
    """
    path = tables / f"{number.table}.csv"
    if not path.exists():
        raise MergeError(f"The lesson's number needs the table {path.name}, which is not in {tables.name}.")
    rows = _table(path, path.stat().st_mtime_ns).query(number.where)
    if rows.empty:
        raise MergeError(f"No row of {path.name} has {number.where}.")
    return float(rows.eval(number.value).mean())


def holds(claim: str, numbers: Mapping[str, float]) -> bool:
    """Tell whether a claim, a comparison of numbers by name, is true of these."""
    return bool(pd.DataFrame([dict(numbers)]).eval(claim).all())


def filled(text: str, numbers: Mapping[str, float]) -> str:
    """Write measured numbers into a text, ``{name:.0%}`` as format strings do, with a true minus and a space before
    %.
    """
    return _Writer().vformat(text, (), numbers)


@cache
def _table(path: Path, stamp: int) -> pd.DataFrame:
    return pd.read_csv(path)


class _Writer(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return str(super().format_field(value, format_spec)).replace("-", "−").replace("%", "\u00a0%")
