"""The measured tables that ship: sweeps on validation, test results, rank curves; and the text of assets/results.md
made from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..diagnostics.measures import RANK_KS, rank_curve
from ..evaluation.accuracy import encode_task
from ..evaluation.intervals import average, difference, gap_recovered
from ..features.reading import collect_features
from ..models.layers import target_names
from ..models.load import load_base, load_language_model
from ..shipped import POOLS, SHIPPED, check_pool, collect_for_osrm, load_pool, settings_of
from ..tasks.task import DEFAULT_TASKS, Task, task_title
from ..training.variants import VARIANTS
from .ledger import Ledger
from .osrm_summary import AT, BEST, EFFECTS, answer
from .sweep import (
    ALONE,
    BASE,
    CONTENDERS,
    FIXED,
    MAIN,
    append,
    averages,
    best_scalings,
    marks_of,
    measure_ends,
    missing_points,
    read_table,
    scalings_on_test,
    sweep,
)

REFERENCE = "task_arithmetic"


def measure_pool(pool: str, folder: Path, methods: Sequence[str] | None, rows: int, test_rows: int) -> Iterator[str]:
    """Fill ``sweep_<pool>.csv`` (validation) and ``test_<pool>.csv``; yields a line per merge.

    Validation only chooses scalings, so it may be computed in bfloat16. On test, in float32: the base and each adapter
    alone on the whole split, since the app shows them beside merges on any number of rows; each method at the fixed and
    its best scaling.
    """
    names = list(methods or MAIN)
    adapters, spec = load_pool(pool), check_pool(pool)
    model, tokenizer = (load_language_model if spec.words else load_base)(spec.base)
    tasks = [Task.load(adapter.task) for adapter in adapters]
    features = None
    if any("data" in CONTENDERS[name].needs for name in names):
        settings = settings_of(adapters[0].metadata)
        features = collect_for_osrm(model, tokenizer, [task.name for task in tasks], settings)
    test, validation = folder / f"test_{pool}.csv", folder / f"sweep_{pool}.csv"
    for path, split, limit in ((test, "test", spec.test_rows), (validation, "validation", rows)):
        if ALONE not in set(read_table(path).method):
            rows_of = [encode_task(tokenizer, task, split, limit) for task in tasks]
            for table in measure_ends(model, tokenizer, adapters, rows_of, bf16=split == "validation"):
                append(path, table if split == "test" else table.drop(columns="hits"))
                yield f"{pool} {split} {_line(table)}"
    encoded = {
        split: [encode_task(tokenizer, task, split, n) for task in tasks]
        for split, n in (("validation", rows), ("test", test_rows))
    }
    for name in names:
        while points := missing_points(read_table(validation), [name]):
            for table in sweep(model, tokenizer, adapters, encoded["validation"], points, features, bf16=True):
                append(validation, table.drop(columns="hits"))
                yield f"{pool} validation {_line(table)}"
        best = best_scalings(read_table(validation))[name]
        done = read_table(test)
        done = done[done.method == name].scaling.to_numpy(float)
        points = [(name, scaling) for scaling in scalings_on_test(name, best) if not np.isclose(done, scaling).any()]
        for table in sweep(model, tokenizer, adapters, encoded["test"], points, features):
            append(test, table)
            yield f"{pool} test {_line(table)}"


def _line(table: pd.DataFrame) -> str:
    row = averages(table).iloc[0]
    return f"{row.method} scaling {row.scaling:g}: average {row.average:.3f}, worst {row.worst_task} {row.worst:.3f}"


def write_rank_curves(folder: Path) -> None:
    """Write ``rank_curves.csv``: task, module, k, rank, energy_rank, up to 600 texts, for every layer's query input."""
    path = folder / "rank_curves.csv"
    if path.exists():
        return
    model, tokenizer = load_base("minilm")
    modules = target_names(model, ("query", "value"))
    frames = []
    for name in DEFAULT_TASKS:
        texts = {name: Task.load(name).train.texts[: RANK_KS[-1]]}
        features = collect_features(model, tokenizer, texts, RANK_KS[-1], modules, keep_tokens=False)
        curves = {}
        for module in modules:
            source = features.shared[module]
            if source not in curves:
                curves[source] = rank_curve(features.samples(name, source), RANK_KS)
            frames.append(curves[source].assign(task=name, module=module))
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat(frames)[["task", "module", "k", "rank", "energy_rank"]].to_csv(path, index=False)


