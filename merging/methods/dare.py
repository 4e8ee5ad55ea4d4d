"""DARE, DELLA and Breadcrumbs: prune entries of the dense updates, then add or elect."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .base import SCALING, Method, Param, Stack, density_param
from .sparsify import agreeing_mean, dense_updates, drop, drop_by_rank, kept, merge_by_rows, trim_to, weighted_total
from .ties import DARE_PAPER


def dare(stack: Stack, scaling: float, density: float) -> Tensor:
    """Drop And REscale: W = W0 + λ sum_i w_i m_i * (B_i A_i) / density, with random masks m_i.

    Each entry survives with probability density and is divided by it, so that the expected update is Task Arithmetic's.
    The sparser, the less two adapters meet in one entry, and the noisier the result. The random masks depend on the
    seed, the adapter and the module only: moving λ keeps them.

    Dialects: divided by the density (PEFT from 0.19 on, KnOTS); mergekit rescales to the L1 norm instead.

    References
    ----------
    Yu et al., "Language Models are Super Mario", ICML 2024, arXiv 2311.03099.
    """
    prunes = [partial(drop, density=density, generator=stack.generator(i)) for i in stack.present]
    return merge_by_rows(stack, prunes, weighted_total, scaling)


def della(stack: Stack, scaling: float, density: float, epsilon: float) -> Tensor:
    """DELLA: drop entries at random, small ones more often, then elect signs and average what agrees.

    Within each row the probability of being kept grows with the rank of the magnitude, from density - ε to density + ε;
    a kept entry is divided by its probability. Then TIES' election.

    Dialects: the paper's 1/p per entry is used (mergekit rescales to the L1 norm); ε is cut where a probability would
    leave [0, 1] (mergekit refuses), so that density 1 keeps everything.

    References
    ----------
    Deep et al., "DELLA-Merging", 2024, arXiv 2406.11617.
    """
    prunes = [
        partial(drop_by_rank, density=density, epsilon=epsilon, generator=stack.generator(i)) for i in stack.present
    ]
    return merge_by_rows(stack, prunes, partial(agreeing_mean, election="unweighted"), scaling)


def breadcrumbs(stack: Stack, scaling: float, density: float, gamma: float) -> Tensor:
    """Model Breadcrumbs: drop the largest outliers and the smallest entries of each update, add up what is left.

    Of numel entries the int(γ numel) largest go, then int(density numel) of the next largest are kept. Where that asks
    for more than there are, fewer outliers go, so that density 1 keeps everything. (mergekit's version returns zeros
    for a tensor of fewer than 1/γ entries.)

    References
    ----------
    Davari & Belilovsky, "Model Breadcrumbs", ECCV 2024, arXiv 2312.06795.
    """
    prunes = [_Band(dense, density, gamma) for dense in dense_updates(stack)]
    return merge_by_rows(stack, prunes, weighted_total, scaling)


class _Band:
    """Keep the magnitudes between two ranks: what the wide trim keeps and the narrow one does not."""

    def __init__(self, x: Tensor, density: float, gamma: float) -> None:
        target = kept(density, x.numel())
        top = min(int(gamma * x.numel()), x.numel() - target)
        self.wide, self.outliers = trim_to(x, target + top), trim_to(x, top)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.outliers(x) != 0, 0.0, self.wide(x))


DARE = Method(
    "dare", "DARE", DARE_PAPER, "full", dare,
    (SCALING, density_param(0.1, "Probability with which an entry is kept.")), low_rank=False, random=True,
)  # fmt: skip
DELLA = Method(
    "della",
    "DELLA",
    "Deep et al., 2024, arXiv 2406.11617",
    "full",
    della,
    (
        SCALING,
        density_param(0.5, "Mean probability with which an entry is kept."),
        Param(
            "epsilon", "Spread ε", 0.0, 0.5, 0.05, 0.15, "How much more often large entries are kept than small ones."
        ),
    ),
    low_rank=False,
    random=True,
)
BREADCRUMBS = Method(
    "breadcrumbs", "Model Breadcrumbs", "Davari & Belilovsky, ECCV 2024, arXiv 2312.06795", "full", breadcrumbs,
    (
        SCALING, density_param(0.9, "Share of entries kept below the outliers."),
        Param("gamma", "Outliers γ", 0.0, 0.5, 0.01, 0.01, "Share of the largest entries that are dropped."),
    ), low_rank=False,
)  # fmt: skip
