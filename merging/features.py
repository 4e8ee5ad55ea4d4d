"""Features: what enters each linear layer of the frozen base model, per task, and its second moments.

OSRM, RegMean and the interference diagnostics all start from H^T H of a layer's inputs. Three poolings exist because the
OSRM paper, its code and common sense differ: every token (the default), the mean of each text, the mean of the task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .batches import bucketed, encode
from .errors import MergeError
from .models import bare, linear_layers

POOLINGS = ("token", "mean", "task_mean")
BLOCK = 50
"""Texts whose second moments are added up once and kept."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """Inputs of one layer for one task: token rows in the order of the texts, and where each text ends."""

    samples: Tensor  # (k, in) one mean per text
    moment: Tensor  # (in, in) sum over all tokens of h h^T
    count: int  # tokens in the moment
    tokens: Tensor | None  # (count, in), or None where only the running moment was kept
    ends: Tensor  # (k,) end of text i in tokens

    def gram(self, first: int, last: int) -> Tensor:
        """Return the sum of h h^T over the tokens of the texts from ``first`` up to ``last``, (in, in) float64."""
        assert self.tokens is not None
        begin, end = (0 if text == 0 else int(self.ends[text - 1]) for text in (first, last))
        H = self.tokens[begin:end].double()
        return H.T @ H


@dataclass(frozen=True, eq=False)
class Features:
    """Layer inputs of the base model for several tasks; see `collect_features`.

    Attributes
    ----------
    tasks, modules : tuple of str
    k : int
        Largest number of texts of a task.
    """

    tasks: tuple[str, ...]
    modules: tuple[str, ...]
    rows: Mapping[tuple[str, str], _Rows]
    shared: Mapping[str, str]  # module -> the module whose input it shares (query for key and value)
    limit: int | None = None  # texts per task that count, see `first`
    _cache: dict[tuple[str, str, str, int], Tensor] = field(default_factory=dict, repr=False)
    _blocks: dict[tuple[str, str, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def k(self) -> int:
        """Largest number of texts of a task."""
        return min(n for n in (self.limit, max(len(r.samples) for r in self.rows.values())) if n is not None)

    def _of(self, task: str, module: str) -> _Rows:
        if task not in self.tasks:
            raise MergeError(f"There are no features of the task {task!r}; collected were {', '.join(self.tasks)}.")
        if module not in self.shared:
            raise MergeError(f"There are no features of the module {module!r}; collected were {', '.join(self.modules)}.")
        return self.rows[task, self.shared[module]]

    def samples(self, task: str, module: str) -> Tensor:
        """Return one masked mean per text, shape (k, in), float32."""
        return self._of(task, module).samples[: self.limit]

    def first(self, k: int) -> Features:
        """Return the features of the first ``k`` texts of each task, without running the model again."""
        if k < 1:
            raise MergeError(f"k = {k}: at least one text per task is needed.")
        return replace(self, limit=k)

    def second_moment(self, task: str, module: str, pooling: str = "token", k: int | None = None) -> Tensor:
        """Return H^T H / rows, uncentred, shape (in, in), float64.

        Parameters
        ----------
        pooling : "token" (a row per token), "mean" (a row per text) or "task_mean" (one row, as OSRM's official code)
        k : use only the first ``k`` texts; None = all

        Raises
        ------
        MergeError
            For an unknown task, module or pooling, for k < 1, and for a smaller k where only running moments were kept.
        """
        rows = self._of(task, module)
        if pooling not in POOLINGS:
            raise MergeError(f"Unknown pooling {pooling!r}: choose one of {', '.join(POOLINGS)}.")
        if k is not None and k < 1:
            raise MergeError(f"k = {k}: at least one text is needed.")
        k = min(n for n in (k, self.limit, len(rows.samples)) if n is not None)
        key = (task, self.shared[module], pooling, k)
        if key not in self._cache:
            if pooling == "token":
                self._cache[key] = self._token_moment(rows, *key[:2], k)
            else:
                H = rows.samples[:k].double()
                H = H if pooling == "mean" else H.mean(0, keepdim=True)
                self._cache[key] = H.T @ H / len(H)
        return self._cache[key]

    def _token_moment(self, rows: _Rows, task: str, source: str, k: int) -> Tensor:
        """Add up whole blocks of texts, which are kept, and what is left: a moving k costs no more than one block."""
        if k == len(rows.samples):
            return rows.moment / rows.count
        if rows.tokens is None:
            raise MergeError("Only running moments were kept, so a smaller k cannot be taken: collect with keep_tokens=True.")
        whole = k // BLOCK
        for block in range(whole):
            if (task, source, block) not in self._blocks:
                self._blocks[task, source, block] = rows.gram(block * BLOCK, (block + 1) * BLOCK)
        total = sum((self._blocks[task, source, block] for block in range(whole)), rows.gram(whole * BLOCK, k))
        return total / int(rows.ends[k - 1])


def collect_features(
    model: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Sequence[str]],
    k: int = 100,
    modules: Sequence[str] = (),
    max_length: int = 128,
    batch_size: int = 32,
    keep_tokens: bool = True,
) -> Features:
    """Run the first ``k`` texts of each task through the frozen base model and record what enters each module.

    Padding never counts. Modules that read the same tensor (query, key and value of a layer) are stored once.

    Parameters
    ----------
    model : bare or with a head; its weights are not changed
    texts : {task: texts}, unlabelled
    modules : names relative to the bare encoder
    keep_tokens : keep every token row, so that any smaller k can be asked for; False keeps running moments only

    Raises
    ------
    MergeError
        For k < 1, a task without texts, an empty text, or a module that the model lacks.
    """
    reading = reading_features(model, tokenizer, texts, k, modules, max_length, batch_size, keep_tokens)
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
) -> Generator[tuple[int, int], None, Features]:
    """Do the work of `collect_features` step by step: yields (texts read, texts to read), returns the features.

    Closing the generator stops between two batches and takes the hooks off the model.
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
    recorder = _Recorder(keep_tokens)
    handles = [layer.register_forward_pre_hook(recorder.hook(name)) for name, layer in layers.items()]
    device = next(model.parameters()).device
    reader = _reader(model, layers)
    was_training = model.training
    model.eval()
    try:
        rows: dict[tuple[str, str], _Rows] = {}
        for task, encoded_texts in encoded.items():
            recorder.start()
            for batch_rows in bucketed(encoded_texts.lengths, batch_size):
                batch = encoded_texts.batch(batch_rows, device)
                recorder.batch_rows, recorder.mask = batch_rows, batch["attention_mask"].bool()
                reader(**batch)
                done += len(batch_rows)
                yield done, total
            rows |= {(task, name): value for name, value in recorder.finish().items()}
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return Features(tuple(texts), tuple(layers), rows, dict(recorder.shared))


def _reader(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return the part of a model that reads texts: without a head (a vocabulary is wide), and of an encoder-decoder the encoder."""
    inner = bare(model)
    if not inner.config.is_encoder_decoder:  # type: ignore[union-attr]
        return inner
    encoder: nn.Module = inner.get_encoder()  # type: ignore[operator]
    inside = {id(module) for module in encoder.modules()}
    for name in names:
        if id(inner.get_submodule(name)) not in inside:
            raise MergeError(
                f"{name} is in the decoder, which reads nothing before it writes: methods that need data take adapters of the encoder only."
            )
    return encoder


class _Recorder:
    """Collects layer inputs through forward hooks; modules that get the same tensor object share their rows."""

    def __init__(self, keep_tokens: bool) -> None:
        self.keep_tokens = keep_tokens
        self.shared: dict[str, str] = {}
        self.batch_rows: list[int] = []
        self.mask = torch.empty(0)
        self._last: dict[int, tuple[str, Tensor]] = {}
        self._parts: dict[str, dict[int, Tensor]] = {}
        self._moments: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def start(self) -> None:
        self._parts, self._moments, self._counts = {}, {}, Counter()

    def hook(self, name: str) -> Any:
        def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            states = inputs[0]
            if states.shape[:2] != self.mask.shape:
                raise MergeError(f"{name} reads a tensor {tuple(states.shape)}, not (batch, length, width): it cannot be pooled.")
            if name not in self.shared:
                known = self._last.get(id(states))
                self.shared[name] = known[0] if known is not None and known[1] is states else name
                self._last[id(states)] = (self.shared[name], states)
            if self.shared[name] == name:
                self._add(name, states)

        return record

    def _add(self, name: str, states: Tensor) -> None:
        parts = self._parts.setdefault(name, {})
        for row, state, mask in zip(self.batch_rows, states, self.mask, strict=True):
            tokens = state[mask].float().cpu()
            parts[row] = tokens if self.keep_tokens else tokens.double().mean(0, keepdim=True).float()
        real = states[self.mask].double().cpu()
        moment = real.T @ real
        self._moments[name] = self._moments[name] + moment if name in self._moments else moment
        self._counts[name] += len(real)

    def finish(self) -> dict[str, _Rows]:
        self._last = {}
        result = {}
        for name, parts in self._parts.items():
            ordered = [parts[row] for row in range(len(parts))]
            lengths = torch.tensor([len(tokens) for tokens in ordered])
            result[name] = _Rows(
                samples=torch.stack([tokens.double().mean(0).float() for tokens in ordered]),
                moment=self._moments[name],
                count=self._counts[name],
                tokens=torch.cat(ordered) if self.keep_tokens else None,
                ends=lengths.cumsum(0),
            )
        return result
