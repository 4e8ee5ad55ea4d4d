"""evaluate(): accuracy that streams in, task by task in turn, with confidence intervals from the first batch on."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..adapters.adapter import Adapter
from ..adapters.head import Head
from ..adapters.pool import trained_parts
from ..errors import MergeError
from ..models.apply import added, check_fits
from ..models.layers import pooled_states
from ..tasks.batches import Encoded, encode
from ..tasks.task import Task
from .heads import classification_model, label_order, with_recorded_labels
from .verbalisers import Texts, Verbaliser, label_scorer, recorded_verbaliser

Scorer = Callable[[Sequence[int]], Tensor]
"""Row numbers to scores (len(rows), labels): the largest is the prediction."""
Z95 = 1.959963984540054
FIRST_BATCH = 8
BATCH = 32
PER_TASK_TURN = 6
"""Batches of one task in a row where every task has weights of its own, which must be put in first."""
CHUNK = 96
"""Rows that are sorted by length together: a chunk is a fair sample of its task, a batch within it need not be."""


class Subject(Protocol):
    """What can be put into a base model and measured: a merge, or a part of one."""

    @property
    def adapters(self) -> Sequence[Adapter]:
        """Whose heads it brings along."""

    @property
    def needs(self) -> Collection[str]:
        """ "task_id" if it has other weights for every task."""

    def for_task(self, task: str) -> Subject:
        """Return it as it acts on one task."""

    def applied_to(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """Put it into a model for as long as the context lasts."""


@dataclass(frozen=True)
class Estimate:
    """Accuracy of one task so far; plain numbers only, so that it can cross a process boundary.

    Attributes
    ----------
    interval : (low, high), the 95 % Wilson score interval
    done, total : rows of this task evaluated and to be evaluated
    marks : one character per row: 1 right, 0 wrong, . not evaluated yet
    """

    task: str
    accuracy: float
    interval: tuple[float, float]
    done: int
    total: int
    marks: str = ""


def wilson(correct: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (E. B. Wilson, 1927); (0, 1) without data."""
    if total == 0:
        return 0.0, 1.0
    p, z2 = correct / total, z * z
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    # the bounds at 0 and 1 are exact, not off by round-off
    return (0.0 if correct == 0 else max(0.0, centre - half)), (1.0 if correct == total else min(1.0, centre + half))


@dataclass(frozen=True, eq=False)
class EncodedTask:
    """A task's rows, tokenised once: evaluate takes it in place of the `Task`.

    Attributes
    ----------
    names : the labels in the task's order; ``labels`` (rows,) holds indices into it
    texts : the rows as they were, for heads that write prompts of their own
    """

    name: str
    encoded: Encoded
    labels: Tensor
    classes: int
    names: tuple[str, ...] = ()
    texts: Texts | None = None

    def first(self, limit: int) -> EncodedTask:
        """Return the first ``limit`` rows."""
        columns = {key: values[:limit] for key, values in self.encoded.columns.items()}
        texts = self.texts.first(limit) if self.texts else None
        return replace(self, encoded=replace(self.encoded, columns=columns), labels=self.labels[:limit], texts=texts)


@dataclass(frozen=True, eq=False)
class Hits:
    """One evaluated batch: row numbers, and for each whether the prediction was right (bool), the predicted class, and
    the probability that it was given, on the CPU.
    """

    task: str
    rows: list[int]
    right: Tensor
    total: int
    predicted: Tensor
    confidence: Tensor


def encode_task(
    tokenizer: Any, task: Task, split: str = "test", limit: int | None = None, max_length: int | None = None
) -> EncodedTask:
    """Tokenise the first ``limit`` rows of a split (whose order is random; None = all), cut at the task's or a shorter
    length.

    Raises
    ------
    MergeError
        For an unknown split or a limit below 1.
    """
    if split not in ("train", "validation", "test"):
        raise MergeError(f"Unknown split {split!r}: choose train, validation or test.")
    if limit is not None and limit < 1:
        raise MergeError(f"limit = {limit}: at least one row per task is needed.")
    rows = getattr(task, split)
    texts, pairs = rows.texts[:limit], rows.pairs[:limit] if rows.pairs else None
    return EncodedTask(
        task.name,
        encode(tokenizer, texts, task.shortened(max_length), pairs),
        torch.tensor(rows.labels[:limit]),
        len(task.labels),
        task.labels,
        Texts(texts, pairs, task.shortened(max_length)),
    )


