"""Shelf: adapters that somebody brings along, checked against the base and each other, and made into a pool that can be
merged and measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..adapters.adapter import Adapter
from ..adapters.fetch import Source
from ..adapters.head import Head
from ..adapters.same_base import base_key, doubt, parse_base
from ..diagnostics.compatibility import compatibility
from ..diagnostics.rehearsal import dry_run
from ..errors import MergeError
from ..evaluation.accuracy import encode_task, evaluate
from ..evaluation.verbalisers import Verbaliser, default_verbaliser, recorded_verbaliser
from ..io.hub import Repository
from ..models.apply import check_fits
from ..models.layers import bare, relative_norms
from ..recipes.spec import MergeSpec
from ..tasks.task import Task
from ..training.settings import TrainingSettings
from ..training.trainer import probe

REFERENCE_ROWS = 1000
"""Test rows on which an adapter alone and the bare base are measured."""
PROBE_ROWS = 2000
"""Training rows of the head that is fitted where an adapter brings none."""


@dataclass(frozen=True, eq=False)
class Brought:
    """One adapter that was brought along, or why it cannot be used.

    Attributes
    ----------
    name : told apart from the others on the shelf
    adapter : None if it could not be loaded
    problem : one sentence; empty if it fits the base
    relative_norm : mean over its modules of ||ΔW|| / ||W_0||, where it fits
    """

    name: str
    adapter: Adapter | None
    problem: str = ""
    relative_norm: float = math.nan


def bring(source: Source, model: nn.Module, taken: Sequence[str] = (), vouched: bool = False) -> Brought:
    """Load an adapter and hold it against the base; what is wrong with it becomes its ``problem``, so that it can be
    shown.

    Parameters
    ----------
    source : see `merging.adapters.fetch.opened`
    taken : names that are in use
    vouched : see `held_against`
    """
    first = source.repo if isinstance(source, Repository) else source if isinstance(source, str | Path) else source[0]
    try:
        adapter = Adapter.load(source, local_base=False)
    except MergeError as error:
        return Brought(_free(Path(first).name, taken), None, _without_folder(str(error), Path(first)))
    name = _free(adapter.name, taken)
    return held_against(Brought(name, replace(adapter, name=name)), model, vouched)


def held_against(brought: Brought, model: nn.Module, vouched: bool = False) -> Brought:
    """Return the same adapter with what keeps it from being added to ``model``; one that could not be loaded stays as
    it is.

    Parameters
    ----------
    vouched : somebody says that it is of this base, whatever name it records; shapes and fingerprint still count
    """
    adapter = brought.adapter
    if adapter is None:
        return brought
    try:
        check_fits(model, {module: update.shape for module, update in adapter.deltas.items()}, adapter.base_fingerprint)
    except MergeError as error:
        return replace(brought, problem=str(error))
    ours = str(getattr(model, "name_or_path", ""))
    recorded = str(adapter.config.get("base_model_name_or_path") or ("" if adapter.base_vouched else adapter.base))
    if adapter.base_fingerprint and ours:  # equal, so it is this model, wherever the file says that it lay
        brought = replace(brought, adapter=replace(adapter, base=ours))
    elif ours:
        # names and shapes alone would take an adapter of any model of the same size
        if not vouched and recorded and not parse_base(recorded).says_nothing and doubt(recorded, ours) is None:
            chosen = base_key(ours) if parse_base(ours).local else ours
            problem = (
                f"{adapter.name} records the base {recorded}, this one is {chosen}: choose its own base, or say that "
                "it is of this one all the same."
            )
            return replace(brought, problem=problem)
        # the base that the visitor chose vouches for a record that leaves it open
        vouched = vouched or doubt(recorded, ours) != ""
        brought = replace(brought, adapter=replace(adapter, base=ours, base_vouched=vouched))
    norms = relative_norms(model, adapter.deltas)
    return replace(brought, problem="", relative_norm=sum(norms.values()) / max(len(norms), 1))


def overview(shelf: Sequence[Brought]) -> pd.DataFrame:
    """Return a row per adapter: name, problem, base, rank, alpha, modules, size (||ΔW|| / ||W_0||), megabytes, labels,
    licence.

    An adapter that fits the base but not the first usable one on the shelf is a problem too: they could not be merged.
    """
    rows, reference = [], None
    for brought in shelf:
        adapter, problem = brought.adapter, brought.problem
        if adapter is None:
            rows.append((brought.name, problem, "", "", "", 0, "", 0.0, "", ""))
            continue
        if not problem and reference is not None:
            problem = next(iter(compatibility([reference, adapter]).problems), "")
        if not problem:
            reference = reference or adapter
        size = sum((u.A.numel() + u.B.numel()) * 4 for u in adapter.deltas.values()) / 1e6
        ranks = sorted({update.rank for update in adapter.deltas.values()})
        labels = _head_text(adapter)
        alpha = adapter.config.get("lora_alpha", "")
        rows.append(
            (
                brought.name,
                problem,
                adapter.base or "not recorded",
                "–".join(map(str, ranks[:: max(1, len(ranks) - 1)])),
                str(alpha),
                len(adapter.deltas),
                "" if math.isnan(brought.relative_norm) else f"{brought.relative_norm:.1%}",
                round(size, 2),
                labels,
                str((adapter.source or {}).get("license") or ""),
            )
        )
    columns = ["name", "problem", "base", "rank", "alpha", "modules", "size", "megabytes", "labels", "licence"]
    return pd.DataFrame(rows, columns=columns)


def rehearsed(shelf: Sequence[Brought]) -> pd.DataFrame:
    """Return what a merge of the usable adapters would do, module by module, and why the others are left out; see
    `merging.diagnostics.rehearsal.dry_run`.
    """
    problems = overview(shelf)["problem"]
    unread = {brought.name: why for brought, why in zip(shelf, problems, strict=True) if why}
    usable = [brought.adapter for brought, why in zip(shelf, problems, strict=True) if not why]
    return dry_run([adapter for adapter in usable if adapter is not None], MergeSpec.of("average"), unread=unread)


def _head_text(adapter: Adapter) -> str:
    """Say for people what an adapter brings to classify with."""
    if adapter.head is not None:
        return ", ".join(adapter.head.labels) or "unnamed"
    words = recorded_verbaliser(adapter.metadata)
    return f"words: {', '.join(words.words)}" if words else "no head"


@dataclass(frozen=True)
class Prepared:
    """State of `prepare`: which adapter is measured, of how many; at its end the folder that holds it."""

    name: str
    place: int
    total: int
    what: str
    folder: str | None = None


def prepare(
    model: nn.Module, tokenizer: Any, chosen: Mapping[str, Brought], tasks: Mapping[str, Task], root: Path
) -> Iterator[Prepared]:
    """Give every adapter its task and a head, measure it alone, and write it to ``root/<task>``: a pool; closing stops.

    An adapter without a head gets one: a language model answers with the names of the labels, any other base gets a
    logistic-regression probe on the task's training rows.

    Parameters
    ----------
    model, tokenizer : the base; restored after every step
    chosen : {task: adapter}
    tasks : {name: Task}, at least the chosen ones

    Raises
    ------
    MergeError
        If fewer than two are chosen, they do not fit each other, or a head does not fit its task.
    """
    if model.main_input_name != "input_ids":
        raise MergeError(
            f"The base reads {model.main_input_name}, and tasks here are texts: open the adapters without measuring."
        )
    adapters = _mergeable([*chosen.values()], "Choose tasks for two adapters or more: one alone is nothing to merge.")
    for place, (name, adapter) in enumerate(zip(chosen, adapters, strict=True), 1):
        task = tasks[name]
        head: Head | Verbaliser | None = recorded_verbaliser(adapter.metadata)
        if adapter.head is not None:
            head = fitted(adapter.head, task, adapter.name)
        elif head is None and answers(model):
            head = default_verbaliser(task.title, task.description, task.labels, task.test.pairs is not None)
        elif head is None:
            if not len(task.train):
                raise MergeError(
                    f"{adapter.name} brings no head, and all rows of {task.title} are test rows: a head needs "
                    "training rows to be fitted on."
                )
            yield Prepared(name, place, len(chosen), "fitting a head")
            head = probe(model, tokenizer, task, TrainingSettings(rows=PROBE_ROWS))
        yield Prepared(name, place, len(chosen), "measuring it alone")
        test = encode_task(tokenizer, task, "test", REFERENCE_ROWS)
        accuracy, marks = {}, {}
        for what, subject in (("base", None), ("adapter", adapter)):
            for estimate in evaluate(model, tokenizer, subject, [test], heads={task.name: head}):
                accuracy[what], marks[what] = estimate.accuracy, estimate.marks
                yield Prepared(
                    name,
                    place,
                    len(chosen),
                    f"measuring {'the base' if subject is None else 'it alone'}: {estimate.done} of {estimate.total}",
                )
        metadata = adapter.metadata.changed(
            test_accuracy=accuracy, test_marks=marks, rows={"test": len(test.encoded)}, brought=_brought(adapter)
        )
        if isinstance(head, Verbaliser):
            ready = replace(adapter, name=name, task=name, metadata=metadata.changed(verbaliser=asdict(head)))
        else:
            ready = replace(adapter, name=name, task=name, head=head, metadata=metadata)
        yield Prepared(name, place, len(chosen), "done", str(ready.save(root / name)))


def keep(shelf: Sequence[Brought], root: Path, tasks: Mapping[str, Task] | None = None) -> dict[str, str]:
    """Write the usable adapters of a shelf below ``root``, without measuring them; returns {task: folder}.

    Parameters
    ----------
    tasks : {name of an adapter with a head: its task}; any other adapter is its own task, of which no text is known

    Raises
    ------
    MergeError
        If fewer than two are usable, they do not fit each other, or a head does not fit its task.
    """
    usable = [brought for brought in shelf if brought.adapter is not None and not brought.problem]
    adapters = _mergeable(usable, "Bring two adapters or more that fit the base: one alone is nothing to merge.")
    folders = {}
    for place, adapter in enumerate(adapters):
        task, head = (tasks or {}).get(adapter.name), adapter.head
        ready = replace(
            adapter,
            task=task.name if task else adapter.name,
            head=fitted(head, task, adapter.name) if task and head else head,
            metadata=adapter.metadata.changed(brought=_brought(adapter)),
        )
        folders[ready.task] = str(ready.save(root / str(place)))
    return folders


def _brought(adapter: Adapter) -> dict[str, Any]:
    """Return what its owner calls an adapter and its file; where the file lies on this machine is nobody's business."""
    origin = [adapter.origin] if isinstance(adapter.origin, str) else list(adapter.origin or ())
    base = adapter.base if adapter.base_vouched else None
    return {"name": adapter.name, "files": [Path(part).name for part in origin], "base": base}


