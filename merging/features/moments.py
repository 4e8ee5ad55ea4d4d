"""Features: what enters each linear layer of the frozen base model, per task, and its second moments.

OSRM, RegMean and the interference diagnostics all start from H^T H of a layer's inputs. Three poolings exist because
the OSRM paper, its code and common sense differ: every token (the default), the mean of each text, the mean of the
task.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import MergeError
from ..models.layers import bare, linear_layers
from ..tasks.batches import bucketed, encode

POOLINGS = ("token", "mean", "task_mean")
BLOCK = 50
"""Texts whose second moments are added up at a time, always in the same order: a prefix does not depend on what was
asked before.
"""
LARGEST_MOMENTS = 500_000_000
"""Bytes of second moments that are kept beside the running ones; the least recently used go."""


class Moments:
    """Second moments by key, the least recently used forgotten beyond a number of bytes; shared between threads."""

    def __init__(self, largest: int = LARGEST_MOMENTS) -> None:
        self.largest, self.nbytes = largest, 0
        self._kept: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        """Return what is kept under a key, made now where nothing is."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self.nbytes += made.nbytes
            self._kept[key] = made
            while self.nbytes > self.largest and len(self._kept) > 1:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes
        return made

    def forget(self, owner: int) -> None:
        """Drop every key that begins with ``owner``."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                self.nbytes -= self._kept.pop(key).nbytes


class TokenFile:
    """Token rows in an unnamed temporary file, float32: a smaller k is read from there, and memory holds none of
    them."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="mergescope-tokens-")  # noqa: SIM115 - lives as long as the object
        self.size = 0

    def reserve(self, rows: int, width: int) -> int:
        """Set room for (rows, width) aside; returns where it begins, in bytes."""
        begin, self.size = self.size, self.size + 4 * rows * width
        return begin

    def write(self, begin: int, rows: Tensor) -> None:
        """Write rows (n, width) from a byte on."""
        os.pwrite(self._file.fileno(), rows.contiguous().numpy().tobytes(), begin)

    def read(self, begin: int, rows: int, width: int) -> Tensor:
        """Return rows (n, width) from a byte on."""
        raw = os.pread(self._file.fileno(), 4 * rows * width, begin)
        return torch.from_numpy(np.frombuffer(raw, dtype=np.float32).reshape(rows, width).copy())


@dataclass(frozen=True, eq=False)
class _Rows:
    """Inputs of one layer for one task."""

    samples: Tensor  # (k, in) one mean per text
    moment: Tensor  # (in, in) sum over all tokens of h h^T
    count: int  # tokens in the moment
    begin: int  # of the first token row in the file of tokens
    ends: Tensor  # (k,) tokens up to the end of text i


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
    tokens: TokenFile | None = field(default=None, repr=False)  # None where only running moments were kept
    moments: Moments = field(default_factory=Moments, repr=False)

    @property
    def k(self) -> int:
        """Largest number of texts of a task."""
        return min(n for n in (self.limit, max(len(r.samples) for r in self.rows.values())) if n is not None)

    def _of(self, task: str, module: str) -> _Rows:
        if task not in self.tasks:
            raise MergeError(f"There are no features of the task {task!r}; collected were {', '.join(self.tasks)}.")
        if module not in self.shared:
            raise MergeError(
                f"There are no features of the module {module!r}; collected were {', '.join(self.modules)}."
            )
        return self.rows[task, self.shared[module]]

    def samples(self, task: str, module: str) -> Tensor:
        """Return one masked mean per text, shape (k, in), float32."""
        return self._of(task, module).samples[: self.limit]

    def first(self, k: int) -> Features:
        """Return the features of the first ``k`` texts of each task, without running the model again."""
        if k < 1:
            raise MergeError(f"k = {k}: at least one text per task is needed.")
        return replace(self, limit=k)

    def renamed(self, names: Mapping[str, str]) -> Features:
        """Return the same features with the tasks called otherwise: {task: its other name}, all of them."""
        rows = {(names[task], module): found for (task, module), found in self.rows.items()}
        return replace(self, tasks=tuple(names[task] for task in self.tasks), rows=rows, moments=Moments())

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
        if pooling == "token":
            if k == len(rows.samples):
                return rows.moment / rows.count
            source = self.shared[module]
            return self.moments.get((id(self.rows), task, source, k), lambda: self._token_moment(rows, task, source, k))
        H = rows.samples[:k].double()
        H = H if pooling == "mean" else H.mean(0, keepdim=True)
        return H.T @ H / len(H)

    def _token_moment(self, rows: _Rows, task: str, source: str, k: int) -> Tensor:
        total = self._blocks(rows, task, source, k // BLOCK) + self._gram(rows, k // BLOCK * BLOCK, k)
        return total / int(rows.ends[k - 1])

    def _blocks(self, rows: _Rows, task: str, source: str, count: int) -> Tensor:
        """Return the sum of h h^T over the first ``count`` whole blocks of texts; a moving k costs no more than what it
        passes.
        """
        width = rows.samples.shape[1]
        if not count:
            return torch.zeros(width, width, dtype=torch.float64)

        def grown() -> Tensor:
            return self._blocks(rows, task, source, count - 1) + self._gram(rows, (count - 1) * BLOCK, count * BLOCK)

        return self.moments.get((id(self.rows), task, source, "blocks", count), grown)

    def _gram(self, rows: _Rows, first: int, last: int) -> Tensor:
        """Return the sum of h h^T over the tokens of the texts from ``first`` up to ``last``, (in, in) float64."""
        if self.tokens is None:
            raise MergeError(
                "Only running moments were kept, so a smaller k cannot be taken: collect with keep_tokens=True."
            )
        width = rows.samples.shape[1]
        begin, end = (0 if text == 0 else int(rows.ends[text - 1]) for text in (first, last))
        H = self.tokens.read(rows.begin + 4 * width * begin, end - begin, width).double()
        return H.T @ H

    @property
    def nbytes(self) -> int:
        """Bytes of memory that stay taken, without `moments`; `tokens` are on disk."""
        return sum(rows.samples.nbytes + rows.moment.nbytes + rows.ends.nbytes for rows in self.rows.values())


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
        rows: dict[tuple[str, str], _Rows] = {}
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
        self._found: dict[str, _Rows] = {}
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
            self._found[name] = _Rows(torch.empty(texts, width), torch.empty(0), 0, begin, self._ends)
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

    def finish(self) -> dict[str, _Rows]:
        self._last = {}
        return {
            name: replace(found, moment=self._moments[name], count=self._counts[name])
            for name, found in self._found.items()
        }
