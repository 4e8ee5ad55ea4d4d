"""What everybody says to a text, as a table: a row per task, a cell per source, a bar of the labels' probabilities."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

import pandas as pd

from viz.panels.try_it.session import SOURCES

Title = Callable[[str], str]
Said = Mapping[tuple[str, str], Sequence[tuple[str, float]]]
"""{(task, source): [(label, probability)]} of one text."""
MERGES = ("merge", "pinned")


def answers_to(frame: pd.DataFrame, text: int) -> Said:
    """Return what is said to one text of a frame of `merging.playground.predictions`."""
    columns = (frame[name].tolist() for name in ("text", "task", "source", "label", "probability"))
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for place, task, source, label, p in zip(*columns, strict=True):
        if place == text:
            found.setdefault((task, source), []).append((label, p))
    return found


def top(labels: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """Return the most probable label, and its probability."""
    return max(labels, key=lambda one: one[1])


def flipped(said: Said, source: str = "merge") -> list[str]:
    """Return the tasks in which a merge says something else than the task's own adapter."""
    tasks = [task for task, who in said if who == source and (task, "own") in said]
    return [task for task in tasks if top(said[task, source])[0] != top(said[task, "own"])[0]]


def bars_html(said: Said, tasks: Sequence[str], title: Title, task: str, truth: tuple[str, str] | None = None) -> str:
    """Write the table.

    Parameters
    ----------
    tasks : in the order of their colours
    task : the one that is looked at closely
    truth : (task, label) where the text is a test row
    """
    sources = {source for _, source in said}
    present = [source for source in SOURCES if source in sources]
    head = "".join(f'<th scope="col">{escape(SOURCES[source])}</th>' for source in present)
    rows = []
    for place, name in enumerate(tasks):
        right = truth[1] if truth and truth[0] == name else None
        cells = "".join(_cell(said, name, source, right) for source in present)
        known = f"<small>truth: {escape(right)}</small>" if right is not None else ""
        rows.append(
            f'<tr class="ms-task-{place % 8}"{" data-chosen" if name == task else ""}><th scope="row"><button '
            f'type="button" data-pick="{escape(name)}" aria-pressed="{str(name == task).lower()}">'
            f"{escape(title(name))}</button>{known}</th>{cells}</tr>"
        )
    return (
        f'<table class="ms-says"><thead><tr><th scope="col">task</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(said: Said, task: str, source: str, truth: str | None) -> str:
    name = f'data-label="{escape(SOURCES[source])}"'
    labels = said.get((task, source))
    if not labels:
        return f'<td {name}><span class="ms-muted">no answer</span></td>'
    label, p = top(labels)
    marks = ""
    if source in MERGES and (task, "own") in said and top(said[task, "own"])[0] != label:
        marks += ' <span class="ms-flip">flipped</span>'
    if truth is not None:
        right = label == truth
        marks += f' <span class="{"ms-good" if right else "ms-bad"}">{"✓ right" if right else "✗ wrong"}</span>'
    parts = "".join(
        f'<i style="width:{100 * share:.2f}%" title="{escape(each)} {share:.3f}"{" data-top" if each == label else ""}>'
        "</i>"
        for each, share in labels
    )
    return (
        f'<td {name}><span class="ms-top"><b>{escape(label)}</b> {p:.2f}{marks}</span>'
        f'<span class="ms-bar" aria-hidden="true">{parts}</span></td>'
    )


def summary(said: Said, tasks: Sequence[str], title: Title, task: str) -> str:
    """Say the answer of the task that is looked at, and how many tasks flip, to those who listen and to all."""
    flips, parts = set(flipped(said)), []
    if (task, "merge") in said:
        label, p = top(said[task, "merge"])
        sentence = f"{title(task)}: merge says {label} {p:.2f}"
        own = top(said[task, "own"]) if (task, "own") in said else None
        parts.append(f"{sentence}, own adapter says {own[0]} {own[1]:.2f}." if own else f"{sentence}.")
    if flips:
        names = ", ".join(title(name) for name in tasks if name in flips)
        parts.append(f"The merge flips {len(flips)} of {len(tasks)} answers: {names}.")
    elif len(tasks) > 1 and any(source == "merge" for _, source in said):
        parts.append(f"The merge says what the own adapters say, in all {len(tasks)} tasks.")
    return " ".join(parts)