def _mergeable(chosen: Sequence[Brought], too_few: str) -> list[Adapter]:
    """Return the adapters, or raise MergeError with what keeps them from being merged."""
    if len(chosen) < 2:
        raise MergeError(too_few)
    for brought in chosen:
        if brought.problem or brought.adapter is None:
            raise MergeError(f"{brought.name} cannot be used: {brought.problem}")
    adapters = [brought.adapter for brought in chosen if brought.adapter is not None]
    problems = compatibility(adapters).problems
    if problems:
        raise MergeError(problems[0])
    return adapters


def answers(model: nn.Module) -> bool:
    """Tell whether a model has a language-model head, so that it can answer with the labels' names."""
    return model is not bare(model) and getattr(model, "get_output_embeddings", lambda: None)() is not None


def fitted(head: Head, task: Task, name: str) -> Head:
    """Return a head whose rows are in the order of the task's labels.

    Raises
    ------
    MergeError
        If it has other labels, or another number of them. Unnamed labels are taken in the task's order.
    """
    if not head.labels or tuple(head.labels) == tuple(task.labels):
        count = len(next(iter(head.tensors.values())))
        if head.kind == "pooled" and count != len(task.labels):
            raise MergeError(
                f"The head of {name} has {count} labels, the task {task.title} has {len(task.labels)}: choose its own "
                "task."
            )
        return head
    if sorted(head.labels) != sorted(task.labels):
        raise MergeError(
            f"The head of {name} knows the labels {', '.join(head.labels)}, the task {task.title} has "
            f"{', '.join(task.labels)}: choose its own task."
        )
    if head.kind != "pooled":
        return head  # evaluation finds its labels by name
    order = torch.tensor([head.labels.index(label) for label in task.labels])
    return Head("pooled", {key: tensor[order] for key, tensor in head.tensors.items()}, tuple(task.labels))


def _without_folder(sentence: str, path: Path) -> str:
    """Return a sentence that calls a file by its name: where an upload lies on the server is nobody's business."""
    return (
        sentence.replace(f"{path.resolve().parent}/", "").replace(f"{path.parent}/", "")
        if path.is_absolute()
        else sentence
    )


def _free(name: str, taken: Sequence[str]) -> str:
    """Return the name, numbered if it is in use."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free
