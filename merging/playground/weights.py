"""Weights that answer: what is added to a base, and one batched pass in which every row has weights of its own.

Sets of weights differ in the updates of some linear layers only. A batch holds the texts once for each set; where such
a layer has its output, each part of the batch gets its own ΔW h on top. So eleven sets cost one pass of eleven times as
many rows, and no copy of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.adapter import Adapter
from ..adapters.lowrank import LowRank
from ..errors import MergeError
from ..evaluation.accuracy import applied, scorer
from ..evaluation.heads import classification_model, label_order
from ..evaluation.verbalisers import Verbaliser
from ..merged import Merged
from ..models.apply import added, check_fits
from ..models.layers import linear_layers, pooled_states
from .questions import Question, Reading

MOST_ROWS = 128
"""Rows of one pass: more would not be faster."""
Compute = Callable[[int], Tensor]
"""What a model, as it is, makes of the texts repeated so often: (times * texts, ..)."""


@dataclass(frozen=True, eq=False)
class Weights:
    """What is added to a base.

    Attributes
    ----------
    updates : {module: (out, in)}
    factor : they are multiplied by it
    whole : whose they are, where that holds more than updates: parameters that were trained whole
    """

    updates: Mapping[str, LowRank | Tensor] = field(default_factory=dict)
    factor: float = 1.0
    whole: Merged | Adapter | None = None

    def scaled(self, factor: float) -> Weights:
        """Return the updates times ``factor``.

        Raises
        ------
        MergeError
            Where parameters were trained whole, which no factor scales.
        """
        self._require_updates("λ over a range")
        return replace(self, factor=self.factor * factor)

    def only(self, modules: Sequence[str]) -> Weights:
        """Return the updates of some modules; raises MergeError as `scaled`."""
        self._require_updates("layer after layer")
        return replace(self, updates={name: self.updates[name] for name in modules})

    def put_into(self, model: nn.Module) -> Any:
        """Return a context in which ``model`` carries these weights."""
        if self.whole is not None:
            return applied(model, self.whole)
        shapes = {name: _shape(update) for name, update in self.updates.items()}
        return added(model, shapes, lambda name: self.updates[name] * self.factor)

    def _require_updates(self, what: str) -> None:
        if self.whole is not None:
            raise MergeError(f"An adapter holds parameters that were trained whole, so there is no {what}.")


BASE = Weights()
"""The base as it is."""


def weights_of(subject: Merged | Adapter | None) -> Weights:
    """Return what a merge (of a method that is the same for all tasks) or an adapter adds to the base; None = nothing.

    A merge is computed here, every module of it.
    """
    if subject is None:
        return BASE
    if isinstance(subject, Adapter):
        return Weights(subject.deltas, whole=subject if subject.trained else None)
    return Weights({name: subject.result(name) for name in subject.modules}, whole=subject if subject.parts else None)


def weights_by_task(subject: Merged | Adapter | None, tasks: Sequence[str]) -> dict[str, Weights]:
    """Return {task: weights that answer for it}; a method that needs the task's identity (EMR) has some for its own
    tasks only.
    """
    if isinstance(subject, Merged) and "task_id" in subject.needs:
        known = {adapter.task for adapter in subject.adapters}
        return {task: weights_of(subject.for_task(task)) for task in tasks if task in known}
    return dict.fromkeys(tasks, weights_of(subject))


def check_sets(model: nn.Module, sets: Iterable[Weights]) -> None:
    """Raise MergeError unless the updates of all sets fit the model."""
    left = {(name, _shape(update)) for weights in _unique(sets) for name, update in weights.updates.items()}
    while left:  # one shape a module at a time: looking a model's layers up costs milliseconds
        some = dict(left)
        check_fits(model, some, None)
        left -= {*some.items()}


@torch.no_grad()
def answers(model: nn.Module, reading: Reading, wanted: Sequence[tuple[str, Weights]]) -> list[Tensor]:
    """Return for every (task, weights) the logits (texts, labels) that they give, float32, on the CPU.

    Parameters
    ----------
    model : the base; hooks sit on it meanwhile, or its weights change and are restored, so no other thread may use it

    Raises
    ------
    MergeError
        If updates do not fit the model, or a head does not.
    """
    if training := model.training:  # walking through all modules takes milliseconds
        model.eval()
    check_sets(model, [weights for _, weights in wanted])
    found: dict[tuple[str, int], Tensor] = {}
    device = next(model.parameters()).device
    try:
        for encoded, questions in reading.groups:
            names = {question.task: question for question in questions}
            sets = _unique(weights for task, weights in wanted if task in names)

            def pooled(times: int, rows: Sequence[int], encoded: Any = encoded) -> Tensor:
                return pooled_states(model, encoded.batch([*rows] * times, device)).float()

            states = _under(model, sets, len(encoded), pooled)
            for task, weights in wanted:
                if task in names:
                    found[task, id(weights)] = _classified(names[task], states[id(weights)])
        for rows_of, question in reading.rest:
            sets = _unique(weights for task, weights in wanted if task == question.task)
            if not sets:
                continue
            score = scorer(model, reading.tokenizer, rows_of, question.head)

            def scored(times: int, rows: Sequence[int], score: Any = score) -> Tensor:
                return score([*rows] * times)  # type: ignore[no-any-return]

            alone = isinstance(question.head, Verbaliser)  # its rows are other ones than the texts'
            logits = _under(model, sets, len(rows_of.encoded), scored, alone)
            found |= {(question.task, key): value for key, value in logits.items()}
    finally:
        if training:
            model.train()
    return [found[task, id(weights)] for task, weights in wanted]


@torch.no_grad()
def picture_answers(
    model: nn.Module, pixels: Tensor, questions: Sequence[Question], wanted: Mapping[str, Sequence[Weights]]
) -> list[Tensor]:
    """Return for every task and its sets of weights the logits (pictures, labels) that they give, float32, on the CPU.

    Parameters
    ----------
    model : a vision base; see `answers`
    pixels : (pictures, channels, height, width), as the base's processor makes them
    wanted : {task: sets of weights}

    Raises
    ------
    MergeError
        If updates or a head do not fit the model, or a task has no classifier of its own.
    """
    like = next(model.parameters())
    pixels = pixels.to(like.device, like.dtype)
    found: list[Tensor] = []
    for question in questions:
        head = question.head
        if isinstance(head, Verbaliser) or head.kind != "model":
            raise MergeError(f"{question.task!r} has no classifier for pictures: save it with the adapter.")
        check_sets(model, wanted[question.task])
        classifier: Any = classification_model(model, head, len(question.labels), question.task)
        order = label_order(head, question.labels, question.task)

        def scored(times: int, rows: Sequence[int], classifier: Any = classifier) -> Tensor:
            logits: Tensor = classifier(pixel_values=pixels[[*rows] * times]).logits
            return logits.float().cpu()

        states = _under(model, wanted[question.task], len(pixels), scored)
        scores = [states[id(weights)] for weights in wanted[question.task]]
        found += scores if order is None else [each[:, order] for each in scores]
    return found


def _classified(question: Question, states: Tensor) -> Tensor:
    head = question.head
    assert not isinstance(head, Verbaliser)
    if len(head.tensors["bias"]) != len(question.labels):
        raise MergeError(
            f"The head of {question.task!r} has {len(head.tensors['bias'])} labels, the task {len(question.labels)}."
        )
    order = label_order(head, question.labels, question.task)
    logits = head.logits(states)
    return (logits if order is None else logits[:, order]).cpu()


def _unique(sets: Iterable[Weights]) -> list[Weights]:
    return list({id(weights): weights for weights in sets}.values())


def _under(
    model: nn.Module,
    sets: Sequence[Weights],
    texts: int,
    compute: Callable[[int, Sequence[int]], Tensor],
    alone: bool = False,
) -> dict[int, Tensor]:
    """Return {id of weights: (texts, ..)}: what ``compute(times, rows)`` gives under each set of weights."""
    together = [] if alone else [weights for weights in sets if weights.whole is None]
    found: dict[int, list[Tensor]] = {id(weights): [] for weights in sets}
    for start in range(0, len(together), MOST_ROWS):
        some = together[start : start + MOST_ROWS]
        step = max(1, MOST_ROWS // len(some))
        for first in range(0, texts, step):
            rows = range(first, min(first + step, texts))
            try:
                with row_by_row(model, some, len(some) * len(rows)):
                    parts = compute(len(some), rows).chunk(len(some))
            except OtherRowsError:  # a layer that reads something else than the batch (DeBERTa's positions)
                parts = tuple(_put_in(model, weights, compute, rows) for weights in some)
            for weights, part in zip(some, parts, strict=True):
                found[id(weights)].append(part)
    for weights in sets:
        if not found[id(weights)]:
            found[id(weights)].append(_put_in(model, weights, compute, range(texts)))
    return {key: torch.cat(parts) for key, parts in found.items()}


def _put_in(
    model: nn.Module, weights: Weights, compute: Callable[[int, Sequence[int]], Tensor], rows: Sequence[int]
) -> Tensor:
    with weights.put_into(model):
        return torch.cat([compute(1, rows[start : start + MOST_ROWS]) for start in range(0, len(rows), MOST_ROWS)])


class OtherRowsError(Exception):
    """A layer's input does not have the batch as its first dimension."""


