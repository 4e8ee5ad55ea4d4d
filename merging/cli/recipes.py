"""What the command line does with a recipe.yaml: refuse options that contradict it, merge, evaluate and sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MergeError

if TYPE_CHECKING:
    from torch import nn

    from ..adapters.adapter import Adapter
    from ..adapters.head import Head
    from ..evaluation.verbalisers import Verbaliser
    from ..features.moments import Features
    from ..recipes.recipe import Recipe


def recipe_of(inputs: Sequence[str | Path]) -> Recipe | None:
    """Return the recipe that the arguments of a command name, None if they are adapters.

    Raises
    ------
    MergeError
        If a recipe stands beside something else, or cannot be read.
    """
    named = [str(name) for name in inputs if str(name).endswith((".yaml", ".yml"))]
    if not named:
        return None
    if len(inputs) > 1:
        raise MergeError(f"{named[0]} is a recipe, which names its adapters itself: give it alone.")
    from ..recipes.recipe import Recipe

    try:
        text = Path(named[0]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MergeError(f"The recipe {named[0]} cannot be read: {error}.") from error
    return Recipe.from_yaml(text)


def refuse_contradictions(recipe: Recipe, options: Mapping[str, Any]) -> None:
    """Raise MergeError for an option of ``merge`` that says something else than the recipe beside it.

    Parameters
    ----------
    options : by the name of the parameter; None and empty ones were not given
    """
    said = _said(recipe)
    for name, value in options.items():
        if value is None or value == [] or (name in said and said[name] == value):
            continue
        option = f"--{name.replace('_', '-')}"
        stands = f"says {said[name]}" if said.get(name) is not None else "says nothing of it"
        raise MergeError(
            f"{option} {value} has no effect beside a recipe, which {stands}: leave it out, or edit the recipe."
        )


def _said(recipe: Recipe) -> dict[str, Any]:
    """Return what the recipe says, under the names of the options, with the method's own values where it names none."""
    spec = recipe.spec
    files = {
        "weight": list(spec.weights),
        "rank": recipe.rank,
        "head": [recipe.head] if isinstance(recipe.head, str) else recipe.head,
        "prefix": recipe.prefix,
        "dtype": recipe.dtype,
        "exact_svd": bool(recipe.exact_svd),
    }
    off = {"penalty": None} if spec.orthogonalize.mode == "off" else {}
    return spec.to_dict() | files | {"soft_osrm": spec.mu if spec.soft_osrm else None} | off


def needs_data(method: str) -> bool:
    """Tell whether a method looks at the tasks' texts."""
    from ..methods import METHODS

    return method in METHODS and "data" in METHODS[method].needs


def features_of(adapters: Sequence[Adapter], base: str | None, k: int = 100) -> Features:
    """Collect the features of the adapters' own embedded tasks, for what needs data."""
    from ..features.progress import READ_LENGTH
    from ..features.reading import collect_features
    from ..features.store import texts_for
    from ..models.load import load_base
    from ..models.shared import base_of
    from ..tasks.task import Task

    size = texts_for(k)  # texts that are read together share their padding, and so decide the last bits
    texts = {adapter.task: Task.load(adapter.task).train.texts[:size] for adapter in adapters}
    model, tokenizer = load_base(base_of(adapters, base))
    modules = sorted({module for adapter in adapters for module in adapter.deltas})
    return collect_features(model, tokenizer, texts, size, modules, READ_LENGTH, keep_tokens=size != k).first(k)


def recipe_features(recipe: Recipe, base: str | None) -> Features | None:
    """Collect what a recipe's merge needs of the tasks' texts; None if that is nothing."""
    if recipe.soft_osrm is None and not needs_data(recipe.method):
        return None
    return features_of(recipe.load_adapters(), base, recipe.k or 100)


