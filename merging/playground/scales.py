"""A slider's story: what a merge answers over a range of λ, and where it changes its mind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from .answers import as_frame
from .questions import Question, Reading
from .weights import Weights, answers

SCALINGS = tuple(round(0.05 * step, 2) for step in range(31))
"""λ from 0 (the base) to 1.5."""


def over_scaling(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    question: Question,
    at_one: Weights,
    scalings: Sequence[float] = SCALINGS,
) -> pd.DataFrame:
    """Return what a merge answers over λ, all from one batched pass: text, scaling, label, logit, probability.

    Parameters
    ----------
    at_one : the merge at λ = 1; every method here that has λ multiplies its result by it

    Raises
    ------
    MergeError
        If an adapter holds parameters that were trained whole, and as `merging.playground.predictions`.
    """
    reading = Reading.of(tokenizer, texts, [question])
    logits = answers(model, reading, [(question.task, at_one.scaled(scaling)) for scaling in scalings])
    frame = as_frame(logits, [question.labels] * len(scalings), [{"scaling": scaling} for scaling in scalings])
    return frame[["text", "scaling", "label", "logit", "probability"]]


def flips(story: pd.DataFrame) -> pd.DataFrame:
    """Return where `over_scaling`'s most probable label changes: text, scaling, before, after.

    Between two λ that were computed the difference of the two labels' logits is taken as linear, so a flip is known
    better than their distance; a third label that leads for a moment between them goes unseen.
    """
    rows = []
    for text, frame in story.groupby("text", sort=False):
        table = frame.pivot(index="scaling", columns="label", values="logit").sort_index()
        names, values, at = list(table.columns), table.to_numpy(), table.index.to_numpy()
        best = values.argmax(1)
        for step in np.flatnonzero(best[1:] != best[:-1]):
            before, after = best[step], best[step + 1]
            lead, lag = (values[place, before] - values[place, after] for place in (step, step + 1))
            share = lead / (lead - lag) if lead != lag else 0.0
            rows.append((text, float(at[step] + share * (at[step + 1] - at[step])), names[before], names[after]))
    return pd.DataFrame(rows, columns=["text", "scaling", "before", "after"])