@contextmanager
def row_by_row(model: nn.Module, sets: Sequence[Weights], rows: int) -> Iterator[None]:
    """Let each of ``sets`` act on its part of a batch of ``rows``: the first on the first rows, and so on."""
    modules = {name for weights in sets for name in weights.updates}
    with ExitStack() as stack:
        for name, layer in linear_layers(model, modules).items():
            updates = [(weights.updates.get(name), weights.factor) for weights in sets]

            def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, updates: Any = updates) -> Tensor:
                if inputs[0].shape[0] != rows:
                    raise OtherRowsError
                parts = zip(updates, inputs[0].chunk(len(updates)), output.chunk(len(updates)), strict=True)
                return torch.cat([out if u is None else out + _times(u, h) * by for (u, by), h, out in parts])

            stack.callback(layer.register_forward_hook(add).remove)
        yield


def _times(update: LowRank | Tensor, inputs: Tensor) -> Tensor:
    """Return ΔW h, in float32 as updates are, in the dtype of the inputs."""
    h = inputs.float()
    if isinstance(update, LowRank):
        return ((h @ update.A.float().to(h.device).T) @ update.B.float().to(h.device).T).to(inputs.dtype)
    return (h @ update.float().to(h.device).T).to(inputs.dtype)


def _shape(update: LowRank | Tensor) -> tuple[int, int]:
    rows, columns = update.shape
    return rows, columns
