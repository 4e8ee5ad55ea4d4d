"""The model card of a merge: what it was made of and how, and what the file holds of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..adapters.adapter import Adapter
from ..adapters.same_base import base_key
from ..errors import MergeError
from ..evaluation.intervals import Accuracy
from ..methods import METHODS
from .spec import MergeSpec

HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


def head_owner(adapters: Sequence[Adapter], task: str) -> Adapter:
    """Return the adapter that brings the head of ``task``, or other modules that were trained whole.

    Raises
    ------
    MergeError
        If none does.
    """
    owner = next((a for a in adapters if a.task == task and (a.head is not None or a.trained)), None)
    if owner is None:
        with_heads = ", ".join(a.task for a in adapters if a.head is not None) or "none"
        raise MergeError(f"No adapter brings a head for the task {task!r}; there are heads for {with_heads}.")
    return owner


def can_have_recipe(adapters: Sequence[Adapter]) -> bool:
    """Tell whether every adapter came from a place that a recipe can name."""
    return all(adapter.origin is not None for adapter in adapters)


def model_card(
    spec: MergeSpec,
    adapters: Sequence[Adapter],
    base: str,
    loss: str,
    recipe: str | None,
    accuracy: Accuracy | None = None,
    library: str = "peft",
    notes: Sequence[str] = (),
) -> str:
    """Return a model card in the hub's format: parents with source and licence, method, accuracy, what was lost,
    recipe.

    Parameters
    ----------
    base : name of the base model; in the front matter only if the hub could know it
    loss : see `fidelity`
    accuracy : what was measured of this merge on test rows; None = nothing
    library : "peft" for an adapter, "transformers" for a full model
    notes : further sentences, such as where the head is
    """
    title = f"{METHODS[spec.method].title} of {len(adapters)} LoRA adapters"
    parts = [
        f"# {title}",
        f"Merged with Mergescope on {_cell(base_key(base)) or 'an unnamed base model'}.",
        "## Method\n" + "\n".join(f"- {line}" for line in (*_method_lines(spec), f"fidelity: {loss}")),
        "## Parents\n" + _parents(spec, adapters),
    ]
    if notes:
        parts.append("## Notes\n" + "\n".join(f"- {note}" for note in notes))
    if accuracy and accuracy.estimates:
        parts.append("## Accuracy\n" + _accuracy(accuracy))
    if recipe:
        parts.append(f"## Recipe\n````yaml\n{recipe}````")
    return _front_matter(adapters, base, library) + "\n" + "\n\n".join(parts) + "\n"


def fidelity(adapter: Adapter) -> str:
    """Say how much of the merge an adapter made by `Merged.to_adapter` holds."""
    truncation, rounding = adapter.metadata.truncation, adapter.metadata.rounding
    few_bits = f"rounded to {rounding.dtype}, relative error {rounding.error:.2g}" if rounding else ""
    if truncation is None:
        return few_bits or "exact"
    worst = max(truncation.modules, key=truncation.modules.__getitem__)
    kind = "approximation (randomised SVD)" if truncation.randomised else "best approximation"
    return (
        f"{kind} of rank {truncation.rank}, relative error {truncation.error:.2g} "
        f"(largest at {worst}: {truncation.modules[worst]:.2g})"
    ) + (f"; {few_bits}" if few_bits else "")


def _front_matter(adapters: Sequence[Adapter], base: str, library: str) -> str:
    from huggingface_hub import ModelCardData  # noqa: PLC0415 - pulls in an HTTP client

    licenses = {adapter.source.get("license") for adapter in adapters}
    data = ModelCardData(
        library_name=library,
        base_model=base if HUB_NAME.fullmatch(base) else None,
        license=licenses.pop() if len(licenses) == 1 else None,
        tags=["merge", "lora", "model-merging", "mergescope", *(["peft"] if library == "peft" else [])],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _method_lines(spec: MergeSpec) -> list[str]:
    values = ", ".join(f"{key} = {value}" for key, value in spec.params) or "none"
    soft, ortho, decouple = spec.soft_osrm, spec.orthogonalize, spec.decouple
    plugins = [
        f"soft OSRM (mu {soft.mu:g}, ridge {soft.ridge:g})" if soft else "",
        f"orthogonalize {ortho.mode} (penalty {ortho.g:g}, at most {ortho.steps} steps)" if ortho.mode != "off" else "",
        decouple.words,
    ]
    return [
        f"`{spec.method}`: {METHODS[spec.method].title} ({METHODS[spec.method].paper})",
        f"parameters: {values}",
        f"plug-ins: {', '.join(filter(None, plugins)) or 'none'}",
        f"seed: {spec.seed}",
    ]


def _parents(spec: MergeSpec, adapters: Sequence[Adapter]) -> str:
    rows = ["| adapter | task | weight | source | licence |", "|---|---|---|---|---|"]
    for adapter, weight in zip(adapters, spec.weights_for(len(adapters)), strict=True):
        repo, commit = adapter.source.get("repo"), adapter.source.get("commit", "")
        source = f"{repo} at {commit[:12]}" if repo else "a file"
        weight_text = f"{weight:g}" if isinstance(weight, float) else ", ".join(f"{p} {w:g}" for p, w in weight.items())
        cells = adapter.name, adapter.task, weight_text, source, adapter.source.get("license", "unknown")
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _accuracy(accuracy: Accuracy) -> str:
    rows = ["| task | accuracy | 95 % interval | test rows |", "|---|---|---|---|"]
    rows += [
        f"| {_cell(e.task)} | {e.accuracy:.3f} | {e.interval[0]:.3f} to {e.interval[1]:.3f} | {e.done} |"
        for e in accuracy.estimates
    ]
    if accuracy.gap is None or not accuracy.gap.tasks:
        return "\n".join(rows)
    gap = accuracy.gap
    share = f"{gap.mean:.0%} ({gap.low:.0%} to {gap.high:.0%})"
    rows += [
        "",
        f"Gap recovered: {share}, mean of {len(gap.tasks)} tasks; 0 % = no better than the base, 100 % = as good as "
        "each adapter alone on its own task.",
    ]
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Return a name that anybody may have chosen as plain text of a Markdown table."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))
