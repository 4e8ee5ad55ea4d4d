"""A vocabulary that an adapter has grown or cut: which tables of embeddings it brings, and the tokenizer that goes with
them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapters.adapter import Adapter
from ..models.checkpoint import Checkpoint

TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja"),
)


def new_vocabulary(checkpoint: Checkpoint, values: Mapping[str, Tensor | None], untied: bool) -> dict[str, int]:
    """Return {parameter: rows} where the values give every table of embeddings of the base one other number of rows.

    Only then is the resized model known whole: PEFT leaves it to the user to resize first, and rows of a table that the
    adapter does not bring would be random. The same holds for a bias with an entry per token.

    Parameters
    ----------
    values : of parameters that go out as an adapter has them, relative to the bare encoder; None for any other
    untied : tables that are one in the base are written apart
    """
    places = {name: full for name in values if (full := checkpoint.full_name(name)) is not None}
    grown = [
        name
        for name, full in places.items()
        if (value := values[name]) is not None and len(value) != len(checkpoint.parameters[full])
    ]
    if not grown:
        return {}
    model: Any = checkpoint.whole
    ends = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    found: dict[str, int] = {}
    for layer in ends:
        names = [name for name, full in places.items() if checkpoint.parameters[full] is layer.weight]
        needed = sum(other.weight is layer.weight for other in ends) if untied else 1
        if len(names) < needed or getattr(layer, "bias", None) is not None:
            return {}
        for name in names:
            value = values[name]
            if value is None or value.shape[1:] != layer.weight.shape[1:]:
                return {}
            found[name] = len(value)
    return found if len(set(found.values())) == 1 and set(grown) <= found.keys() else {}


def with_vocabulary(config: dict[str, Any], rows: int) -> None:
    """Write the number of entries into a configuration."""
    text = config.get("text_config")
    for part in (config, text):
        if isinstance(part, dict) and "vocab_size" in part:
            part["vocab_size"] = rows


def copy_tokenizer(adapter: Adapter, work: Path) -> bool:
    """Put the tokenizer that lies beside an adapter in the place of the base's; tell whether there is one."""
    folder = adapter.path
    if folder is None or not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return False
    for name in TOKENIZER:
        (work / name).unlink(missing_ok=True)
        if (folder / name).is_file():
            shutil.copyfile(folder / name, work / name)
    return True
