"""The model card of a merge: what it was made of and how, and what the file holds of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ..adapters.adapter import Adapter
from ..adapters.head import Head, head_file
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


def head_owners(adapters: Sequence[Adapter], heads: str | Sequence[str] | None) -> list[Adapter]:
    """Return the adapters that bring the heads of one task or of several; none for None.

    Raises
    ------
    MergeError
        If a task has none or is named twice, or one of several is no head but modules that were trained whole.
    """
    tasks = [] if heads is None else [heads] if isinstance(heads, str) else list(heads)
    owners = [head_owner(adapters, task) for task in tasks]
    if twice := next((task for task, count in Counter(tasks).items() if count > 1), None):
        raise MergeError(f"The head of {twice!r} is named twice: name each task once.")
    if len(owners) > 1 and (headless := next((owner.task for owner in owners if owner.head is None), None)):
        raise MergeError(
            f"{headless} brings trained modules and no head, and only one adapter's can be taken: name that task alone."
        )
    return owners


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
    heads: Mapping[str, Head] | None = None,
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
    heads : those that lie beside it, by task
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
    if heads:
        parts.append("## Heads\n" + _heads(heads, base, library))
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


def _heads(heads: Mapping[str, Head], base: str, library: str) -> str:
    """Return where each task's head is and how one is used."""
    files = {task: head_file(task, number) for number, task in enumerate(heads)}
    rows = ["| task | file | labels |", "|---|---|---|"]
    rows += [
        f"| {_cell(task)} | {files[task]} | {_cell(', '.join(head.labels)) or head.classes or 'unknown'} |"
        for task, head in heads.items()
    ]
    task, head = next(iter(heads.items()))
    path = f'"this folder/{files[task]}"'
    lines = ["from safetensors.torch import load_file"]
    if head.kind == "pooled":
        lines += [
            "from torch.nn.functional import linear",
            "",
            "# pooled: masked mean of the last hidden states of the model with this merge",
            f"head = load_file({path})",
            'logits = linear(pooled, head["weight"], head["bias"])',
        ]
    else:
        of = f'"{base if HUB_NAME.fullmatch(base) else "the base model"}"' if library == "peft" else '"this folder"'
        lines += [
            *(["from peft import PeftModel"] if library == "peft" else []),
            "from transformers import AutoModelForSequenceClassification",
            "",
            f"model = AutoModelForSequenceClassification.from_pretrained({of}, num_labels={head.classes or '..'})",
            f"model.load_state_dict(load_file({path}), strict=False)",
            *(['model = PeftModel.from_pretrained(model, "this folder")'] if library == "peft" else []),
        ]
    code = "\n".join(lines)
    return (
        "One file holds the merge, every task has its own head beside it:\n\n"
        + "\n".join(rows)
        + f"\n\n```python\n{code}\n```"
        + (
            f'\n\nMergescope takes them by task: `Adapter.load("this folder", task={json.dumps(task)})`.'
            if library == "peft"
            else ""
        )
    )


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
        "Pico" if spec.pico else "",
        f"norm cap {spec.norm_cap:g} MAD above the median" if spec.norm_cap is not None else "",
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
