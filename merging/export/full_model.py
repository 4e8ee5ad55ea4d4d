"""The whole model with the merge in its weights, written shard by shard: no more than one shard is ever in memory.

The keys, the tensors that no adapter changes and the tokenizer are the base's own. A pooled head has no place in a
transformers model and lies beside it; the base architecture's own head takes the place of the base's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..adapters.adapter import HEAD_FILE, METADATA_FILE, Adapter
from ..adapters.head import Head, write_heads
from ..adapters.same_base import used_base
from ..errors import MergeError
from ..evaluation.heads import named_heads
from ..io.untrusted import read_object
from ..io.whole import writing
from ..models.checkpoint import Reader, find_checkpoint
from ..models.load import DTYPES
from ..models.weight_files import BESIDE_WEIGHTS, INDEX_FILE
from ..recipes.card import can_have_recipe, model_card
from ..recipes.recipe import Recipe
from .head import head_options
from .plan import Plan, as_head, plan_of
from .vocabulary import copy_tokenizer, with_vocabulary

if TYPE_CHECKING:
    from ..evaluation.intervals import Accuracy
    from ..merged import Merged

WRITTEN = {name: dtype for name, dtype in DTYPES.items() if dtype != "auto"}
OnShard = Callable[[str, int, int], None]


def save_full_model(
    merged: Merged,
    base: str | Path,
    folder: str | Path,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str = "2GB",
    head: str | Sequence[str] | None = None,
    on_shard: OnShard | None = None,
    accuracy: Accuracy | None = None,
) -> Path:
    """Write the base model plus the merge as safetensors with configuration, tokenizer, recipe and model card.

    The folder appears whole or not at all. The sum is taken in float32 and stored in the base's own type.

    Parameters
    ----------
    base : "minilm", a folder in the hub's layout, or a hub id
    folder : a place that is free or an empty folder
    dtype : "float32", "bfloat16" or "float16" for every floating-point tensor; None = each as the base has it
    max_shard_size : bytes, or a text such as "500MB"; a single larger tensor gets a file of its own
    head : task whose head is written: the architecture's own in place of the base's, a pooled one as
        ``head.safetensors``; several tasks' heads lie beside the model, which keeps the base's
    on_shard : ``on_shard(file name, done, total)`` after each file; raising merging.Cancelled stops and leaves nothing
    accuracy : what was measured of this merge, for the card

    Raises
    ------
    MergeError
        If the base cannot be read or is not the adapters' (module, shape, fingerprint), the folder is taken, there is
        no space left, ``head`` names no task that has one, or a weight does not fit into the type.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise MergeError(f"{folder} exists and is not empty: choose another place for the model.")
    wanted = _dtype(dtype)
    owners = merged.owners(head)
    owner = owners[0] if len(owners) == 1 else None
    checkpoint = find_checkpoint(base)
    checkpoint.check(merged.shapes, {a.base_fingerprint for a in merged.adapters if a.base_fingerprint})
    owner = as_head(owner, checkpoint)
    plan = plan_of(checkpoint, merged, wanted, owner)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise MergeError(
            f"{target.parent} is a file, so no folder can be made below it: choose another place."
        ) from error
    aside = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-")
    with writing(target.name), aside as temporary:
        work = Path(temporary) / "model"
        work.mkdir()
        _write_shards(plan, work, max_shard_size, on_shard)
        _write_beside(plan, work, wanted, owner)
        heads = named_heads(owners) if owner is None else {}
        write_heads(work, heads)
        _write_card(plan, work, head, owner, heads, accuracy)
        if target.exists():
            target.rmdir()
        work.replace(target)
    return target


