"""LowRank: the product B·A of two thin matrices, as a value.

A LoRA update is B (out, r) times A (r, in). Everything that a merge or a diagnostic needs (norms, singular values,
sums) follows from the factors, so the dense (out, in) matrix is built only where somebody asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MergeError

RANK_TOLERANCE = 1e-6
"""Singular values below this share of an update's largest one are round-off of float32 factors, not directions."""

SKETCHED_FROM = 512
"""Widths up to which a full SVD takes a moment."""
POWER_ITERATIONS = 3
ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update ``B @ A`` of one linear layer.

    Parameters
    ----------
    B : Tensor, shape (out, r)
    A : Tensor, shape (r, in)
        Same dtype as ``B`` (float32, or float64 in tests of exactness). The rank may be 0: the zero update.

    Raises
    ------
    MergeError
        If the shapes do not form a product.
    """

    B: Tensor
    A: Tensor

    def __post_init__(self) -> None:
        if self.B.ndim != 2 or self.A.ndim != 2 or self.B.shape[1] != self.A.shape[0]:
            raise MergeError(
                f"B {tuple(self.B.shape)} times A {tuple(self.A.shape)} is no product: expected (out, r) times (r, in)."
            )

    # -- shape ---------------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), the shape of the dense update."""
        return self.B.shape[0], self.A.shape[1]

    @property
    def rank(self) -> int:
        """Number of stored directions r: an upper bound of the true rank."""
        return self.A.shape[0]

    @staticmethod
    def zero(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> LowRank:
        """Return the zero update of ``shape`` = (out, in), of rank 0."""
        return LowRank(torch.zeros(shape[0], 0, dtype=dtype), torch.zeros(0, shape[1], dtype=dtype))

    @staticmethod
    def nearest(update: LowRank | Tensor, rank: int, exact: bool = False) -> tuple[LowRank, float]:
        """Return (approximation with at most ``rank`` directions, ||update - approximation|| / ||update||).

        It is the best one (Eckart-Young), but for large dense matrices of which few directions are wanted
        (`sketchable`): there a randomised SVD comes within about 1 % of the best one's error. The error is measured; 0
        where nothing is cut, and for the zero update.

        Parameters
        ----------
        exact : the best one in any case, which takes minutes at width 4096
        """
        if rank < 1:
            raise MergeError(f"rank = {rank}: a rank is at least 1.")
        if not isinstance(update, LowRank) and not exact and sketchable(update.shape, rank):
            approximation = _balanced(*_sketched_svd(update, rank), rank)
            return approximation, _distance(update, approximation)
        if isinstance(update, LowRank):
            (U, S, Vh), dtype = update.svd(tolerance=0.0), update.A.dtype
        else:
            (U, S, Vh), dtype = torch.linalg.svd(update.double(), full_matrices=False), update.dtype
        total = float(torch.linalg.vector_norm(S))
        error = float(torch.linalg.vector_norm(S[rank:])) / total if total else 0.0
        return _balanced(U, S, Vh, min(rank, len(S))).to(dtype), error

    @staticmethod
    def concat(updates: Sequence[LowRank]) -> LowRank:
        """Return the exact sum of updates of one shape: B side by side, A stacked; ranks add up."""
        return LowRank(torch.cat([u.B for u in updates], dim=1), torch.cat([u.A for u in updates], dim=0))

    # -- arithmetic ----------------------------------------------------------------------------------------------------

    def __mul__(self, scalar: float) -> LowRank:
        return LowRank(self.B * scalar, self.A)

    __rmul__ = __mul__

    def scale_columns(self, factors: Tensor) -> LowRank:
        """Return the update with column j multiplied by ``factors[j]`` (shape (in,)): B (A diag(factors))."""
        return LowRank(self.B, self.A * factors.to(self.A.dtype))

    def to(self, dtype: torch.dtype) -> LowRank:
        """Return the same update with factors of ``dtype``."""
        return self if self.A.dtype == dtype else LowRank(self.B.to(dtype), self.A.to(dtype))

    def dense(self) -> Tensor:
        """Return the product, shape (out, in)."""
        return self.B @ self.A

    # -- what the factors tell without the product ---------------------------------------------------------------------

    def inner(self, other: LowRank) -> float:
        """Return the Frobenius inner product <B A, B' A'> = tr((B^T B')(A' A^T)), in float64."""
        left = self.B.double().T @ other.B.double()
        right = self.A.double() @ other.A.double().T
        return float((left * right).sum())

    def norm(self) -> float:
        """Return the Frobenius norm."""
        return float(torch.linalg.vector_norm(self.core()[1]))

    def column_norms(self) -> Tensor:
        """Return the norm of every column (one per input feature), shape (in,), float64.

        sqrt(a_j^T (B^T B) a_j), computed as |R a_j| with B = Q R so that no precision is lost to squaring.
        """
        R = torch.linalg.qr(self.B.double(), mode="r").R
        norms: Tensor = torch.linalg.vector_norm(R @ self.A.double(), dim=0)
        return norms

    def core(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (Q_B, M, Q_A) in float64 with B A = Q_B M Q_A^T, Q orthonormal columns, M at most r x r."""
        Q_B, R_B = torch.linalg.qr(self.B.double())
        Q_A, R_A = torch.linalg.qr(self.A.double().T)
        return Q_B, R_B @ R_A.T, Q_A

    def svd(self, tolerance: float = RANK_TOLERANCE) -> tuple[Tensor, Tensor, Tensor]:
        """Return the thin SVD (U, S, Vh) in float64, cut to the singular values above ``tolerance`` times the largest.

        Shapes (out, t), (t,), (t, in); t is the numerical rank, 0 for the zero update.
        """
        Q_B, M, Q_A = self.core()
        U, S, Vh = torch.linalg.svd(M)
        keep = numerical_rank(S, tolerance)
        return Q_B @ U[:, :keep], S[:keep], Vh[:keep] @ Q_A.T

    # -- other factors of (nearly) the same product --------------------------------------------------------------------

    def truncate(self, rank: int) -> LowRank:
        """Return the best approximation with at most ``rank`` directions (Eckart-Young)."""
        return LowRank.nearest(self, rank)[0]

    def trimmed(self) -> LowRank:
        """Return the same update without the directions of zeros at its end, with which files are brought to one
        rank.
        """
        alive = (self.A.any(1) | self.B.any(0)).nonzero()
        rank = int(alive[-1]) + 1 if len(alive) else 1
        return LowRank(self.B[:, :rank].contiguous(), self.A[:rank].contiguous()) if rank < self.rank else self

    def may_overflow(self) -> bool:
        """Tell whether the largest numbers that B and A hold could multiply and sum up beyond float32."""
        largest = math.prod(float(factor.abs().max()) if factor.numel() else 0.0 for factor in (self.B, self.A))
        return largest * self.rank > torch.finfo(torch.float32).max

    def balanced(self) -> LowRank:
        """Return the same update with its numerical rank and the singular values split evenly: B^T B = A A^T =
        diag(S)."""
        U, S, Vh = self.svd()
        return _balanced(U, S, Vh, len(S)).to(self.A.dtype)

    def compress(self) -> LowRank:
        """Return the same update with at most min(out, in) directions; unchanged if it has no more."""
        return self if self.rank <= min(self.shape) else self.truncate(min(self.shape))


def sketchable(shape: Sequence[int], rank: int) -> bool:
    """Tell whether `LowRank.nearest` of a dense matrix of this shape is a randomised SVD: it is large, and ``rank`` far
    below full.
    """
    return min(shape) > SKETCHED_FROM and _width(rank) <= min(shape) // 3


def _width(rank: int) -> int:
    return rank + rank // 2 + 8


def _sketched_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (out, q), S (q,), Vh (q, in) of a randomised SVD with q > ``rank`` directions, the same every time.

    torch.svd_lowrank would draw from the global generator, which another thread may be using.

    References
    ----------
    Halko, Martinsson, Tropp 2011, https://arxiv.org/abs/0909.4061: algorithms 4.4 and 5.1.
    """
    random = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], _width(rank), generator=random, dtype=matrix.dtype)
    image = matrix @ start.to(matrix.device)
    for _ in range(POWER_ITERATIONS):
        image = matrix @ torch.linalg.qr(matrix.T @ torch.linalg.qr(image).Q).Q
    Q = torch.linalg.qr(image).Q
    P, R = torch.linalg.qr(matrix.T @ Q)  # Q^T M = R^T P^T
    U, S, Vh = torch.linalg.svd(R.T)
    return Q @ U, S, Vh @ P.T


def _distance(matrix: Tensor, approximation: LowRank) -> float:
    """Return ||M - B A|| / ||M||, a few rows at a time; sums over rows in float64."""
    off = total = 0.0
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        rows = matrix[start : start + ROWS_AT_ONCE]
        rest = torch.addmm(rows, approximation.B[start : start + ROWS_AT_ONCE], approximation.A, alpha=-1)
        off += float(torch.linalg.vector_norm(rest, dim=1).double().square().sum())
        total += float(torch.linalg.vector_norm(rows, dim=1).double().square().sum())
    return math.sqrt(off / total) if total else 0.0


def numerical_rank(singular_values: Tensor, tolerance: float = RANK_TOLERANCE) -> int:
    """Return how many of the descending ``singular_values`` exceed ``tolerance`` times the largest (0 for a zero
    matrix).
    """
    if not len(singular_values) or singular_values[0] == 0:
        return 0
    return int((singular_values > tolerance * singular_values[0]).sum())


def _balanced(U: Tensor, S: Tensor, Vh: Tensor, rank: int) -> LowRank:
    root = S[:rank].sqrt()
    return LowRank(U[:, :rank] * root, root[:, None] * Vh[:rank])
