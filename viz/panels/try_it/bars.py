"""What everybody says to a text, as a table: a row per task, a cell per source, a bar of the labels' probabilities."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

import pandas as pd

from viz.panels.try_it.session import SOURCES

Title = Callable[[str], str]
MERGES = ("merge", "pinned")


def tops(frame: pd.DataFrame) -> dict[tuple[str, str], tuple[str, float]]:
    """Return {(task, source): (the most probable label, its probability)} of one text."""
    best = frame.loc[frame.groupby(["task", "source"], sort=False)["probability"].idxmax()]
    return {(row.task, row.source): (row.label, row.probability) for row in best.itertuples()}


def flipped(found: Mapping[tuple[str, str], tuple[str, float]], source: str = "merge") -> list[str]:
    """Return the tasks in which a merge says something else than the task's own adapter."""
    tasks = dict.fromkeys(task for task, _ in found)
    both = [task for task in tasks if (task, source) in found and (task, "own") in found]
    return [task for task in both if found[task, source][0] != found[task, "own"][0]]


def bars_html(
    frame: pd.DataFrame, tasks: Sequence[str], title: Title, task: str, truth: tuple[str, str] | None = None
) -> str:
    """Write the table.

    Parameters
    ----------
    frame : task, source, label, probability of one text
    tasks : in the order of their colours
    task : the one that is looked at closely
    truth : (task, label) where the text is a test row
    """
    present = [source for source in SOURCES if (frame["source"] == source).any()]
    found = tops(frame)
    head = "".join(f'<th scope="col">{escape(SOURCES[source])}</th>' for source in present)
    rows = []
    for place, name in enumerate(tasks):
        cells = "".join(
            _cell(frame[(frame["task"] == name) & (frame["source"] == source)], name, source, found, truth)
            for source in present
        )
        known = f"<small>truth: {escape(truth[1])}</small>" if truth and truth[0] == name else ""
        rows.append(
            f'<tr class="ms-task-{place % 8}"{" data-chosen" if name == task else ""}><th scope="row"><button '
            f'type="button" data-pick="{escape(name)}" aria-pressed="{str(name == task).lower()}">'
            f"{escape(title(name))}</button>{known}</th>{cells}</tr>"
        )
    return (
        f'<table class="ms-says"><thead><tr><th scope="col">task</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(
    rows: pd.DataFrame,
    task: str,
    source: str,
    found: Mapping[tuple[str, str], tuple[str, float]],
    truth: tuple[str, str] | None,
) -> str:
    name = f'data-label="{escape(SOURCES[source])}"'
    if rows.empty:
        return f'<td {name}><span class="ms-muted">no answer</span></td>'
    label, p = found[task, source]
    marks = ""
    if source in MERGES and found.get((task, "own"), (label,))[0] != label:
        marks += '<span class="ms-flip">flipped</span>'
    if truth and truth[0] == task:
        right = label == truth[1]
        marks += f'<span class="{"ms-good" if right else "ms-bad"}">{"✓ right" if right else "✗ wrong"}</span>'
    parts = "".join(
        f'<i style="width:{100 * row.probability:.2f}%" title="{escape(row.label)} {row.probability:.3f}"'
        f"{' data-top' if row.label == label else ''}></i>"
        for row in rows.itertuples()
    )
    return (
        f'<td {name}><span class="ms-top"><b>{escape(label)}</b> {p:.2f} {marks}</span>'
        f'<span class="ms-bar" aria-hidden="true">{parts}</span></td>'
    )


def summary(frame: pd.DataFrame, tasks: Sequence[str], title: Title, task: str) -> str:
    """Say the answer of the task that is looked at, and how many tasks flip, to those who listen and to all."""
    found = tops(frame)
    flips = [name for name in tasks if name in flipped(found)]
    parts = []
    if (task, "merge") in found:
        label, p = found[task, "merge"]
        own = found.get((task, "own"))
        said = f"{title(task)}: merge says {label} {p:.2f}"
        parts.append(f"{said}, own adapter says {own[0]} {own[1]:.2f}." if own else f"{said}.")
    count = len(tasks)
    if flips:
        parts.append(f"The merge flips {len(flips)} of {count} answers: {', '.join(map(title, flips))}.")
    elif any(source == "merge" for _, source in found):
        parts.append(f"The merge says what the own adapters say, in all {count} tasks." if count > 1 else "")
    return " ".join(part for part in parts if part)
