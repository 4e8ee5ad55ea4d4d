"""Norm cap: no adapter may be much larger at a module than the others are there."""

from __future__ import annotations

import torch

from ..methods.base import Param
from .base import Plugin, Updates, modules_of

NORM_CAP_PARAMS = (
    Param(
        "mads",
        "Norm cap in MADs",
        0.0,
        10.0,
        0.5,
        None,
        "At every module an update whose norm lies further above the adapters' median is shrunk to there; 3 as "
        "published. Nothing is made larger.",
        optional=True,
        open_above=True,
    ),
)


def norm_cap(updates: Updates, mads: float | None) -> Updates:
    """Shrink the updates that are much larger at a module than the other adapters' are (data-free).

    At every module, with m the median of the adapters' Frobenius norms and MAD the median of their distances from m, an
    update of norm n is multiplied by min(1, (m + c MAD) / n), c = 3 as published. It acts where one adapter drowns the
    others, for instance one that was trained longer, and leaves a pool of similar norms as it is. Unlike Decouple it
    amplifies nothing and keeps every difference below the cap.

    Adapters that lack the module, or do nothing there, do not count. Of one or two adapters none is ever capped at c =
    3. It comes before Decouple, so that an outlier does not raise the common magnitude.

    On the default pool and on that of unequal budgets a plain sum gains no more by it than chance.

    References
    ----------
    The cap is that of the code msjo91/OCap, which has no paper that we found.
    """
    result: Updates = [dict(update) for update in updates]
    if mads is None:
        return result
    for module in modules_of(updates):
        present = [i for i, update in enumerate(updates) if module in update]
        norms = torch.tensor([updates[i][module].norm() for i in present], dtype=torch.float64)
        alive = norms[norms > 0]
        if not len(alive):
            continue
        median = alive.quantile(0.5)
        cap = float(median + mads * (alive - median).abs().quantile(0.5))
        for i, norm in zip(present, norms.tolist(), strict=True):
            if norm > cap:
                result[i][module] = updates[i][module] * (cap / norm)
    return result


NORM_CAP = Plugin("norm_cap", "Norm cap", "msjo91/OCap", NORM_CAP_PARAMS, norm_cap)
