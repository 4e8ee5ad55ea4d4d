"""What a fine-tuning minimises and how it is scored: a classifier on pooled states, or a language model's words for the
labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..adapters.head import Head
from ..errors import MergeError
from ..evaluation.verbalisers import Texts, Verbaliser, label_scorer
from ..models.layers import bare, pooled_states
from ..tasks.batches import Encoded, bucketed, encode
from ..tasks.task import Split, Task


class Objective(Protocol):
    """Loss and score of a task's rows, from the weights that the model has at the time."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each training text."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained beside the adapter."""

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Return the mean loss of training rows."""

    def score(self) -> tuple[float, float]:
        """Return (accuracy, mean negative log-likelihood) on the validation rows."""

    def head(self) -> Head | Verbaliser:
        """Return what turns the model into a classifier, as it is now."""


class PooledClassifier:
    """A linear classifier on the mean-pooled states, trained with the adapter (cross-entropy)."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        task: Task,
        train: Split,
        validation: Split,
        max_length: int | None,
        head: Head | None,
    ) -> None:
        """``head`` is where the classifier starts; None = the logistic-regression probe on the training rows."""
        self.model, self.classes = model, task.labels
        self.encoded, self.labels = encoded_split(tokenizer, task, train, max_length)
        _check_labels(self.labels, self.classes)
        self.validation = encoded_split(tokenizer, task, validation, max_length)
        self.lengths = self.encoded.lengths
        start = head or probe_head(model, self.encoded, self.labels, len(self.classes), self.classes)
        device = next(model.parameters()).device
        self.parameters = [nn.Parameter(start.tensors[key].to(device).clone()) for key in ("weight", "bias")]

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Return the mean cross-entropy of training rows."""
        states = pooled_states(self.model, self.encoded.batch(rows, self.parameters[0].device))
        # a classifier in bfloat16 would round its logits to three digits
        with torch.autocast(states.device.type, enabled=False):
            logits = nn.functional.linear(states.float(), *self.parameters)
            return nn.functional.cross_entropy(logits, self.labels[rows].to(logits.device))

    def score(self) -> tuple[float, float]:
        """Return (accuracy, mean negative log-likelihood) on the validation rows."""
        encoded, labels = self.validation
        logits = self.head().logits(frozen_states(self.model, encoded))
        return float((logits.argmax(1) == labels).double().mean()), float(nn.functional.cross_entropy(logits, labels))

    def head(self) -> Head:
        """Return the classifier as it is now."""
        weight, bias = (parameter.detach().cpu().clone() for parameter in self.parameters)
        return Head("pooled", {"weight": weight, "bias": bias}, self.classes)


class LabelWords:
    """A language model that writes the label: the negative log-likelihood of the right words after the prompt, no
    classifier.
    """

    parameters: Sequence[nn.Parameter] = ()

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        task: Task,
        train: Split,
        validation: Split,
        max_length: int | None,
        verbaliser: Verbaliser,
    ) -> None:
        self.verbaliser, length = verbaliser, task.shortened(max_length)
        self.labels, self.expected = torch.tensor(train.labels), torch.tensor(validation.labels)
        self.lengths = encode(tokenizer, train.texts, length, train.pairs).lengths
        self.train, self.validation = (
            label_scorer(verbaliser, model, tokenizer, Texts(split.texts, split.pairs, length), task.labels, task.name)
            for split in (train, validation)
        )

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Return the mean negative log-likelihood of the right words."""
        scores = self.train(rows)
        return -scores.gather(1, self.labels[rows].to(scores.device).unsqueeze(1)).mean()

    @torch.no_grad()
    def score(self) -> tuple[float, float]:
        """Return (accuracy, mean negative log-likelihood of the right words) on the validation rows."""
        rows = range(len(self.expected))
        scores = torch.cat([self.validation(rows[start : start + 32]).float().cpu() for start in rows[::32]])
        likelihood = scores.gather(1, self.expected.unsqueeze(1))
        return float((scores.argmax(1) == self.expected).double().mean()), -float(likelihood.mean())

    def head(self) -> Verbaliser:
        """Return the words, which are not trained."""
        return self.verbaliser


@torch.no_grad()
def frozen_states(model: nn.Module, encoded: Encoded, batch_size: int = 64) -> Tensor:
    """Return the mean-pooled states of every text, (rows, hidden), in the order of the texts."""
    device = next(model.parameters()).device
    states = torch.empty(0)
    for rows in bucketed(encoded.lengths, batch_size):
        pooled = pooled_states(model, encoded.batch(rows, device)).float().cpu()
        if not len(states):
            states = torch.empty(len(encoded), pooled.shape[1])
        states[rows] = pooled
    return states


def probe_head(model: nn.Module, encoded: Encoded, labels: Tensor, classes: int, names: tuple[str, ...]) -> Head:
    """Return the logistic-regression probe (scikit-learn, C = 1) on the frozen base as a head."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second

    _check_labels(labels, names)
    probe = LogisticRegression(C=1.0, max_iter=2000).fit(frozen_states(model, encoded).numpy(), labels.numpy())
    weight = torch.from_numpy(probe.coef_).float()
    bias = torch.from_numpy(probe.intercept_).float()
    if classes == 2:  # one row of coefficients: half of it for and against
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return Head("pooled", {"weight": weight, "bias": bias}, names)


def _check_labels(labels: Tensor, names: Sequence[str]) -> None:
    missing = sorted(set(range(len(names))) - set(labels.tolist()))
    if missing:
        raise MergeError(
            f"No training row has the label {names[missing[0]]!r}: add rows of it, or take it out of the labels."
        )


def scratch_head(model: nn.Module, names: tuple[str, ...], seed: int) -> Head:
    """Return a new classifier on pooled states: weights N(0, 0.02²) as transformers draws them, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    hidden: int = bare(model).config.hidden_size  # type: ignore[union-attr, assignment]
    weight = 0.02 * torch.randn(len(names), hidden, generator=generator)
    return Head("pooled", {"weight": weight, "bias": torch.zeros(len(names))}, names)


def encoded_split(tokenizer: Any, task: Task, split: Split, max_length: int | None) -> tuple[Encoded, Tensor]:
    """Return the rows of a split, tokenised, and their labels (rows,)."""
    return encode(tokenizer, split.texts, task.shortened(max_length), split.pairs), torch.tensor(split.labels)
