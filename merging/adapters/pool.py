"""What several adapters say together: the prefix to write, what lies outside the encoder, which modules they trained
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .adapter import Adapter
from .peft_format import is_saved


def prefixes_of(adapters: Sequence[Adapter]) -> list[str]:
    """Return the architecture's prefixes that the adapters carry; one that has modules outside the encoder only has no
    say.
    """
    inside = [adapter for adapter in adapters if set(adapter.deltas) - adapter.outside]
    return sorted({adapter.prefix for adapter in inside or adapters})


def outside_names(adapters: Sequence[Adapter]) -> frozenset[str]:
    """Return the names outside the encoder that any of the adapters has."""
    return frozenset().union(*(adapter.outside for adapter in adapters))


def embedding_names(adapters: Sequence[Adapter]) -> frozenset[str]:
    """Return the modules that are embeddings in any of the adapters."""
    return frozenset().union(*(adapter.embeddings for adapter in adapters))


def bare_names(adapters: Sequence[Adapter]) -> frozenset[str]:
    """Return the modules whose weight any of the adapters has as a bare parameter."""
    return frozenset().union(*(adapter.bare for adapter in adapters))


def trained_parts(adapters: Sequence[Adapter]) -> dict[str, bool]:
    """Return {parameter that an adapter trained or saved whole: whether it is a copy of its own beside what shares it
    in the base}.

    PEFT puts a module of modules_to_save in the place of the base's, so that tied embeddings come apart; what it saved
    without that (embeddings after a change of the vocabulary) it copies into the base, where all that is tied changes
    with it.
    """
    parts: dict[str, bool] = {}
    for adapter in adapters:
        saved = adapter.config.get("modules_to_save") or ()
        for name in adapter.trained:
            parts[name] = parts.get(name, False) or is_saved(adapter.full_name(name), saved)
    return dict(sorted(parts.items()))


def common_config(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Return the options that an export of the adapters' merge keeps."""
    first = adapters[0].config
    kept = {key: first[key] for key in ("fan_in_fan_out", "task_type") if key in first}
    trained = [adapter for adapter in adapters if adapter.trained]
    saved = {entry for adapter in trained for entry in adapter.config.get("modules_to_save") or ()}
    if saved:
        kept["modules_to_save"] = sorted(saved)
    if any(adapter.config.get("ensure_weight_tying") for adapter in trained):
        kept["ensure_weight_tying"] = True
    return kept
