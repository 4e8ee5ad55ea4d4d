"""Why a merge hurts: measures of adapters and of what they do to texts."""

from .measures import (  # fmt: skip
    chance_overlap,
    column_norms,
    cosines,
    effective_rank,
    interference,
    log_column_norms,
    magnitude_variance,
    rank_curve,
    sign_conflict,
    spectra,
    subspace_overlap,
)

__all__ = [
    "chance_overlap",
    "column_norms",
    "cosines",
    "effective_rank",
    "interference",
    "log_column_norms",
    "magnitude_variance",
    "rank_curve",
    "sign_conflict",
    "spectra",
    "subspace_overlap",
]