def _write_shards(plan: Plan, work: Path, max_shard_size: int | str, on_shard: OnShard | None) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards  # noqa: PLC0415 - pulls in an HTTP client

    with plan.checkpoint.opened() as reader:
        outline = {key: _outline(plan, key, source, reader) for key, source in plan.sources.items()}
    try:
        split = split_torch_state_dict_into_shards(outline, max_shard_size=max_shard_size)
    except ValueError as error:
        raise MergeError(
            f"max_shard_size = {max_shard_size!r} is no size: write bytes, or a text such as 500MB."
        ) from error
    free, needed = shutil.disk_usage(work).free, split.metadata["total_size"]
    if needed > free:
        raise MergeError(
            f"The model needs {needed:,} bytes, {free:,} are free at {work.parents[1]}: choose another place."
        )
    for done, (name, keys) in enumerate(split.filename_to_tensors.items(), 1):
        with plan.checkpoint.opened() as reader:  # opened for each, so that no page of the base stays mapped
            tensors = {key: plan.tensor(key, reader) for key in keys}
            try:
                save_file(tensors, work / name, metadata={"format": "pt"})
            except (SafetensorError, OSError) as error:
                raise MergeError(f"{name} could not be written ({error}): choose another place.") from error
            tensors.clear()
        if on_shard is not None:
            on_shard(name, done, len(split.filename_to_tensors))
    if split.is_sharded:
        _write_json(work / INDEX_FILE, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})


def _outline(plan: Plan, key: str, source: str | Tensor, reader: Reader) -> Tensor:
    """Return shape and type of what is written, without content."""
    stored = reader.tensor(source) if isinstance(source, str) else source
    dtype = plan.dtype if plan.dtype is not None and stored.is_floating_point() else stored.dtype
    return torch.empty(plan.shape(key, stored), dtype=dtype, device="meta")


def _write_beside(plan: Plan, work: Path, dtype: torch.dtype | None, owner: Adapter | None) -> None:
    folder = plan.checkpoint.folder
    for name in BESIDE_WEIGHTS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, work / name)
    config = read_object(folder / "config.json", f"{plan.checkpoint.name}: config.json")
    if plan.untied:
        config["tie_word_embeddings"] = False
        if isinstance(config.get("text_config"), dict):
            config["text_config"]["tie_word_embeddings"] = False
    if plan.vocabulary:
        with_vocabulary(config, next(iter(plan.vocabulary.values())))
        copy_tokenizer(plan.merged.adapters[0], work)
    config.pop("auto_map", None)  # it names Python files of the base's repository
    if dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = str(dtype).removeprefix("torch.")
    if owner is not None and owner.head is not None:
        if owner.head.kind == "model":
            config |= head_options(config, owner)
        else:
            save_file({key: tensor.contiguous() for key, tensor in owner.head.tensors.items()}, work / HEAD_FILE)
            _write_json(work / METADATA_FILE, {"task": owner.task, "labels": list(owner.head.labels)})
    _write_json(work / "config.json", config)


def _write_card(
    plan: Plan,
    work: Path,
    head: str | Sequence[str] | None,
    owner: Adapter | None,
    heads: Mapping[str, Head],
    accuracy: Accuracy | None,
) -> None:
    recipe, spec, adapters = None, plan.merged.spec, plan.merged.adapters
    if can_have_recipe(adapters):
        kept = None if plan.dtype is None else str(plan.dtype).removeprefix("torch.")
        recipe = Recipe.of(spec, adapters, head=head, dtype=kept).to_yaml()
    if recipe:
        (work / "recipe.yaml").write_text(recipe, encoding="utf-8")
    notes = ["The merge is in the weights: load it with transformers, without PEFT."]
    if plan.vocabulary:
        rows = next(iter(plan.vocabulary.values()))
        notes.append(
            f"The vocabulary has {rows:,} entries, as the adapter's: use the tokenizer that was made for it, which is "
            "here where it lay beside the adapter."
        )
    if owner is not None and owner.head is not None:
        notes.append(
            f"`{HEAD_FILE}` is the classifier of the task {owner.task}: a linear layer on the masked mean of the last "
            "hidden states, which transformers does not load by itself."
            if owner.head.kind == "pooled"
            else f"The classifier is that of the task {owner.task}."
        )
    base, doubtful = used_base(adapters, plan.checkpoint.published or str(plan.checkpoint.folder.resolve()))
    notes += [doubtful] if doubtful else []
    loss = "exact, in the weights"
    card = model_card(spec, adapters, base, loss, recipe, accuracy, "transformers", notes, heads)
    (work / "README.md").write_text(card, encoding="utf-8")


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in WRITTEN.values():
        return dtype  # type: ignore[return-value]
    if dtype not in WRITTEN:
        raise MergeError(f"dtype = {dtype!r}: choose one of {', '.join(WRITTEN)}, or none for the base's own.")
    chosen: torch.dtype = WRITTEN[str(dtype)]
    return chosen


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