def evaluate(
    model: nn.Module,
    tokenizer: Any,
    merged_or_adapter: Subject | Adapter | None,
    tasks: Sequence[Task | EncodedTask],
    split: str = "test",
    limit: int | None = 200,
    heads: Mapping[str, Head | Verbaliser] | None = None,
) -> Iterator[Estimate]:
    """Yield an `Estimate` after every batch, the tasks in turn, the first batches small.

    Closing the generator stops between two batches; the model's weights are restored in any case. A method that needs
    the task's identity (EMR) gets each task's own weights.

    Parameters
    ----------
    model : bare encoder on any device, or a language model for a `Verbaliser`; None as ``merged_or_adapter`` evaluates
        it as it is
    tasks : `Task`s, or what `encode_task` made of them (then ``split`` and ``limit`` are already decided)
    heads : {task: Head or Verbaliser}; by default the adapters' own, required for the bare base. Outputs of a head that
        names its labels are matched with the task's labels by name, else taken in the task's order.

    Raises
    ------
    MergeError
        If a task has no head, a head has other labels than its task or does not fit the model, or the update does not
        fit it.
    """
    return _estimates(hits(model, tokenizer, merged_or_adapter, tasks, split, limit, heads))


def hits(
    model: nn.Module,
    tokenizer: Any,
    merged_or_adapter: Subject | Adapter | None,
    tasks: Sequence[Task | EncodedTask],
    split: str = "test",
    limit: int | None = 200,
    heads: Mapping[str, Head | Verbaliser] | None = None,
) -> Iterator[Hits]:
    """Yield which rows of each batch were classified rightly: what `evaluate` counts; see there."""
    if not tasks:
        raise MergeError("No tasks given to evaluate on.")
    encoded = [t if isinstance(t, EncodedTask) else encode_task(tokenizer, t, split, limit) for t in tasks]
    if len({task.name for task in encoded}) < len(encoded):
        raise MergeError("Two tasks have the same name: results could not be told apart.")
    heads = dict(heads) if heads is not None else _own_heads(merged_or_adapter)
    scorers = {task.name: scorer(model, tokenizer, task, heads.get(task.name)) for task in encoded}
    return _stream(model, merged_or_adapter, encoded, scorers)


def predictions(batches: Iterable[Hits]) -> dict[str, Tensor]:
    """Return {task: predicted class of each of its rows, -1 where no batch had it} from what `hits`
    yields.
    """
    found: dict[str, Tensor] = {}
    for batch in batches:
        found.setdefault(batch.task, torch.full((batch.total,), -1))[batch.rows] = batch.predicted
    return found


def scorer(model: nn.Module, tokenizer: Any, task: EncodedTask, head: Head | Verbaliser | None) -> Scorer:
    """Return what gives the scores (len(rows), labels) of rows of ``task``, float32, from the weights that ``model``
    has at the time.

    Raises
    ------
    MergeError
        As `evaluate`, for what concerns the head.
    """
    if head is None:
        raise MergeError(
            f"There is no head for the task {task.name!r}: its adapter carries none, give heads={{task: head}}."
        )
    if isinstance(head, Verbaliser):
        if task.texts is None:
            raise MergeError(
                f"The task {task.name!r} was encoded without its texts, which a verbaliser reads: use encode_task."
            )
        return label_scorer(head, model, tokenizer, task.texts, task.names, task.name)
    if head.kind == "pooled" and len(head.tensors["bias"]) != task.classes:
        raise MergeError(f"The head of {task.name!r} has {len(head.tensors['bias'])} labels, the task {task.classes}.")
    order = label_order(head, task.names, task.name)
    if head.kind == "pooled":

        def outputs(batch: dict[str, Tensor]) -> Tensor:
            return head.logits(pooled_states(model, batch).float())
    else:
        classifier = classification_model(model, head, task.classes, task.name, tokenizer.pad_token_id)

        def outputs(batch: dict[str, Tensor]) -> Tensor:
            logits: Tensor = classifier(**batch).logits
            return logits.float()

    def scores(rows: Sequence[int]) -> Tensor:
        logits = outputs(task.encoded.batch(rows, next(model.parameters()).device))
        return logits if order is None else logits[:, order]

    return scores


