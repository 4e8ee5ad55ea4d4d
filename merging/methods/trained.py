"""Modules that adapters trained whole (embeddings, norms, a language model's head): their differences to the base are
merged as well.

Plug-ins leave them as they are: they have no factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from .base import Method, Stack


def merged_part(
    method: Method, params: Mapping[str, Any], stack: Stack, values: Sequence[Tensor | None], start: Tensor
) -> Tensor:
    """Return what the merge makes of one parameter: W0 + method(W_1 - W0, .., W_T - W0), float32.

    Parameters
    ----------
    stack : weights, tasks and generators at this parameter; its updates do not count
    values : W_i of each adapter; None where it left the parameter as it is
    start : W0, of the same shape

    Raises
    ------
    MergeError
        See `check_part`.
    """
    check_part(method, params, stack.module, values, start)
    W0 = start.float()
    if method.linear:  # a weighted sum needs no factors
        result = W0.clone()
        for value, share in zip(values, _shares(method, params, stack, values), strict=True):
            if value is not None:
                result += share * (value.float() - W0)
        return result
    updates = tuple(None if value is None else _as_update(value.float() - W0) for value in values)
    shape = next(update.shape for update in updates if update is not None)
    found = method.function(replace(stack, updates=updates, shape=shape), **params)
    return W0 + (found.dense() if isinstance(found, LowRank) else found).reshape(W0.shape)


def check_part(
    method: Method, params: Mapping[str, Any], name: str, values: Sequence[Tensor | None], start: Tensor
) -> None:
    """Raise MergeError if `merged_part` cannot merge the parameter ``name``: a shape is another one (the vocabulary was
    changed), or the method cannot work on differences.
    """
    for value in values:
        if value is not None and value.shape != start.shape:
            raise MergeError(
                f"{name} is {tuple(value.shape)} in an adapter but {tuple(start.shape)} in the base, as after a change "
                "of the vocabulary: resize the base the same way, save it, and name that folder as the base."
            )
    if not method.linear and (method.needs or not method.plugins or params.get("trim") == "model"):
        raise MergeError(
            f"{method.name} cannot merge {name}, which was trained whole: choose another method, or an adapter without "
            "it."
        )


def _as_update(difference: Tensor) -> LowRank:
    """Return a difference as the product of itself and the identity; a vector is one column."""
    matrix = difference.reshape(len(difference), -1) if difference.ndim else difference.reshape(1, 1)
    return LowRank(matrix.contiguous(), torch.eye(matrix.shape[1]))


def _shares(method: Method, params: Mapping[str, Any], stack: Stack, values: Sequence[Tensor | None]) -> list[float]:
    """Return the factor on each difference: what the method makes of a one there and zeros elsewhere."""
    shares = []
    for i in range(len(values)):
        ones = tuple(
            None if value is None else LowRank(torch.tensor([[float(i == j)]]), torch.ones(1, 1))
            for j, value in enumerate(values)
        )
        found = 0.0 if values[i] is None else method.function(replace(stack, updates=ones, shape=(1, 1)), **params)
        shares.append(float(found.dense() if isinstance(found, LowRank) else found))
    return shares
