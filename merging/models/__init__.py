"""Base models: loading them, finding their layers, putting updates in and taking them out again."""

from .layers import bare, fingerprint, linear_layers, mean_pool, pooled_states, relative_norms, working_copy
from .load import DTYPES, load_base, load_config, load_language_model

__all__ = [
    "DTYPES",
    "bare",
    "fingerprint",
    "linear_layers",
    "load_base",
    "load_config",
    "load_language_model",
    "mean_pool",
    "pooled_states",
    "relative_norms",
    "working_copy",
]
