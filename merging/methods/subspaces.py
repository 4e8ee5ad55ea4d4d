"""Shared bases: orthonormal directions that hold several updates, however different their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank, numerical_rank

SUM_TOLERANCE = 1e-9
"""Singular values of a sum below this share of the largest are what is left of directions that cancel."""


@dataclass(frozen=True, eq=False)
class Thin:
    """Thin SVD of one update at its own numerical rank: U (out, r), S (r,), Vh (r, in), float64."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def thin_svds(updates: Sequence[LowRank]) -> list[Thin]:
    """Return the SVD of every update, cut at 1e-6 of its own largest singular value (a small adapter keeps its
    rank)."""
    return [Thin(*update.svd()) for update in updates]


def span(directions: Sequence[Tensor]) -> Tensor:
    """Return an orthonormal basis (n, R) of what orthonormal columns (n, r_i) span together, R the numerical rank.

    Directions have unit length, so the rank does not depend on how large the updates are.
    """
    stacked = torch.cat(list(directions), dim=1)
    Q, R = torch.linalg.qr(stacked)
    U, S, _ = torch.linalg.svd(R, full_matrices=False)
    basis: Tensor = Q @ U[:, : numerical_rank(S)]
    return basis


def svd_of_sum(parts: Sequence[Thin]) -> Thin:
    """Return the SVD of the sum of updates (one or more), cut at its numerical rank: 0 where they cancel."""
    P, Q = span([part.U for part in parts]), span([part.Vh.T for part in parts])
    core = torch.stack([((P.T @ part.U) * part.S) @ (part.Vh @ Q) for part in parts]).sum(0)
    U, S, Vh = torch.linalg.svd(core, full_matrices=False)
    rank = numerical_rank(S, SUM_TOLERANCE)
    return Thin(P @ U[:, :rank], S[:rank], Vh[:rank] @ Q.T)


def polar(stacked: Tensor) -> Tensor:
    """Return the polar factor of (n, r) columns: the nearest matrix with orthonormal columns, cut at the numerical
    rank.

    Without the cut, duplicated directions would fill up with round-off.
    """
    Q, R = torch.linalg.qr(stacked)
    U, S, Vh = torch.linalg.svd(R, full_matrices=False)
    rank = numerical_rank(S)
    factor: Tensor = Q @ (U[:, :rank] @ Vh[:rank])
    return factor
