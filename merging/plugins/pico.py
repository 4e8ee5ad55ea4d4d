"""Pico: calm the output directions that all adapters share before they are merged."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..adapters.lowrank import LowRank
from ..methods.base import Param
from .base import Plugin, Updates, modules_of

PICO_PARAMS = (
    Param(
        "pico",
        "Pico",
        default=False,
        help="Calm the output directions that the adapters share, which a sum would overemphasise.",
    ),
)


def pico(updates: Updates) -> Updates:
    """Damp the output directions that the adapters share, so that a sum does not overemphasise them (data-free).

    At every module the B of all T adapters stand side by side, [B_1 .. B_T] = U S V^T. Direction j of U holds the share
    s = S_j^2 / (sum of all S^2) of their energy, and is damped in every B by α = 1 / (1 + (T - 1) s): B' = B + U (α -
    1) U^T B. A direction that all share is damped the most; where the energy is spread over many directions hardly
    anything changes. Adapters that lack the module, or do nothing there, do not count.

    Ours are: the products are first split evenly between B and A, since the published form depends on how each adapter
    happens to be split; and all updates of a module get one common factor that gives back their mean norm. The paper
    brings the merged update to that norm, which a plug-in does not see; for a sum the two differ by a factor for each
    module.

    On the default pool a plain sum gains no more by it than chance.

    References
    ----------
    Tang & Yang, "Crowded in B-Space: Calibrating Shared Directions for LoRA Merging", 2026, arXiv 2604.16826.
    """
    result: Updates = [dict(update) for update in updates]
    for module in modules_of(updates):
        present = [i for i, update in enumerate(updates) if module in update and updates[i][module].norm() > 0]
        if len(present) > 1:
            for i, calm in zip(present, _calmed([updates[i][module] for i in present]), strict=True):
                result[i][module] = calm
    return result


def _calmed(updates: Sequence[LowRank]) -> list[LowRank]:
    """Calibrate two or more updates of one module, none of them zero."""
    lows = [update.to(torch.float64).balanced() for update in updates]
    Q, R = torch.linalg.qr(torch.cat([low.B for low in lows], dim=1))
    W, S, _ = torch.linalg.svd(R, full_matrices=False)
    U, energy = Q @ W, S.square()
    alpha = 1 / (1 + (len(lows) - 1) * energy / energy.sum())
    calm = [LowRank(low.B + U @ ((alpha - 1)[:, None] * (U.T @ low.B)), low.A) for low in lows]
    back = sum(low.norm() for low in lows) / sum(low.norm() for low in calm)
    return [(low * back).to(update.A.dtype) for low, update in zip(calm, updates, strict=True)]


PICO = Plugin("pico", "Pico", "Tang & Yang, 2026, arXiv 2604.16826", PICO_PARAMS, pico)
