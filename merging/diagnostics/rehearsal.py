"""A dry run: what a merge would do, module by module, before anything is merged or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from ..adapters.adapter import Adapter, number_equal_names
from ..adapters.base_files import base_files
from ..adapters.same_base import problems_of, shape_problems
from ..errors import MergeError
from ..merged import Merged
from ..models.checkpoint import Checkpoint, find_checkpoint
from ..recipes.spec import MergeSpec

LOW_RANK, DENSE, WHOLE, HEAD, ADAPTER = "low-rank", "dense", "trained whole", "head", "adapter"
MERGED, TAKEN, KEPT, LEFT_OUT, REFUSED = "merged", "taken", "the base's", "left out", "refused"


class Row(NamedTuple):
    """One module, parameter or head, or an adapter that cannot be read.

    Attributes
    ----------
    module : relative to the bare encoder; a parameter's name for what was trained whole
    kind : "low-rank" or "dense" (the form of the merged update), "trained whole", "head", "adapter"
    shape : "out x in"
    what : "merged", "taken" (one adapter's as it is), "the base's" (stays), "left out", or "refused"
    merged_from, zero_in : the adapters that have it, and those that count as zero there
    why : a sentence where it is refused or left out, else empty
    """

    module: str
    kind: str
    shape: str
    what: str
    merged_from: str
    zero_in: str
    why: str = ""


def dry_run(
    adapters: Sequence[Adapter],
    spec: MergeSpec,
    rank: int | None = None,
    head: str | Sequence[str] | None = None,
    prefix: str | None = None,
    base: str | None = None,
    full_model: bool = False,
    unread: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return what `merging.engine.merge_spec` and `Merged.save` (or `save_full_model`) would do, a row per module.

    Nothing is merged, no text is read, nothing is written. One refused row means that nothing would be written.

    Parameters
    ----------
    rank, head, prefix : as in `Merged.save`
    base : of a full model; an adapter is held against the base that the adapters record, where it is at hand
    full_model : the merge goes into the base's weights
    unread : {adapter that cannot be read: why}; the others are looked at all the same

    Returns
    -------
    DataFrame with the columns of `Row`

    Raises
    ------
    MergeError
        Without adapters, or where the base of a full model cannot be read.
    """
    lost = [Row(name, ADAPTER, "", REFUSED, "", "", why) for name, why in (unread or {}).items()]
    if not adapters and lost:
        return pd.DataFrame(lost, columns=Row._fields)
    if not adapters:
        raise MergeError("No adapters given: a merge needs at least one.")
    named = number_equal_names(list(adapters))
    merged = Merged(named, spec, None, [dict(adapter.deltas) for adapter in named])
    checkpoint = find_checkpoint(base or named[0].base) if full_model else None
    why = _general(merged, rank, head, prefix, full_model)
    bad = dict(shape_problems(named)) | (_unknown(merged, checkpoint) if checkpoint else {})
    kind = LOW_RANK if merged.method.low_rank else DENSE
    rows = lost + [
        _row(merged, module, kind, merged.shapes[module], why or bad.get(module) or _refusal(merged, module))
        for module in merged.modules
    ]
    rows += _parts(merged, why, head, checkpoint)
    rows += _heads(merged, head)
    return pd.DataFrame(rows, columns=Row._fields)


def summary(rows: pd.DataFrame) -> str:
    """Say in one line what `dry_run` found."""
    of_modules = rows.kind.isin((LOW_RANK, DENSE))
    merged = rows[of_modules & (rows.what == MERGED)]
    zero = int((merged.zero_in != "").sum())
    said = f"{len(merged)} module{'' if len(merged) == 1 else 's'} merged"
    said += f", {zero} of them zero in some adapter" if zero else ""
    others = rows.drop(merged.index)
    counts = (others.kind.where(~of_modules, "module") + " " + others.what).value_counts(sort=False)
    return "; ".join([said, *(f"{count} x {what}" for what, count in counts.items())])


def _general(
    merged: Merged, rank: int | None, head: str | Sequence[str] | None, prefix: str | None, full_model: bool
) -> str:
    """Return why nothing at all would be written, as far as that is no single module's fault."""
    adapters = merged.adapters
    if empty := [adapter.name for adapter in adapters if not adapter.deltas]:
        return f"{empty[0]} has no updates: leave it out."
    of_modules = {sentence for _, sentence in shape_problems(adapters)}
    if problems := [sentence for sentence in problems_of(adapters) if sentence not in of_modules]:
        return problems[0]
    if "task_id" in merged.needs and head is None:
        return f"{merged.method.name} has one result per task: choose one with --head (or for_task)."
    return _raised(
        partial(merged.spec.weights_for, len(adapters)),
        partial(merged.owners, head),
        *(() if full_model else (partial(merged.check_export, rank, head, prefix), partial(_check_own_names, merged))),
    )


def _check_own_names(merged: Merged) -> None:
    for adapter in merged.adapters:
        base = base_files(adapter.base, adapter.config.get("task_type"))
        if base is not None:
            base.check_modules([adapter.full_name(module) for module in adapter.deltas], adapter.base)


def _unknown(merged: Merged, checkpoint: Checkpoint) -> dict[str, str]:
    """Return {module: why it does not fit the base}."""
    prints = {a.base_fingerprint for a in merged.adapters if a.base_fingerprint}
    if not (why := _raised(partial(checkpoint.check, merged.shapes, prints))):
        return {}
    single = {m: _raised(partial(checkpoint.check, {m: shape}, ())) for m, shape in merged.shapes.items()}
    found = {module: sentence for module, sentence in single.items() if sentence}
    return found or dict.fromkeys(merged.shapes, why)


def _refusal(merged: Merged, module: str) -> str:
    # methods on the stored factors have conditions of their own, and are quick to ask
    return "" if merged.method.plugins else _raised(partial(merged.result, module))


def _parts(merged: Merged, why: str, head: str | Sequence[str] | None, checkpoint: Checkpoint | None) -> list[Row]:
    chosen = _tasks(head)
    owner = next((a for a in merged.adapters if [a.task] == chosen and a.trained and a.head is None), None)
    rows = []
    for name in merged.parts:
        tensor = next(a.trained[name] for a in merged.adapters if name in a.trained)
        start = _start(merged, name, checkpoint)
        refusal = why or _raised(partial(merged.check_part, name, start, owner))
        row = _row(merged, name, WHOLE, tuple(tensor.shape), refusal)
        if not refusal and owner is not None:
            row = row._replace(what=TAKEN, merged_from=owner.name) if name in owner.trained else row._replace(what=KEPT)
        rows.append(row)
    return rows


def _start(merged: Merged, name: str, checkpoint: Checkpoint | None) -> Tensor | None:
    if checkpoint is not None:
        with checkpoint.opened() as reader:
            return reader.tensor(checkpoint.source(name)).clone()
    first = merged.adapters[0]
    files = base_files(first.base, first.config.get("task_type"))
    full = next(adapter.full_name(name) for adapter in merged.adapters if name in adapter.trained)
    return None if files is None else files.stored(full)


def _tasks(head: str | Sequence[str] | None) -> list[str]:
    return [] if head is None else [head] if isinstance(head, str) else list(head)


def _heads(merged: Merged, head: str | Sequence[str] | None) -> list[Row]:
    chosen = _tasks(head)
    left = "Heads are never merged: choose one with --head TASK (or head=)."
    return [
        Row(
            f"head of {adapter.task}",
            HEAD,
            " ".join("x".join(map(str, tensor.shape)) for tensor in adapter.head.tensors.values()),
            TAKEN if adapter.task in chosen else LEFT_OUT,
            adapter.name,
            "",
            "" if adapter.task in chosen else left,
        )
        for adapter in merged.adapters
        if adapter.head is not None
    ]


def _row(merged: Merged, name: str, kind: str, shape: Sequence[int], why: str) -> Row:
    has = [adapter.name for adapter in merged.adapters if name in adapter.deltas or name in adapter.trained]
    lacks = [adapter.name for adapter in merged.adapters if adapter.name not in has]
    what = REFUSED if why else MERGED
    return Row(name, kind, "x".join(map(str, shape)), what, ", ".join(has), ", ".join(lacks), why)


def _raised(*checks: Callable[[], object]) -> str:
    """Return the sentence of the first check that refuses; empty if none does."""
    for check in checks:
        try:
            check()
        except MergeError as error:
            return str(error)
    return ""
