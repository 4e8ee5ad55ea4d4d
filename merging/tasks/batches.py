"""Texts to batches: tokenised once, padded to the longest text of a batch of similar lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MergeError


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokenised texts without padding.

    Attributes
    ----------
    columns : dict of str to list of lists of int
        The tokenizer's output, one list per text (``input_ids``, ``attention_mask``, perhaps ``token_type_ids``).
    """

    columns: dict[str, list[list[int]]]
    tokenizer: Any

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each text."""
        return [len(ids) for ids in self.columns["input_ids"]]

    def batch(self, rows: Sequence[int], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Return the model's inputs for ``rows``, padded to the longest of them, each (len(rows), length)."""
        picked = {key: [values[row] for row in rows] for key, values in self.columns.items()}
        padded = self.tokenizer.pad(picked, return_tensors="pt")
        return {key: value.to(device) for key, value in padded.items()}


def encode(tokenizer: Any, texts: Sequence[str], max_length: int, pairs: Sequence[str] | None = None) -> Encoded:
    """Tokenise ``texts`` (with ``pairs`` as second segments), truncated to ``max_length`` tokens.

    Raises
    ------
    MergeError
        If a text is empty: it has no token to average over.
    """
    for row, text in enumerate(texts):
        if not text.strip():
            raise MergeError(f"Text {row + 1} of {len(texts)} is empty: there is nothing to read in it.")
    columns = tokenizer(list(texts), list(pairs) if pairs else None, truncation=True, max_length=max_length)
    return Encoded({key: columns[key] for key in columns if key in tokenizer.model_input_names}, tokenizer)


def bucketed(lengths: Sequence[int], batch_size: int, generator: torch.Generator | None = None) -> list[list[int]]:
    """Return all rows in batches of similar lengths, in random order if a ``generator`` is given.

    The rows are shuffled, sorted by length within stretches of 50 batches, cut, and the batches shuffled: little
    padding, nearly random batches. Without a generator: one sort by length, longest first (a shortage of memory shows
    at once).
    """
    if generator is None:
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    order = torch.randperm(len(lengths), generator=generator).tolist()
    stretch = 50 * batch_size
    batches = []
    for begin in range(0, len(order), stretch):
        rows = sorted(order[begin : begin + stretch], key=lambda row: lengths[row])
        batches += [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
