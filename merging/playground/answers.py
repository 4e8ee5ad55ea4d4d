"""What several models say to a text, as a frame: probabilities of the labels, and who says something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from .questions import Question, Reading
from .weights import Weights, answers

COLUMNS = ["text", "task", "source", "label", "logit", "probability"]


def predictions(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    questions: Sequence[Question],
    sources: Mapping[str, Mapping[str, Weights]],
) -> pd.DataFrame:
    """Return what every source answers to every text: text (its number), task, source, label, logit, probability.

    Parameters
    ----------
    model : the base, see `merging.playground.weights.answers`
    questions : one per task
    sources : {who answers: {task: with which weights}}; weights that several tasks share read the texts once

    Raises
    ------
    MergeError
        For an empty text and what does not fit, see `merging.playground.weights.answers`.
    """
    reading = Reading.of(tokenizer, texts, questions)
    labels = {question.task: question.labels for question in questions}
    wanted = [(task, source) for task in labels for source in sources if task in sources[source]]
    logits = answers(model, reading, [(task, sources[source][task]) for task, source in wanted])
    parts = [
        as_rows(values, labels[task]).assign(task=task, source=source)
        for (task, source), values in zip(wanted, logits, strict=True)
    ]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return frame.sort_values("text", kind="stable", ignore_index=True)[COLUMNS]


def as_rows(logits: Tensor, labels: Sequence[str]) -> pd.DataFrame:
    """Return logits (texts, labels) as text, label, logit, probability.

    The logit of a label is the logarithm of its odds, ln p / (1 - p): what a head adds to all labels alike is not in
    it.
    """
    values = logits.double()
    log_p = values.log_softmax(1)
    others = torch.stack([_without(values, place).logsumexp(1) for place in range(values.shape[1])], 1)
    return pd.DataFrame(
        {
            "text": [text for text in range(len(values)) for _ in labels],
            "label": [*labels] * len(values),
            "logit": (values - others).flatten().tolist(),
            "probability": log_p.exp().flatten().tolist(),
        }
    )


def _without(values: Tensor, place: int) -> Tensor:
    return torch.cat([values[:, :place], values[:, place + 1 :]], 1)


def winners(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the most probable label of each text, task and source: text, task, source, label, probability."""
    best = frame.loc[frame.groupby(["text", "task", "source"], sort=False)["probability"].idxmax()]
    return best.drop(columns="logit").reset_index(drop=True)
