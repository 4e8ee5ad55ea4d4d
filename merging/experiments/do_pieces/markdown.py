"""The section of the results that the DO-Merging experiment's tables make: a verdict and a table per figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from ...methods import METHODS
from ...shipped import SHIPPED
from ..sweep import ALONE
from .results import LAMBDAS, Results, at_column
from .verdicts import FIGURES, OPEN, share, verdict


def markdown_do(folder: Path) -> str:
    """Return the section, from whatever tables there are: the verdicts, then what each figure is drawn from.

    Cells at a λ are the gap recovered and, in brackets, the average accuracy.
    """
    results = Results(folder)
    verdicts = [verdict(figure, results) for figure in FIGURES]
    lines = [
        "## DO-Merging's figures, measured",
        "",
        "Our reconstruction of DO-Merging (arXiv 2505.15875) on the shipped pools. Cells at a λ: gap recovered "
        "(average accuracy).",
        "",
        "| figure | the paper's claim | outcome |",
        "|---|---|---|",
        *(f"| {v.figure}: {FIGURES[v.figure][0]} | {v.claim} | {v.outcome} |" for v in verdicts),
    ]
    for found in verdicts:
        if found.outcome != OPEN or found.measured:
            lines += ["", f"### {_heading(found.figure)}", "", f"{found.line}", "", *_TABLES[found.figure](results)]
    return "\n".join(lines)


def _heading(figure: str) -> str:
    return FIGURES[figure][0] if figure == "epochs" else f"Figure {figure}: {FIGURES[figure][0]}"


def title(method: str) -> str:
    """Return what a method, or the adapters alone, are called."""
    return METHODS[method].title if method in METHODS else {"alone": "each alone"}.get(method, method.replace("_", " "))


def _at_lambdas(frame: pd.DataFrame, columns: Sequence[str] = LAMBDAS) -> list[str]:
    """Return a cell per column of λ of one method's scores."""
    cells = []
    for column in columns:
        row = at_column(frame, column)
        if row.empty:
            cells.append("")
            continue
        first = row.iloc[0]
        gap = "" if math.isnan(first.gap) or first.method == ALONE else f"{first.gap:.0%} "
        at = f" at {first.scaling:g}" if column == "best" and first.method != ALONE else ""
        cells.append(f"{gap}({first.average:.3f}){at}")
    return cells


def _rows(
    frame: pd.DataFrame, keys: Sequence[str], heads: Sequence[str], columns: Sequence[str] = LAMBDAS
) -> list[str]:
    if frame.empty:
        return []
    names = [*heads, *(f"λ {column}" if column != "best" else "best λ" for column in columns)]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for values, group in frame.groupby([*keys, "method"], sort=False):
        cells = [_cell(value) for value in values[:-1]]
        lines.append(f"| {' | '.join([*cells, title(str(values[-1])), *_at_lambdas(group, columns)])} |")
    return lines


def _cell(value: object) -> str:
    return (
        f"{value:g}" if isinstance(value, float) else SHIPPED[str(value)].title if str(value) in SHIPPED else str(value)
    )


def _methods(results: Results) -> list[str]:
    frame = results.methods()
    return _rows(frame[frame.method != ALONE], ["set", "rank"], ["set", "truncated to rank (0: not)", "method"])


def _variance(results: Results) -> list[str]:
    lines = [
        "| updates | variance over squared mean (extremes of modules) | largest norm over median |",
        "|---|---|---|",
    ]
    return lines + [
        f"| {r.source} | {r.variance:.3f} ({r.low:.3f} to {r.high:.3f}) | {r.norm_ratio:.2f} |"
        for r in results.variance().itertuples()
    ]