def markdown_results(folder: Path) -> str:
    """Return a table per measured pool: each method on test at λ 0.3, 1 and its best, as gap recovered and average
    accuracy.
    """
    parts = [
        _pool_table(pool, read_table(folder / f"test_{pool}.csv"), read_table(folder / f"sweep_{pool}.csv"))
        for pool in SHIPPED
    ]
    return "\n\n".join(part for part in parts if part)


def markdown_adapters(pools: Sequence[str] = tuple(POOLS)) -> str:
    """Return the table of shipped adapters on one base: test accuracy of each beside the probe's and the bare
    base's."""
    lines = [
        "| task | probe | " + " | ".join(f"`{pool}` (base with its head)" for pool in pools) + " |",
        "|---|---|" + "---|" * len(pools),
    ]
    measured = {pool: {a.task: a.metadata.test_accuracy for a in load_pool(pool)} for pool in pools}
    for task in measured[pools[0]]:
        cells = [f"{measured[pool][task]['adapter']:.3f} ({measured[pool][task]['base']:.3f})" for pool in pools]
        lines.append(f"| {task_title(task)} | {measured[pools[0]][task]['probe']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _pool_table(pool: str, test: pd.DataFrame, validation: pd.DataFrame) -> str:
    if test.empty or validation.empty:
        return ""
    measured = [name for name in CONTENDERS if name in set(test.method) & set(validation.method)]
    if not measured:
        return ""
    rows = int(test[test.method.isin(measured)].total.max())
    base, alone = (marks_of(test, name, rows=rows) for name in (BASE, ALONE))
    best = best_scalings(validation)
    lines = [
        f"**Pool `{pool}`** ({SHIPPED[pool].title}): base {average(base)[0]:.3f}, each adapter alone "
        f"{average(alone)[0]:.3f}, {len(base)} tasks, up to {rows} test rows each",
        "",
        f"| method | {' | '.join(f'λ {scaling:g}' for scaling in FIXED)} | best λ | gap recovered there (95 %) | "
        "average accuracy there | worst task there | against Task Arithmetic there, points (95 %, paired) |",
        "|---|" + "---|" * (len(FIXED) + 5),
    ]
    reference = marks_of(test, REFERENCE, best[REFERENCE]) if REFERENCE in measured else None
    for name in measured:
        scaled = CONTENDERS[name].scaled
        fixed = [marks_of(test, name, scaling) if scaled else {} for scaling in FIXED]
        cells = [
            f"{gap_recovered(base, alone, marks).mean:.0%} ({average(marks)[0]:.3f})" if marks else ""
            for marks in fixed
        ]
        marks = marks_of(test, name, best[name] if scaled else 1.0)
        if not marks:
            continue
        gap, worst = gap_recovered(base, alone, marks), min(marks, key=lambda task: marks[task].mean())
        cells += [
            f"{best[name]:g}" if scaled else "",
            f"{gap.mean:.0%} ({gap.low:.0%} to {gap.high:.0%})",
            f"{average(marks)[0]:.3f}",
        ]
        paired = "" if reference is None or name == REFERENCE else _signed(difference(marks, reference))
        cells += [f"{task_title(worst)} {marks[worst].mean():.3f}", paired]
        lines.append(f"| {CONTENDERS[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _signed(interval: tuple[float, float, float]) -> str:
    value, low, high = (100 * part for part in interval)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def markdown_osrm(folder: Path) -> str:
    """Return the tables of the OSRM experiment: the answer, arms, each method at λ 0.3, 1 and best, effects and
    axes."""
    ledger = Ledger(folder, "osrm")
    summary, effects, runs = (ledger.table(name) for name in ("summary", "effects", "runs"))
    if summary.empty:
        return "Not measured yet; `mergescope experiment osrm` does it."
    arms = summary[summary.axis == "arm"]
    parts = [answer(ledger), _osrm_arms(arms, runs[runs.axis == "arm"])]
    parts += [_osrm_methods(arms[arms["at"] == at], at) for at in AT]
    if len(effects):
        parts += [
            _osrm_effects(effects[effects["at"] == BEST], f"points at the {BEST}", "method", _titles(effects.method))
        ]
        fixed = effects[effects.method == REFERENCE]
        parts += [_osrm_effects(fixed, f"points with {CONTENDERS[REFERENCE].title}", "at", {at: at for at in AT})]
    parts += [_osrm_axes(summary[(summary.axis != "arm") & (summary.method == REFERENCE)])]
    return "\n\n".join(part for part in parts if part)


def _titles(methods: Sequence[str]) -> dict[str, str]:
    """Return {method: title} of those that are in a table, the adapters alone first."""
    known = {ALONE: "each alone"} | {name: contender.title for name, contender in CONTENDERS.items()}
    return {name: title for name, title in known.items() if name in set(methods)}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _gap_cell(rows: pd.DataFrame, name: str) -> str:
    if name not in rows.index:
        return ""
    row = rows.loc[name]
    return f"{'–' if np.isnan(row.gap) else f'{row.gap:.0%}'} ({row.average:.3f})"


def _osrm_arms(arms: pd.DataFrame, runs: pd.DataFrame) -> str:
    rows = []
    for name, variant in VARIANTS.items():
        mine, ends = runs[runs.variant == name], arms[arms.variant == name].set_index("method")
        if len(mine) and {BASE, ALONE} <= set(ends.index):
            drift = f"{mine.drift_frobenius.min():.2f} to {mine.drift_frobenius.max():.2f}"
            means = (f"{mine.row_norm.mean():.2f}", drift, f"{mine.relative_norm.mean():.2f}")
            rows.append(
                [f"{variant.title} ({ends.n[ALONE]})", *means, *(f"{ends.average[end]:.3f}" for end in (BASE, ALONE))]
            )
    head = [
        "start of A (repetitions)",
        "length of its rows",
        "drift of A",
        "‖ΔW‖ / ‖W₀‖",
        "base with the heads",
        "each alone",
    ]
    return _table(head, rows)


def _osrm_methods(arms: pd.DataFrame, at: str) -> str:
    titles = {name: title for name, title in _titles(arms.method).items() if name != ALONE}
    rows = []
    for name, variant in VARIANTS.items():
        mine = arms[arms.variant == name].set_index("method")
        if titles.keys() & set(mine.index):
            cells = [_gap_cell(mine, m) for m in titles]
            rows.append([variant.title, *cells])
    return _table([f"gap recovered (accuracy) at {'the ' if at == BEST else ''}{at}", *titles.values()], rows)


def _osrm_effects(effects: pd.DataFrame, what: str, column: str, titles: Mapping[str, str]) -> str:
    rows = []
    for effect in EFFECTS:
        mine = effects[effects.effect == effect].set_index(column)
        if len(mine):
            rows.append([f"{effect} ({mine.n.max()})", *(_points(mine, name) for name in titles)])
    return _table([f"change, in {what} (95 %, paired)", *titles.values()], rows)


def _osrm_axes(axes: pd.DataFrame) -> str:
    rows = []
    for (axis, value, variant), mine in axes.sort_values(["axis", "variant", "value"]).groupby(
        ["axis", "value", "variant"], sort=False
    ):
        found = mine.set_index("at")
        cells = [_gap_cell(found, at) for at in AT]
        rows.append([axis, f"{value:g}", VARIANTS[variant].title, *cells])
    return _table(["axis", "value", "start of A", *(f"{CONTENDERS[REFERENCE].title}, {at}" for at in AT)], rows)


def _points(effects: pd.DataFrame, method: str) -> str:
    if method not in effects.index:
        return ""
    row = 100 * effects.loc[method, ["difference", "low", "high"]].astype(float)
    return f"{row.difference:+.1f} ({row.low:+.1f} to {row.high:+.1f})"
