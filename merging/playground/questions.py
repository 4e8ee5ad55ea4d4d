"""How a task's texts are read and answered, and some texts read that way, tokenised once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..adapters.adapter import Adapter
from ..adapters.head import Head
from ..errors import MergeError
from ..evaluation.accuracy import EncodedTask, own_head
from ..evaluation.verbalisers import Texts, Verbaliser
from ..tasks.batches import Encoded, encode
from ..tasks.task import Task

MAX_LENGTH = 64
"""Tokens that are read of a text where no task says how many."""
BETWEEN = "||"
"""Stands between the two texts of a task on pairs."""


def require_characters(written: str) -> None:
    """Raise MergeError for what holds half of a character, which no tokenizer reads."""
    try:
        written.encode()
    except UnicodeEncodeError as error:
        raise MergeError("There is half of a character in the text (a surrogate): type it again.") from error


@dataclass(frozen=True, eq=False)
class Question:
    """One task as a text of one's own meets it.

    Attributes
    ----------
    labels : in the task's order
    max_length : tokens that are read of a text
    pairs : it reads two texts, with `BETWEEN` between them
    """

    task: str
    head: Head | Verbaliser
    labels: tuple[str, ...]
    max_length: int = MAX_LENGTH
    pairs: bool = False

    def encoded(self, tokenizer: Any, texts: Sequence[str]) -> EncodedTask:
        """Return texts as rows of the task, whose labels nobody knows.

        Raises
        ------
        MergeError
            For an empty text, and one that is no pair where the task reads pairs.
        """
        firsts, seconds = self.parts(texts)
        encoded = encode(tokenizer, firsts, self.max_length, seconds)
        rows = Texts(tuple(firsts), tuple(seconds) if seconds else None, self.max_length)
        unknown = torch.zeros(len(texts), dtype=torch.long)
        return EncodedTask(self.task, encoded, unknown, len(self.labels), self.labels, rows)

    def read(self, text: str) -> str:
        """Return what the model reads: the text, or the prompt that a language model is given."""
        firsts, seconds = self.parts([text])
        if isinstance(self.head, Verbaliser):
            return self.head.prompt(firsts[0], seconds[0] if seconds else "")
        return " ".join([*firsts, *(seconds or [])])

    def parts(self, texts: Sequence[str]) -> tuple[list[str], list[str] | None]:
        """Return the first texts and, of a task on pairs, the second ones."""
        if not self.pairs:
            return list(texts), None
        halves = [text.partition(BETWEEN) for text in texts]
        for text, (first, _, second) in zip(texts, halves, strict=True):
            if not first.strip() or not second.strip():
                raise MergeError(
                    f"The task {self.task!r} compares two texts: write {BETWEEN} between them (in {text[:40]!r})."
                )
        return [first.strip() for first, _, _ in halves], [second.strip() for _, _, second in halves]


def question_of(adapter: Adapter, task: Task | None = None) -> Question:
    """Return the question that an adapter answers: with its own head, and its task's labels where the task is known.

    Raises
    ------
    MergeError
        If the adapter carries no head, or one whose labels nobody knows.
    """
    head = own_head(adapter)
    if head is None:
        raise MergeError(f"{adapter.name} carries no head, so it answers no question: give it its task.")
    if task is not None:
        pairs = task.test.pairs is not None or task.train.pairs is not None
        return Question(adapter.task, head, task.labels, task.max_length, pairs)
    if isinstance(head, Verbaliser):
        return Question(adapter.task, head, tuple(head.words), pairs="{pair}" in head.template)
    labels = head.labels
    layers = [tensor for tensor in head.tensors.values() if tensor.ndim == 2]
    if not labels and len(layers) == 1:  # in the order of its outputs
        labels = tuple(f"label {place}" for place in range(len(layers[0])))
    if not labels:
        raise MergeError(f"The head of {adapter.name} does not name its labels: give the adapter its task.")
    return Question(adapter.task, head, labels)


@dataclass(frozen=True, eq=False)
class Reading:
    """Texts as some questions read them: questions that read the same tokens share them.

    Attributes
    ----------
    groups : (tokens, questions whose pooled heads read them)
    rest : questions that read in their own way, with their rows
    """

    tokenizer: Any
    texts: tuple[str, ...]
    groups: tuple[tuple[Encoded, tuple[Question, ...]], ...]
    rest: tuple[tuple[EncodedTask, Question], ...]

    @staticmethod
    def of(tokenizer: Any, texts: Sequence[str], questions: Sequence[Question]) -> Reading:
        """Tokenise texts; raises MergeError as `Question.encoded`."""
        if not texts:
            raise MergeError("There is no text: write one.")
        groups: dict[str, tuple[Encoded, list[Question]]] = {}
        rest = []
        for question in questions:
            rows = question.encoded(tokenizer, texts)
            if isinstance(question.head, Head) and question.head.kind == "pooled":
                groups.setdefault(str(rows.encoded.columns), (rows.encoded, []))[1].append(question)
            else:
                rest.append((rows, question))
        shared = tuple((encoded, tuple(some)) for encoded, some in groups.values())
        return Reading(tokenizer, tuple(texts), shared, tuple(rest))
