"""What mergescope.json beside an adapter says: how it was trained, measured, cut and brought."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import MergeError
from ..io.untrusted import read_object


class _Noted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Words(_Noted):
    """What a language model is asked and answers, see `merging.evaluation.verbalisers.Verbaliser`."""

    template: str
    words: dict[str, str]
    normalised: bool = False


class Steps(_Noted):
    """Optimiser steps of a training: until the kept epoch or the stop, and as planned."""

    done: int
    planned: int


class Drift(_Noted):
    """How far A moved in training, relative to its start, see `merging.training.drift.drift`."""

    frobenius: float
    procrustes: float


class Rows(_Noted):
    """Rows used of each split."""

    train: int | None = None
    validation: int | None = None
    test: int = 0


class Truncation(_Noted):
    """What a chosen rank lost: relative Frobenius errors over all modules and of each, see
    `merging.adapters.truncation`.
    """

    rank: int
    error: float
    modules: dict[str, float]
    randomised: bool = False


class Rounding(_Noted):
    """What fewer bits lost: the relative error of the whole update."""

    dtype: str
    error: float


class Brought(_Noted):
    """What a visitor calls an adapter and its files, and the base that he vouches for."""

    name: str
    files: tuple[str, ...] = ()
    base: str | None = None


class AdapterMetadata(_Noted):
    """The notes of one adapter; None, or empty, where nobody noted it. What we don't know is kept as it is.

    Attributes
    ----------
    labels : names of a pooled head's classes, in the order of its rows
    source : what the hub said: repo, commit, license
    training : `merging.training.settings.TrainingSettings` as a dict, see `merging.shipped.settings_of`
    full : a full fine-tune, whose A is the identity
    relative_norms : {module: ||ΔW|| / ||W_0||}
    test_accuracy : {"adapter", "base", "probe": accuracy on the test split}
    test_marks : {"adapter", "base": one "1" or "0" per test row}
    seconds : that the training took
    """

    task: str | None = None
    labels: tuple[str, ...] = ()
    training: dict[str, Any] | None = None
    full: bool = False
    epoch: int | None = None
    validation_accuracy: float | None = None
    steps: Steps | None = None
    drift: Drift | None = None
    relative_norms: dict[str, float] = Field(default_factory=dict)
    verbaliser: Words | None = None
    command: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    data_fingerprint: str | None = None
    rows: Rows = Rows()
    test_accuracy: dict[str, float] = Field(default_factory=dict)
    test_marks: dict[str, str] = Field(default_factory=dict)
    seconds: float | None = None
    variant: str | None = None
    truncation: Truncation | None = None
    rounding: Rounding | None = None
    brought: Brought | None = None
    source: dict[str, str | None] = Field(default_factory=dict)
    base_fingerprint: str | None = None

    def changed(self, **values: Any) -> Self:
        """Return the notes with other values."""
        return type(self).model_validate({**self._plain(), **values})

    def to_json(self) -> str:
        """Return the text of mergescope.json, without what nobody noted."""
        return json.dumps(self._plain(), indent=2) + "\n"

    def _plain(self) -> dict[str, Any]:
        return self.model_dump(exclude_defaults=True)


def read_metadata(path: Path | None, where: str, provenance: Mapping[str, str | None] | None = None) -> AdapterMetadata:
    """Return what an adapter's own notes say, and what the hub says of it; ``where`` names the file in messages.

    Raises
    ------
    MergeError
        If the notes are malformed.
    """
    noted = read_object(path, where) if path else {}
    if provenance is not None:  # what the hub says counts, not what a file in the repository says about itself
        noted["source"] = dict(provenance)
    try:
        return AdapterMetadata.model_validate(noted)
    except ValidationError as error:
        first = error.errors()[0]
        raise MergeError(
            f"{where}: {'.'.join(map(str, first['loc']))} is wrong ({first['msg']}): mend the entry, or leave the file "
            "out."
        ) from error
