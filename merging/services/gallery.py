"""The gallery as data: every figure of both papers, what it claims, what we measured and whether that reproduces it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from ..errors import MergeError
from ..experiments.do_pieces.verdicts import NOT, OPEN, PARTLY, REPRODUCED
from ..io.assets import assets_folder
from .lessons import Name, Number, Strict, Text

OUTCOMES = (REPRODUCED, PARTLY, NOT, OPEN)


class Card(Strict):
    """A figure of a paper.

    Attributes
    ----------
    figure : as the paper numbers it
    claim : the paper's, in our words
    second_hand : the paper's claim or numbers come from reviews and re-implementations, its body could not be read
    measured, numbers, shows : what came out here, the numbers in it, and a comparison that they have to bear out
    outcome, because : whether that reproduces the claim, and what keeps it from doing so
    draw : which figure is drawn, ``osrm/..``, ``do/..`` or ``rank``
    command : repeats the measurement
    lesson, step : where it is taught, the step counted from 1
    """

    id: Name
    paper: Literal["OSRM", "DO-Merging"]
    figure: Text
    title: Text
    claim: Text
    second_hand: bool = False
    numbers: dict[Name, Number] = Field(default_factory=dict)
    measured: Text | None = None
    shows: Text | None = None
    outcome: Text
    because: Text | None = None
    draw: Annotated[str, Field(pattern=r"^(rank|(osrm|do)/\w+)$")]
    command: Text
    lesson: Name
    step: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _measured_or_open(self) -> Self:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"the outcome is one of {', '.join(OUTCOMES)}")
        if (self.outcome == OPEN) != (self.measured is None) or (self.measured is None) != (self.shows is None):
            raise ValueError("what was measured, what it shows and an outcome go together")
        return self


def gallery() -> tuple[Card, ...]:
    """Read the cards that ship, in the papers' order.

    Raises
    ------
    MergeError
        With the first field that does not fit.
    """
    text = (assets_folder() / "gallery.yaml").read_text(encoding="utf-8")
    try:
        return TypeAdapter(tuple[Card, ...]).validate_python(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise MergeError(f"The gallery does not fit at {place}: {first['msg']}.") from error
