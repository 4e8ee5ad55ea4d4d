"""Leave one out: what each adapter, or each layer of a merge, does to every task's accuracy.

The merge of all is measured once, then the merge without adapter j (or with one layer left as the base has it) on the
same rows. Only rows that change sides tell anything about the difference, so it is known far better than either
accuracy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import pandas as pd
from torch import nn

from ..adapters.adapter import Adapter, number_equal_names
from ..adapters.head import Head
from ..engine import merge
from ..errors import MergeError
from ..evaluation.accuracy import Z95, EncodedTask, Hits, hits, own_head
from ..evaluation.verbalisers import Verbaliser
from ..merged import Merged
from ..recipes.spec import Weight

MergeOf = Callable[[Sequence[Adapter]], Merged]
"""Merges some of the adapters that a caller has chosen, in their order; see `merging_with`."""


@dataclass(frozen=True)
class Change:
    """One task under the merge that lacks something, against the merge of all, on the same rows.

    Attributes
    ----------
    left_out : the adapter's name (equal ones are numbered), or the layer
    difference : accuracy without it minus accuracy of the merge of all, in points: above 0 = the task is better off
        without it
    low, high : 95 % interval, see `paired_interval`
    n : rows of the task
    gained, lost : rows that are right only without it, and only with it
    """

    left_out: str
    task: str
    difference: float
    low: float
    high: float
    n: int
    gained: int
    lost: int


@dataclass(frozen=True)
class Step:
    """State of a leave-one-out after one batch.

    Attributes
    ----------
    left_out : what is being left out; "" while the merge of all is measured
    done, total : rows measured and to be measured, over everything
    changes : one per task with the last batch of each left-out part, else empty
    """

    left_out: str
    done: int
    total: int
    changes: tuple[Change, ...] = ()


Steps = Generator[Step, None, None]


def merging_with(
    adapters: Sequence[Adapter], method: str, weights: Sequence[Weight] | None = None, **arguments: Any
) -> MergeOf:
    """Return a function that merges any of these very adapters, each with its own weight.

    Parameters
    ----------
    adapters, method, weights, **arguments : of `merging.merge`

    Raises
    ------
    MergeError
        If weights and adapters do not go together: another number of them, or one adapter object twice.
    """
    if weights is not None and len(weights) != len(adapters):
        raise MergeError(f"{len(weights)} weights for {len(adapters)} adapters: give one each.")
    own = {id(adapter): weight for adapter, weight in zip(adapters, weights or [1.0] * len(adapters), strict=True)}
    if weights is not None and len(own) < len(adapters):
        raise MergeError(
            "The same adapter is given twice, so its weights could not be told apart: load it again for each."
        )

    def merge_of(some: Sequence[Adapter]) -> Merged:
        strangers = [adapter.name for adapter in some if id(adapter) not in own]
        if strangers:
            raise MergeError(
                f"{strangers[0]} is not one of the adapters that this merge was set up with: it has no weight."
            )
        return merge(some, method, weights=[own[id(adapter)] for adapter in some], **arguments)

    return merge_of


def leave_one_adapter_out(
    model: nn.Module, tokenizer: Any, adapters: Sequence[Adapter], merge_of: MergeOf, tasks: Sequence[EncodedTask]
) -> Steps:
    """Measure the merge of all adapters, then the merge without each in turn; yields after every batch.

    Every task keeps its own head, the task of the left-out adapter too: what remains of it is what the others give it.
    A method that needs the task's identity (EMR) has no weights for that task, so there it is not measured. Closing the
    generator stops between two batches; the model's weights are restored bit for bit in any case.

    Parameters
    ----------
    model : bare encoder
    merge_of : merges a list of these adapters, by whatever method, λ, plug-ins and weights; see `merging_with`
    tasks : of `merging.evaluation.accuracy.encode_task`; those of the adapters, or some of them

    Raises
    ------
    MergeError
        For a single adapter, and as `merging.evaluate`: no head, two heads for one task, another base.
    """
    if len(adapters) < 2:
        raise MergeError("Leaving one adapter out needs two or more: without the only one there is no merge.")
    parts = []
    for place, named in enumerate(number_equal_names(list(adapters))):
        rest = [adapter for i, adapter in enumerate(adapters) if i != place]
        parts.append(_Part(named.name, lambda rest=rest: merge_of(rest), adapters[place].task))  # type: ignore[misc]
    return _leave_out(model, tokenizer, merge_of(adapters), parts, tasks)


def leave_one_layer_out(
    model: nn.Module, tokenizer: Any, adapters: Sequence[Adapter], merge_of: MergeOf, tasks: Sequence[EncodedTask]
) -> Steps:
    """Measure the merge of all adapters, then with the update of each layer set to zero in turn; yields after every
    batch.

    The merge is computed once, so what a method takes from all layers together (EMR's rescaling) stays as it is.
    Otherwise see `leave_one_adapter_out`; one adapter is enough here.
    """
    merged = merge_of(adapters)
    layers: dict[str, set[str]] = {}
    for module in (*merged.modules, *merged.parts):
        layers.setdefault(layer_of(module), set()).add(module)
    parts = [
        _Part(layer, lambda left=frozenset(layers[layer]): Partial(merged, left))  # type: ignore[misc]
        for layer in sorted(layers, key=lambda layer: (len(layer), layer))
    ]
    return _leave_out(model, tokenizer, merged, parts, tasks)


def layer_of(module: str) -> str:
    """Return the layer's number in a module's full name; a module outside the layers has its own name as layer."""
    found = re.search(r"\.(\d+)\.", module)
    return found.group(1) if found else module


def as_frame(steps: Iterable[Step]) -> pd.DataFrame:
    """Run a leave-one-out to its end: left_out, task, difference, low, high, n, gained, lost."""
    rows = [asdict(change) for step in steps for change in step.changes]
    return pd.DataFrame(rows, columns=[column.name for column in fields(Change)])


@dataclass(frozen=True, eq=False)
class Partial:
    """A merge with the update of some modules left out; it is put into a model like the `Merged` itself."""

    merged: Merged
    left_out: frozenset[str]

    @property
    def adapters(self) -> list[Adapter]:
        """See `Merged`."""
        return self.merged.adapters

    @property
    def needs(self) -> frozenset[str]:
        """See `Merged.needs`."""
        return self.merged.needs

    def for_task(self, task: str) -> Partial:
        """See `Merged.for_task`."""
        return Partial(self.merged.for_task(task), self.left_out)

    def applied_to(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """See `Merged.applied_to`."""
        return self.merged.applied_to(model, self.left_out)


@dataclass(frozen=True, eq=False)
class _Part:
    """What is left out, how to merge without it, and the task that loses its adapter (if one does)."""

    name: str
    without: Callable[[], Merged | Partial]
    orphan: str | None = None


def _leave_out(
    model: nn.Module, tokenizer: Any, merged: Merged, parts: Sequence[_Part], tasks: Sequence[EncodedTask]
) -> Steps:
    heads = {adapter.task: head for adapter in merged.adapters if (head := own_head(adapter)) is not None}
    measured = [[task for task in tasks if "task_id" not in merged.needs or task.name != part.orphan] for part in parts]
    rows = [sum(len(task.encoded) for task in some) for some in (tasks, *measured)]
    done, total = 0, sum(rows)
    # heads=None: two heads for one task are refused
    with closing(_marking(model, tokenizer, merged, tasks, None)) as marking:
        for marks in marking:
            yield Step("", marks.done, total)
    everything, done = marks.right, rows[0]
    for part, some, count in zip(parts, measured, rows[1:], strict=True):
        if not some:
            continue
        with closing(_marking(model, tokenizer, part.without(), some, heads)) as marking:
            for marks in marking:
                last = marks.done == count
                changes = (
                    [_change(part.name, task, everything[task], marks.right[task]) for task in marks.right]
                    if last
                    else ()
                )
                yield Step(part.name, done + marks.done, total, tuple(changes))
        done += count


@dataclass(eq=False)
class _Marks:
    """{task: right or not per row}, filled batch by batch."""

    right: dict[str, list[bool]]
    done: int = 0


def _marking(
    model: nn.Module,
    tokenizer: Any,
    subject: Merged | Partial,
    tasks: Sequence[EncodedTask],
    heads: Mapping[str, Head | Verbaliser] | None,
) -> Generator[_Marks, None, None]:
    """Do the work of `merging.experiments.sweep.measure` batch by batch, so that it can be stopped."""
    marks = _Marks({task.name: [False] * len(task.encoded) for task in tasks})
    stream = hits(model, tokenizer, subject, tasks, heads=heads)
    with closing(cast("Generator[Hits, None, None]", stream)) as batches:
        for batch in batches:
            for row, hit in zip(batch.rows, batch.right.tolist(), strict=True):
                marks.right[batch.task][row] = hit
            marks.done += len(batch.rows)
            yield marks


def _change(left_out: str, task: str, everything: Sequence[bool], without: Sequence[bool]) -> Change:
    gained = sum(now and not before for before, now in zip(everything, without, strict=True))
    lost = sum(before and not now for before, now in zip(everything, without, strict=True))
    n = len(everything)
    low, high = paired_interval(gained, lost, n)
    return Change(left_out, task, 100 * (gained - lost) / n, 100 * low, 100 * high, n, gained, lost)


def paired_interval(gained: int, lost: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies on the same ``n`` rows, of which few changed sides.

    Wald's interval after half a row is added to each of the four cells (right or wrong with either): it covers what it
    should also where hardly any row changes, and has a width even where none does.

    References
    ----------
    Agresti & Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24,
    2005.
    """
    m = n + 2.0
    centre = (gained - lost) / m
    half = z * math.sqrt((gained + lost + 1.0) / m - centre**2) / math.sqrt(m)
    return max(-1.0, centre - half), min(1.0, centre + half)
