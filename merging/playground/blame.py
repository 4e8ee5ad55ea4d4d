"""Who did it, and where: the merge without each adapter, up to each layer, and how loud each update is on a text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import nn

from ..adapters.adapter import Adapter, number_equal_names
from ..adapters.head import Head
from ..adapters.lowrank import LowRank
from ..diagnostics.leave_out import MergeOf, layer_of
from ..diagnostics.measures import update_energy
from ..errors import MergeError
from ..features.reading import collect_features
from ..models.layers import linear_layers
from .answers import as_frame
from .questions import Question, Reading
from .weights import BASE, Weights, answers, weights_by_task

PROMPT = 512
"""Tokens of a prompt, in which a task's own limit holds for the text alone."""


def leave_one_out(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    question: Question,
    adapters: Sequence[Adapter],
    merge_of: MergeOf,
) -> pd.DataFrame:
    """Return what each adapter of a merge does to the answer: the merge of all against the merge of the others.

    Columns: text, left_out, label, logit, without (the logit of the merge without that adapter), effect (logit -
    without: above 0 = the adapter pulls towards the label), share (effect over the sum of all adapters' |effects|),
    probability, probability_without. Logits are those of `merging.playground.answers.as_frame`.

    Parameters
    ----------
    model : the base, see `merging.playground.weights.answers`
    merge_of : merges some of the adapters, see `merging.diagnostics.leave_out.merging_with`

    Raises
    ------
    MergeError
        For a single adapter, and as `merging.playground.predictions`.
    """
    without = {}
    everything = weights_without(adapters, merge_of, question.task)
    whole = next(everything)[1]
    assert whole is not None
    for name, weights in everything:
        if weights is not None:
            without[name] = weights
    return compared(model, tokenizer, texts, question, whole, without)


def weights_without(adapters: Sequence[Adapter], merge_of: MergeOf, task: str) -> Iterator[tuple[str, Weights | None]]:
    """Yield ("", the weights that answer for ``task`` in the merge of all), then (name, those without each adapter).

    A method that needs the task's identity has none without the task's own adapter: None.
    """
    if len(adapters) < 2:
        raise MergeError("Leaving one adapter out needs two or more: without the only one there is no merge.")
    yield "", weights_by_task(merge_of(adapters), [task])[task]
    for place, named in enumerate(number_equal_names(list(adapters))):
        rest = [adapter for i, adapter in enumerate(adapters) if i != place]
        yield named.name, weights_by_task(merge_of(rest), [task]).get(task)


def compared(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    question: Question,
    whole: Weights,
    without: Mapping[str, Weights],
) -> pd.DataFrame:
    """Do the work of `leave_one_out` with weights that were merged before.

    Each set of weights reads the texts in a pass of its own: its numbers are those of that merge alone, bit for bit.
    """
    reading = Reading.of(tokenizer, texts, [question])
    alone = [answers(model, reading, [(question.task, weights)])[0] for weights in (whole, *without.values())]
    merged = as_frame([alone[0]] * len(without), [question.labels] * len(without), [{"left_out": n} for n in without])
    rest = as_frame(alone[1:], [question.labels] * len(without), [{}] * len(without))
    frame = merged.assign(without=rest["logit"], probability_without=rest["probability"])
    frame["effect"] = frame["logit"] - frame["without"]
    total = frame["effect"].abs().groupby([frame["text"], frame["label"]]).transform("sum")
    frame["share"] = (frame["effect"] / total).where(total > 0, 0.0)
    columns = ["text", "left_out", "label", "logit", "without", "effect", "share", "probability", "probability_without"]
    return frame[columns]


def up_to_layer(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], question: Question, weights: Weights
) -> pd.DataFrame:
    """Return the answer when only the layers up to each one are merged: text, layer, label, logit, probability.

    The first layer is "base", where none is merged; at the last one stands the whole merge. Layers come in the order in
    which the model has them.

    Raises
    ------
    MergeError
        If an adapter holds parameters that were trained whole, and as `merging.playground.predictions`.
    """
    order = {id(layer): place for place, layer in enumerate(model.modules())}
    found = linear_layers(model, weights.updates)
    layers: dict[str, list[str]] = {}
    for module in sorted(weights.updates, key=lambda name: order[id(found[name])]):
        layers.setdefault(layer_of(module), []).append(module)
    merged: list[str] = []
    steps = [("base", BASE)]
    for layer, modules in layers.items():
        merged += modules
        steps.append((layer, weights.only(merged)))
    reading = Reading.of(tokenizer, texts, [question])
    logits = answers(model, reading, [(question.task, step) for _, step in steps])
    frame = as_frame(logits, [question.labels] * len(steps), [{"layer": layer} for layer, _ in steps])
    return frame[["text", "layer", "label", "logit", "probability"]]


def loudness(
    model: nn.Module,
    tokenizer: Any,
    text: str,
    question: Question,
    adapters: Sequence[Adapter],
    updates: Sequence[Mapping[str, LowRank]] | None = None,
) -> pd.DataFrame:
    """Return how loud each adapter's update is on one text: adapter, layer, module, ratio = ||dW_j H|| / ||dW_i H||.

    H are the inputs of the module, one row per token, when the base reads the text; i is the adapter of the question's
    task. 1 = as loud as the own adapter.

    Parameters
    ----------
    updates : per adapter, as they enter a merge; None = as trained

    Raises
    ------
    MergeError
        If no adapter is of the question's task, or the text is empty.

    References
    ----------
    Zhang & Zhou (OSRM), arXiv 2505.22934, figure 1, on a text of one's own.
    """
    if question.task not in {adapter.task for adapter in adapters}:
        raise MergeError(
            f"No adapter is of the task {question.task!r}, so there is nothing to compare the others with."
        )
    named = number_equal_names(list(adapters))
    if updates is not None:
        named = [replace(a, deltas=dict(u)) for a, u in zip(named, updates, strict=True)]
    own = next(a for a in named if a.task == question.task)
    features = collect_features(
        model,
        tokenizer,
        {own.task: [question.read(text)]},
        k=1,
        modules=list(own.deltas),
        max_length=question.max_length if isinstance(question.head, Head) else PROMPT,
        keep_tokens=False,
    )
    rows = []
    for module, update in own.deltas.items():
        S = features.second_moment(own.task, module)
        mine = update_energy(update, S)
        for adapter in named:
            if module in adapter.deltas:
                theirs = update_energy(adapter.deltas[module], S)
                ratio = math.sqrt(theirs / mine) if mine else (math.inf if theirs else 0.0)
                rows.append((adapter.name, layer_of(module), module, ratio))
    return pd.DataFrame(rows, columns=["adapter", "layer", "module", "ratio"])