def _imbalance(results: Results) -> list[str]:
    frame = results.imbalance()
    variants = [*dict.fromkeys(frame.variant)]
    heads = ["pool", "scaled", "factor", "variance", "scaled one alone"]
    names = [*heads, *(f"{title(variant)}, λ {column}" for variant in variants for column in LAMBDAS[:2])]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for (pool, scaled, factor), group in frame.groupby(["pool", "scaled", "factor"], sort=False):
        first = group.iloc[0]
        cells = [
            _cell(pool),
            str(scaled),
            f"{factor:g}",
            f"{first.variance:.3f}",
            "" if math.isnan(first.own) else f"{first.own:.3f}",
        ]
        for variant in variants:
            cells += _at_lambdas(group[group.variant == variant], LAMBDAS[:2])
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _descent(results: Results) -> list[str]:
    frame = results.descent()
    names = ["pool", "penalty", "steps", "mean abs. cosine", "moved", "each alone", "merged, λ 0.3", "merged, λ 1"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for (pool, penalty, steps), group in frame.groupby(["pool", "penalty", "steps"], sort=False):
        alone, merged = group[group.method == ALONE], group[group.method == "task_arithmetic"]
        first = group.iloc[0]
        cells = [_cell(pool), f"{penalty:g}", str(steps), f"{first.cosine:.4f}", f"{first.moved:.3f}"]
        cells += [f"{alone.average.iloc[0]:.3f}" if len(alone) else "", *_at_lambdas(merged, LAMBDAS[:2])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _no_table(results: Results) -> list[str]:
    return ["The table is the one of figure 3a."]


def _components(results: Results) -> list[str]:
    frame = results.components()
    names = [
        "pool",
        "method",
        "component",
        *(f"λ {c}" if c != "best" else "best λ" for c in LAMBDAS),
        "gain at the best λ, points (95 %)",
    ]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for (pool, method, component), group in frame.groupby(["pool", "method", "component"], sort=False):
        by = group.set_index("λ")
        cells = [f"{share(by.gap[c])} ({by.accuracy[c]:.3f})" if c in by.index else "" for c in LAMBDAS]
        gain = ""
        if "best" in by.index and component != "none":
            row = 100 * by.loc["best", ["gain", "low", "high"]].astype(float)
            gain = f"{row.gain:+.1f} ({row.low:+.1f} to {row.high:+.1f})"
        lines.append(f"| {' | '.join([_cell(pool), title(str(method)), str(component), *cells, gain])} |")
    return lines


def _directions(results: Results) -> list[str]:
    frame = results.directions()
    names = ["pool", "side", "strength", "mean abs. cosine", "each alone", "method", "λ 0.3", "λ 1"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for (pool, side, strength), group in frame.groupby(["pool", "side", "strength"], sort=False):
        alone = group[group.method == ALONE]
        for method, merged in group[group.method != ALONE].groupby("method", sort=False):
            cells = [_cell(pool), str(side), f"{strength:g}", f"{merged.cosine.iloc[0]:.4f}"]
            cells += [
                f"{alone.average.iloc[0]:.3f}" if len(alone) else "",
                title(str(method)),
                *_at_lambdas(merged, LAMBDAS[:2]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ranks(results: Results) -> list[str]:
    frame = results.ranks("default")
    frame = frame.assign(alone=frame.alone.round(3)).sort_values("rank")
    return _rows(frame, ["rank", "alone"], ["rank", "each alone", "method"])


def _truncation(results: Results) -> list[str]:
    frame = results.truncation()
    frame = frame.assign(energy=frame.energy.round(3)).sort_values("rank")
    return _rows(frame, ["rank", "energy"], ["rank (0: as trained)", "energy kept", "method"])


def _epochs(results: Results) -> list[str]:
    frame = results.epochs()
    frame = frame.assign(alone=frame.alone.round(3), base=frame.base.round(3)).sort_values("epochs")
    return _rows(frame, ["epochs", "base", "alone"], ["epochs", "base", "each alone", "method"])


_TABLES: dict[str, Callable[[Results], list[str]]] = {
    "1a": _methods,
    "1b": _variance,
    "1c": _imbalance,
    "3a": _descent,
    "3b": _no_table,
    "4a": _components,
    "4b": _directions,
    "4c": _ranks,
    "5": _truncation,
    "epochs": _epochs,
}
