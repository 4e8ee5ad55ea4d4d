"""Writing a merge for others: a PEFT adapter, its recipe, its model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .adapter import Adapter
from .errors import MergeError
from .recipe import Recipe

if TYPE_CHECKING:
    from .engine import Merged


def save_merged(merged: Merged, folder: str | Path, rank: int | None, head: str | None, prefix: str | None) -> Path:
    """Write ``merged`` to ``folder``; see `merging.engine.Merged.save`."""
    prefixes = {adapter.prefix for adapter in merged.adapters}
    if head is None and prefix is None and len(prefixes) > 1:
        raise MergeError(f"The adapters carry different prefixes {sorted(prefixes)}: say which one to write with prefix=.")
    adapter = merged.to_adapter(rank)
    if head is not None:
        owner = next((a for a in merged.adapters if a.task == head and a.head is not None), None)
        if owner is None:
            with_heads = ", ".join(a.task for a in merged.adapters if a.head is not None) or "none"
            raise MergeError(f"No adapter brings a head for the task {head!r}; there are heads for {with_heads}.")
        adapter = replace(adapter, head=owner.head, config=owner.config, prefix=owner.prefix, task=head)
    if prefix is not None:
        adapter = replace(adapter, prefix=prefix)
    files = {}
    if all(a.path is not None for a in merged.adapters):
        files["recipe.yaml"] = Recipe.of(merged, rank, head, prefix).to_yaml()
    files["README.md"] = model_card(merged, adapter, files.get("recipe.yaml"))
    return adapter.save(folder, files)


def model_card(merged: Merged, adapter: Adapter, recipe: str | None) -> str:
    """Return a model card in the hub's format: parents, method, parameters, what a lower rank loses, recipe."""
    parents = "\n".join(f"- {a.name} (task {a.task}, weight {w})" for a, w in zip(merged.adapters, merged.weights, strict=True))
    values = ", ".join(f"{key} = {value}" for key, value in merged.params.items()) or "no parameters"
    plugins = f"orthogonalize {merged.plugins.orthogonalize.mode}, decouple {merged.plugins.decouple:g}"
    base = adapter.base
    header = f"---\nlibrary_name: peft\nbase_model: {base}\ntags: [lora, peft, model-merging, mergescope]\n---\n" if base else ""
    text = f"""{header}
# {merged.method.title} of {len(merged.adapters)} LoRA adapters

Merged with Mergescope: `{merged.method.name}` ({merged.method.paper}), {values}; {plugins}; {fidelity(adapter)}.

## Parents
{parents}
"""
    return text + (f"\n## Recipe\n```yaml\n{recipe}```\n" if recipe else "")


def fidelity(adapter: Adapter) -> str:
    """Say how much of the merge an adapter made by `Merged.to_adapter` holds."""
    truncation = adapter.metadata.get("truncation")
    if truncation is None:
        return "exact"
    worst = max(truncation["modules"], key=truncation["modules"].__getitem__)
    return (
        f"best approximation of rank {truncation['rank']}, relative error {truncation['error']:.2g} "
        f"(largest at {worst}: {truncation['modules'][worst]:.2g})"
    )
