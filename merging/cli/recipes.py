"""What the command line does with a recipe.yaml: refuse options that contradict it, merge, evaluate and sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MergeError

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from ..adapters.adapter import Adapter
    from ..features.moments import Features
    from ..merged import Merged
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
        "head": recipe.head,
        "prefix": recipe.prefix,
        "dtype": recipe.dtype,
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
    from ..engine import merge_recipe
    from ..evaluation.accuracy import encode_task, evaluate, hits, own_head
    from ..evaluation.intervals import as_values, gap_recovered
    from ..evaluation.metrics import metrics, predictions
    from ..tasks.task import Task

    merged = merge_recipe(recipe, recipe_features(recipe, base))
    _require_heads(merged)
    model, tokenizer = opened(merged.adapters, base)
    yield (
        f"{'task':12} {'merged':>8} {'95 %':>16} {'macro-F1':>8} {'Matthews':>8} {'adapter':>8} {'base':>8} "
        f"{'rows':>6}   ({split})"
    )
    found, marks = [], {end: {} for end in ("base", "alone", "merged")}  # type: ignore[var-annotated]
    for adapter in merged.adapters:
        task = encode_task(tokenizer, Task.load(adapter.task), split, rows)
        head = {adapter.task: own_head(adapter)}
        predicted = predictions(hits(model, tokenizer, merged, [task], heads=head))  # type: ignore[arg-type]
        ours = metrics(predicted, {adapter.task: task.labels}).set_index("metric")
        accuracy, low, high, rows_seen = ours.loc["accuracy", ["value", "low", "high", "n"]]
        alone, bare = (
            [*evaluate(model, tokenizer, subject, [task], heads=head)][-1]  # type: ignore[arg-type]
            for subject in (adapter, None)
        )
        marks["alone"][task.name], marks["base"][task.name] = as_values(alone.marks), as_values(bare.marks)
        marks["merged"][task.name] = (predicted[task.name] == task.labels).double().numpy()
        found.append((accuracy, ours.value["macro_f1"], ours.value["matthews"], alone.accuracy, bare.accuracy))
        interval = f"{low:.3f} to {high:.3f}"
        yield _row(adapter.task, interval, found[-1]) + f" {int(rows_seen):6}"
    yield _row("average", "", [sum(column) / len(found) for column in zip(*found, strict=True)])
    gap = gap_recovered(marks["base"], marks["alone"], marks["merged"])
    if gap.tasks:
        yield (
            f"gap recovered: {gap.mean:.1%} ({gap.low:.1%} to {gap.high:.1%}), mean of {len(gap.tasks)} of "
            f"{len(found)} tasks"
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
    model, tokenizer = opened(adapters, base)
    tasks = [encode_task(tokenizer, Task.load(adapter.task), "validation", rows) for adapter in adapters]
    found: list[pd.DataFrame] = []
    waiting = list(SCALINGS)
    while waiting:
        scaling = waiting.pop(0)
        merged = merge_spec(adapters, recipe.spec.with_params(scaling=scaling), features)
        _require_heads(merged)
        found.append(as_rows(measure(model, tokenizer, merged, tasks), recipe.method, scaling).drop(columns="hits"))
        if table is not None:
            append(table, found[-1])
        row = averages(found[-1]).iloc[0]
        yield (
            f"scaling {scaling:<6g} average {row.average:.3f} ({row.low:.3f} to {row.high:.3f}), worst "
            f"{row.worst_task} {row.worst:.3f}"
        )
        waiting = waiting or beyond_edge(averages(_all(found)))
    yield f"best scaling on validation: {best_scalings(_all(found))[recipe.method]:g}"


def _all(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


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


def _require_heads(merged: Merged) -> None:
    from ..evaluation.accuracy import own_head

    for adapter in merged.adapters:
        if own_head(adapter) is None:
            raise MergeError(
                f"{adapter.name} brings no head to classify with, so the merge cannot be evaluated on its task."
            )
