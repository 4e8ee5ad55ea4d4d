"""What several models say to a text, as a frame: probabilities of the labels, and who says something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from .questions import Question, Reading
from .weights import Weights, answers, picture_answers

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
    keys = [{"task": task, "source": source} for task, source in wanted]
    frame = as_frame(logits, [labels[task] for task, _ in wanted], keys)
    return frame.sort_values("text", kind="stable", ignore_index=True)[COLUMNS]


def picture_predictions(
    model: nn.Module,
    processor: Any,
    pictures: Sequence[Any],
    questions: Sequence[Question],
    sources: Mapping[str, Mapping[str, Weights]],
) -> pd.DataFrame:
    """Return what every source answers to every picture, as `predictions` does; ``text`` is the picture's number.

    Parameters
    ----------
    model : a vision base
    processor : transformers' image processor of the base
    pictures : in RGB, as the processor takes them
    questions : of adapters with a classifier of their own

    Raises
    ------
    MergeError
        See `merging.playground.weights.picture_answers`.
    """
    pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    labels = {question.task: question.labels for question in questions}
    keys = [{"task": task, "source": name} for task in labels for name in sources if task in sources[name]]
    wanted = {task: [sources[key["source"]][task] for key in keys if key["task"] == task] for task in labels}
    logits = picture_answers(model, pixels, questions, wanted)
    frame = as_frame(logits, [labels[key["task"]] for key in keys], keys)
    return frame.sort_values("text", kind="stable", ignore_index=True)[COLUMNS]


def as_frame(
    logits: Sequence[Tensor], labels: Sequence[Sequence[str]], keys: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Return logits (texts, labels) as one frame: text, label, logit, probability, and the ``keys`` of each.

    The logit of a label is the logarithm of its odds, ln p / (1 - p): what a head adds to all labels alike is not in
    it.
    """
    columns: dict[str, list[Any]] = {"text": [], "label": [], "logit": [], "probability": []}
    columns |= {name: [] for key in keys for name in key}
    for values, names, key in zip(logits, labels, keys, strict=True):
        log_odds, p = _odds(values.double())
        columns["text"] += [text for text in range(len(values)) for _ in names]
        columns["label"] += [*names] * len(values)
        columns["logit"] += log_odds.flatten().tolist()
        columns["probability"] += p.flatten().tolist()
        for name, value in key.items():
            columns[name] += [value] * values.numel()
    return pd.DataFrame(columns)


def _odds(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log odds, probabilities) of logits (texts, labels)."""
    labels = values.shape[1]
    itself = torch.eye(labels, dtype=torch.bool)
    others = values[:, None, :].expand(-1, labels, -1).masked_fill(itself, -torch.inf).logsumexp(2)
    return values - others, values.softmax(1)


def winners(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the most probable label of each text, task and source: text, task, source, label, probability."""
    best = frame.loc[frame.groupby(["text", "task", "source"], sort=False)["probability"].idxmax()]
    return best.drop(columns="logit").reset_index(drop=True)