def evaluate_recipe(recipe: Recipe, split: str, rows: int | None, base: str | None) -> Iterator[str]:
    """Yield a table, line by line: the merge's accuracy with its 95 % interval, macro-F1 and Matthews correlation; the
    accuracy of the adapter alone and of the base under its head; at last the gap between these two that the merge
    recovers.

    Parameters
    ----------
    rows : of each task; None = all
    base : None = the one that the adapters record
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    from ..engine import merge_recipe
    from ..evaluation.accuracy import encode_task, hits, predictions, wilson
    from ..evaluation.intervals import Values, gap_recovered
    from ..tasks.task import Task

    merged = merge_recipe(recipe, recipe_features(recipe, base))
    written = merged if recipe.rank is None else merged.to_adapter(recipe.rank, exact_svd=bool(recipe.exact_svd))
    heads = _heads(merged.adapters)
    model, tokenizer = opened(merged.adapters, base)
    yield (
        f"{'task':12} {'merged':>8} {'95 %':>16} {'macro-F1':>8} {'Matthews':>8} {'adapter':>8} {'base':>8} "
        f"{'rows':>6}   ({split})"
    )
    table: list[list[float]] = []
    marks: dict[str, dict[str, Values]] = {"merged": {}, "adapter": {}, "base": {}}
    for adapter, head in zip(merged.adapters, heads, strict=True):
        task = encode_task(tokenizer, Task.load(adapter.task), split, rows)
        for column, subject in zip(marks, (written, adapter, None), strict=True):
            predicted = predictions(hits(model, tokenizer, subject, [task], heads={adapter.task: head}))[adapter.task]
            marks[column][task.name] = (predicted == task.labels).double().numpy()
            if subject is written:
                f1 = f1_score(task.labels, predicted, average="macro", zero_division=0.0)
                correlation = matthews_corrcoef(task.labels, predicted)
        ours, alone, bare = (marks[column][task.name] for column in marks)
        low, high = wilson(int(ours.sum()), len(ours))
        table.append([ours.mean(), f1, correlation, alone.mean(), bare.mean()])
        yield _row(adapter.task, f"{low:.3f} to {high:.3f}", table[-1]) + f" {len(ours):6}"
    yield _row("average", "", [sum(column) / len(table) for column in zip(*table, strict=True)])
    gap = gap_recovered(marks["base"], marks["adapter"], marks["merged"])
    if gap.tasks:
        yield (
            f"gap recovered: {gap.mean:.1%} ({gap.low:.1%} to {gap.high:.1%}), mean of {len(gap.tasks)} of "
            f"{len(table)} tasks"
        )
    else:
        yield "gap recovered: in no task is the adapter alone better than the base by more than the uncertainty"


def _row(name: str, interval: str, values: Sequence[float]) -> str:
    accuracy, *others = (f"{value:8.3f}" for value in values)
    return " ".join([f"{name:12}", accuracy, f"{interval:>16}", *others])


def sweep_recipe(recipe: Recipe, rows: int, base: str | None, table: Path | None = None) -> Iterator[str]:
    """Yield a line per scaling: the validation accuracy of the recipe's merge, all else as it says; the best one last.

    Parameters
    ----------
    rows : of each task
    table : where the rows go as CSV: method, scaling, task, correct, total

    Raises
    ------
    MergeError
        If the method has no scaling, or an adapter no head.
    """
    import pandas as pd

    from ..engine import merge_spec
    from ..evaluation.accuracy import encode_task
    from ..experiments.sweep import SCALINGS, append, as_rows, averages, best_scalings, beyond_edge, measure
    from ..tasks.task import Task

    if "scaling" not in _said(recipe):
        raise MergeError(f"{recipe.method} has no scaling to sweep: take a recipe of another method.")
    if table is not None and table.exists():
        raise MergeError(f"{table} exists: choose another folder with -o.")
    features = recipe_features(recipe, base)
    adapters = recipe.load_adapters()
    _heads(adapters)
    model, tokenizer = opened(adapters, base)
    tasks = [encode_task(tokenizer, Task.load(adapter.task), "validation", rows) for adapter in adapters]
    measured = pd.DataFrame()
    waiting = list(SCALINGS)
    while waiting:
        scaling = waiting.pop(0)
        merged = merge_spec(adapters, recipe.spec.with_params(scaling=scaling), features)
        new = as_rows(measure(model, tokenizer, merged, tasks), recipe.method, scaling).drop(columns="hits")
        measured = pd.concat([measured, new], ignore_index=True)
        if table is not None:
            append(table, new)
        row = averages(new).iloc[0]
        yield (
            f"scaling {scaling:<6g} average {row.average:.3f} ({row.low:.3f} to {row.high:.3f}), worst "
            f"{row.worst_task} {row.worst:.3f}"
        )
        waiting = waiting or beyond_edge(averages(measured))
    yield f"best scaling on validation: {best_scalings(measured)[recipe.method]:g}"


def opened(adapters: Sequence[Adapter], base: str | None) -> tuple[nn.Module, Any]:
    """Return the base and its tokenizer, with its language-model head where the adapters were trained to write their
    labels.
    """
    from ..evaluation.accuracy import own_head
    from ..evaluation.verbalisers import Verbaliser
    from ..models.load import load_base, load_language_model
    from ..models.shared import base_of

    writes = any(isinstance(own_head(adapter), Verbaliser) for adapter in adapters)
    return (load_language_model if writes else load_base)(base_of(adapters, base))


def _heads(adapters: Sequence[Adapter]) -> list[Head | Verbaliser]:
    from ..evaluation.accuracy import own_head

    heads = []
    for adapter in adapters:
        if (head := own_head(adapter)) is None:
            raise MergeError(
                f"{adapter.name} brings no head to classify with, so the merge cannot be evaluated on its task."
            )
        heads.append(head)
    return heads
