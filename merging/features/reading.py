"""Reading: one pass over texts, whose layer inputs are kept as moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MergeError
from ..models.layers import bare, linear_layers
from ..tasks.batches import bucketed, encode
from .moments import Features, Moments, Rows, TokenFile


def collect_features(
    model: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Sequence[str]],
    k: int = 100,
    modules: Sequence[str] = (),
    max_length: int = 128,
    batch_size: int = 32,
    keep_tokens: bool = True,
    moments: Moments | None = None,
) -> Features:
    """Run the first ``k`` texts of each task through the frozen base model and record what enters each module.

    Padding never counts. Modules that read the same tensor (query, key and value of a layer) are stored once.

    Parameters
    ----------
    model : bare or with a head; its weights are not changed
    texts : {task: texts}, unlabelled
    modules : names relative to the bare encoder
    keep_tokens : keep every token row in a temporary file, so that any smaller k can be asked for; False keeps running
        moments only
    moments : where second moments of a smaller k are kept; None = a cache of this object's own

    Raises
    ------
    MergeError
        For k < 1, a task without texts, an empty text, or a module that the model lacks.
    """
    reading = reading_features(model, tokenizer, texts, k, modules, max_length, batch_size, keep_tokens, moments)
    while True:
        try:
            next(reading)
        except StopIteration as finished:
            features: Features = finished.value
            return features


@torch.no_grad()
def reading_features(
    model: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Sequence[str]],
    k: int = 100,
    modules: Sequence[str] = (),
    max_length: int = 128,
    batch_size: int = 32,
    keep_tokens: bool = True,
    moments: Moments | None = None,
    largest: int | None = None,
) -> Generator[tuple[int, int], None, Features]:
    """Do the work of `collect_features` step by step: yields (texts read, texts to read), returns the features.

    Closing the generator stops between two batches and takes the hooks off the model. Where the features would need
    more than ``largest`` bytes of memory the first batch is the last, with a MergeError.
    """
    if k < 1:
        raise MergeError(f"k = {k}: at least one text per task is needed.")
    if not texts:
        raise MergeError("No tasks given: collecting features needs the texts of at least one.")
    layers = linear_layers(model, modules)
    if not layers:
        raise MergeError("No modules given: name the linear layers whose inputs should be collected.")
    for task, all_texts in texts.items():
        if not len(all_texts):
            raise MergeError(f"The task {task!r} has no texts to collect features from.")
    encoded = {task: encode(tokenizer, list(all_texts[:k]), max_length) for task, all_texts in texts.items()}
    done, total = 0, sum(map(len, encoded.values()))
    recorder = _Recorder(TokenFile() if keep_tokens else None)
    handles = [layer.register_forward_pre_hook(recorder.hook(name)) for name, layer in layers.items()]
    device = next(model.parameters()).device
    reader = _reader(model, layers)
    was_training = model.training
    model.eval()
    try:
        rows: dict[tuple[str, str], Rows] = {}
        for task, encoded_texts in encoded.items():
            recorder.start(encoded_texts.lengths)
            for batch_rows in bucketed(encoded_texts.lengths, batch_size):
                batch = encoded_texts.batch(batch_rows, device)
                recorder.batch_rows, recorder.mask = batch_rows, batch["attention_mask"].bool()
                reader(**batch)
                if not done and largest is not None:
                    recorder.check_size([len(one) for one in encoded.values()], largest)
                done += len(batch_rows)
                yield done, total
            rows |= {(task, name): value for name, value in recorder.finish().items()}
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return Features(
        tuple(texts), tuple(layers), rows, dict(recorder.shared), None, recorder.tokens, moments or Moments()
    )


def _reader(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return the part of a model that reads texts: without a head (a vocabulary is wide), and of an encoder-decoder the
    encoder.
    """
    inner = bare(model)
    if not inner.config.is_encoder_decoder:  # type: ignore[union-attr]
        return inner
    encoder: nn.Module = inner.get_encoder()  # type: ignore[operator]
    inside = {id(module) for module in encoder.modules()}
    for name in names:
        if id(inner.get_submodule(name)) not in inside:
            raise MergeError(
                f"{name} is in the decoder, which reads nothing before it writes: methods that need data take "
                "adapters of the encoder only."
            )
    return encoder


class _Recorder:
    """Collects layer inputs through forward hooks; modules that get the same tensor object share their rows."""

    def __init__(self, tokens: TokenFile | None) -> None:
        self.tokens = tokens
        self.shared: dict[str, str] = {}
        self.batch_rows: list[int] = []
        self.mask = torch.empty(0)
        self._last: dict[int, tuple[str, Tensor]] = {}
        self._found: dict[str, Rows] = {}
        self._moments: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def start(self, lengths: Sequence[int]) -> None:
        """Begin with a task's texts of so many tokens each."""
        self._ends, self._found, self._moments, self._counts = torch.tensor(lengths).cumsum(0), {}, {}, Counter()

    def hook(self, name: str) -> Any:
        def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            states = inputs[0]
            if states.shape[:2] != self.mask.shape:
                raise MergeError(
                    f"{name} reads a tensor {tuple(states.shape)}, not (batch, length, width): it cannot be pooled."
                )
            if name not in self.shared:
                known = self._last.get(id(states))
                self.shared[name] = known[0] if known is not None and known[1] is states else name
                self._last[id(states)] = (self.shared[name], states)
            if self.shared[name] == name:
                self._add(name, states)

        return record

    def _add(self, name: str, states: Tensor) -> None:
        width, texts = states.shape[-1], len(self._ends)
        if name not in self._found:
            begin = self.tokens.reserve(int(self._ends[-1]), width) if self.tokens else 0
            self._found[name] = Rows(torch.empty(texts, width), torch.empty(0), 0, begin, self._ends)
        found = self._found[name]
        for row, state, mask in zip(self.batch_rows, states, self.mask, strict=True):
            tokens = state[mask].float().cpu()
            found.samples[row] = tokens.double().mean(0).float()
            if self.tokens:
                self.tokens.write(found.begin + 4 * width * (int(self._ends[row]) - len(tokens)), tokens)
        real = states[self.mask].double().cpu()
        moment = real.T @ real
        self._moments[name] = self._moments[name] + moment if name in self._moments else moment
        self._counts[name] += len(real)

    def check_size(self, texts: Sequence[int], largest: int) -> None:
        """Refuse what would not fit: of every input one second moment a task, and a mean a text."""
        widths = [found.samples.shape[1] for found in self._found.values()]
        size = sum(8 * width**2 * len(texts) + 4 * width * sum(texts) for width in widths)
        if size > largest:
            raise MergeError(
                f"The features of {len(texts)} tasks at {len(widths)} layer inputs need {size / 1e9:.1f} GB of memory, "
                f"more than the {largest / 1e9:.1f} GB that are kept: choose fewer tasks or fewer kinds of modules."
            )

    def finish(self) -> dict[str, Rows]:
        self._last = {}
        return {
            name: replace(found, moment=self._moments[name], count=self._counts[name])
            for name, found in self._found.items()
        }