def _estimates(batches: Iterator[Hits]) -> Iterator[Estimate]:
    marks: dict[str, list[str]] = {}
    for batch in batches:
        mine = marks.setdefault(batch.task, ["."] * batch.total)
        for row, right in zip(batch.rows, batch.right.tolist(), strict=True):
            mine[row] = "1" if right else "0"
        yield estimate(batch.task, "".join(mine))


def estimate(task: str, marks: str) -> Estimate:
    """Return the `Estimate` that the marks of a task's rows amount to."""
    right, done = marks.count("1"), len(marks) - marks.count(".")
    return Estimate(task, right / max(done, 1), wilson(right, done), done, len(marks), marks)


@torch.no_grad()
def _stream(
    model: nn.Module, subject: Subject | Adapter | None, tasks: Sequence[EncodedTask], scorers: Mapping[str, Scorer]
) -> Iterator[Hits]:
    was_training = model.training
    per_task = subject is not None and not isinstance(subject, Adapter) and "task_id" in subject.needs
    with ExitStack() as stack:
        stack.callback(model.train, was_training)
        model.eval()
        if not per_task:
            stack.enter_context(applied(model, subject))
        own, mine = stack.enter_context(ExitStack()), None
        for task, rows in _interleaved(tasks, PER_TASK_TURN if per_task else 1):
            if per_task and mine != task.name:
                own.close()
                own.enter_context(subject.for_task(task.name).applied_to(model))  # type: ignore[union-attr]
                mine = task.name
            scores = scorers[task.name](rows).cpu()
            predicted, sure = scores.argmax(1), scores.softmax(1).amax(1)
            yield Hits(task.name, rows, predicted == task.labels[rows], len(task.encoded), predicted, sure)


def applied(model: nn.Module, subject: Subject | Adapter | None) -> AbstractContextManager[Any]:
    """Return a context in which ``model`` carries a merge or an adapter, or is the base as it is (None)."""
    if subject is None:
        return ExitStack()
    if isinstance(subject, Adapter):
        shapes = {module: update.shape for module, update in subject.deltas.items()}
        check_fits(model, shapes, subject.base_fingerprint)
        whole = {name: (subject.full_name(name), apart) for name, apart in trained_parts([subject]).items()}
        return added(model, shapes, subject.deltas.__getitem__, whole, lambda name, start: subject.trained[name])
    return subject.applied_to(model)


def _interleaved(tasks: Sequence[EncodedTask], turn: int) -> Iterator[tuple[EncodedTask, list[int]]]:
    """Yield (task, rows) round robin: a small batch of each task first, then ``turn`` full ones of similar lengths."""
    queues = [_batches(task.encoded.lengths) for task in tasks]
    for start in (0, *range(1, max(map(len, queues)), turn)):
        for task, queue in zip(tasks, queues, strict=True):
            for rows in queue[start : start + turn if start else 1]:
                yield task, rows


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    first = list(range(min(FIRST_BATCH, len(lengths))))
    batches = [first]
    for begin in range(len(first), len(lengths), CHUNK):
        rows = sorted(range(begin, min(begin + CHUNK, len(lengths))), key=lambda row: lengths[row])
        batches += [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return batches


def own_head(adapter: Adapter) -> Head | Verbaliser | None:
    """Return what an adapter brings to classify with: its head with its labels' names, or the words that it was trained
    to write.
    """
    return with_recorded_labels(adapter) or recorded_verbaliser(adapter.metadata)


def _own_heads(subject: Subject | Adapter | None) -> dict[str, Head | Verbaliser]:
    if subject is None:
        raise MergeError("The bare base has no heads: give heads={task: head}.")
    adapters = [subject] if isinstance(subject, Adapter) else subject.adapters
    heads: dict[str, Head | Verbaliser] = {}
    for adapter in adapters:
        head = own_head(adapter)
        own = {} if head is None else {adapter.task: head}
        for task, brought in {**adapter.heads, **own}.items():
            if task in heads:
                raise MergeError(
                    f"Two adapters bring a head for the task {task!r}: say which with heads={{task: head}}."
                )
            heads[task] = brought
    return heads
