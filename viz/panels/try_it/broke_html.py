"""The tables of “What broke”: counts per task, pairs of labels, a page of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from merging.playground.rows import mcnemar

BOX = "#ms-try-text textarea"
"""Where a row goes that is to be tried."""


@dataclass(frozen=True)
class Count:
    """Rows of a task that only one of two gets right: (only the other, only the merge); None = not known."""

    task: str
    own: tuple[int, int] | None
    pinned: tuple[int, int] | None


def p_value(p: float) -> str:
    """Write a p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def counts_html(titles: Mapping[str, str], rows: Sequence[Count] | None, task: str) -> str:
    """Write the counts per task; each task's button shows its rows."""
    known = {row.task: row for row in rows or ()}
    names = ("broken", "mended", "against the own adapter", "pin")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("task", *names))
    lines = []
    for name, title in titles.items():
        row = known.get(name)
        cells = ["–", "–", "–", "–"]
        if row is not None and row.own is not None:
            cells[:3] = [str(row.own[0]), str(row.own[1]), p_value(mcnemar(*row.own))]
        if row is not None and row.pinned is not None:
            cells[3] = f"only pin {row.pinned[0]}, only merge {row.pinned[1]}, {p_value(mcnemar(*row.pinned))}"
        pressed = str(name == task).lower()
        button = f'<button type="button" data-pick="{escape(name)}" aria-pressed="{pressed}">{escape(title)}</button>'
        labelled = "".join(f'<td data-label="{n}">{cell}</td>' for n, cell in zip(names, cells, strict=True))
        lines.append(f'<tr><th scope="row">{button}</th>{labelled}</tr>')
    note = (
        "Rows of the Merge tab's evaluation that only one of two gets right, with McNemar's exact p that they are "
        "equally good. Choose a task to see them."
    )
    if rows is None:
        note = "The Merge tab has not evaluated this very merge. Choose a task, and its test rows are answered here."
    body = "".join(lines)
    return f'<p>{note}</p><table class="ms-counts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def working_html(sentence: str) -> str:
    """Write how far the work is."""
    return f'<p role="status">{escape(sentence)}</p>'


def heading(title: str, against: str, merge: str, counts: Mapping[str, int], p: float, rows: int) -> str:
    """Write what is compared, and how it ends."""
    broken, mended = counts.values()
    return (
        f"<h3>{escape(title)}: {escape(against)}</h3>"
        f'<p role="status">{escape(merge)}: of the first {rows} test rows the merge breaks '
        f"{broken} and mends {mended} ({p_value(p)}, McNemar).</p>"
    )


def matrix_html(table: pd.DataFrame, pair: tuple[str, str] | None, names: Sequence[str]) -> str:
    """Write how often the first said one label where the second said another; a cell limits the rows to its pair."""
    labels = list(table.index)
    largest = max((int(table.iloc[i, j]) for i in range(len(labels)) for j in range(len(labels)) if i != j), default=0)
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    lines = []
    for i, first in enumerate(labels):
        cells = []
        for j, second in enumerate(labels):
            count = int(table.iloc[i, j])
            share = count / largest if largest and i != j else 0
            style = f' style="--share:{share:.2f}"'
            if i == j or not count:
                cells.append(f"<td{style}>{count}</td>")
                continue
            pressed = str((first, second) == pair).lower()
            said = f"{count} rows: {names[0]} {first}, {names[1]} {second}"
            cells.append(
                f'<td{style}><button type="button" data-pick="pair:{i}:{j}" aria-pressed="{pressed}" '
                f'aria-label="{escape(said)}">{count}</button></td>'
            )
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="ms-scroll" tabindex="0" role="region" aria-label="Pairs of labels"><table class="ms-matrix">'
        f"<caption>{escape(names[0])} (rows) said, {escape(names[1])} (columns) says</caption><thead><tr><td></td>"
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def rows_html(rows: pd.DataFrame, names: Sequence[str], page: int, last: int, count: int, kind: str) -> str:
    """Write a page of rows; the button of each puts it into the box."""
    if rows.empty:
        return f"<p>No row is {escape(kind)} here.</p>"
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("text", "truth", *names, ""))
    lines = []
    for row in rows.itertuples():
        text = row.text if len(row.text) <= 240 else f"{row.text[:239]}…"
        cells = (
            f'<td dir="auto">{escape(text)}</td><td>{escape(row.truth)}</td>'
            f"<td>{escape(row.first)} {row.sure_first:.2f}</td><td>{escape(row.second)} {row.sure_second:.2f}</td>"
        )
        button = (
            f'<button type="button" data-pick="row:{row.row}" data-to="{BOX}" aria-label="Try row {row.row + 1}">Try it'
            "</button>"
        )
        lines.append(f"<tr>{cells}<td>{button}</td></tr>")
    turn = "".join(
        f'<button type="button" data-pick="page:{to}"{" disabled" if not 0 <= to <= last else ""}>{word}</button> '
        for word, to in (("Previous", page - 1), ("Next", page + 1))
    )
    return (
        f'<div class="ms-scroll" tabindex="0" role="region" aria-label="Rows"><table><caption>{count} rows '
        f"{escape(kind)}, the surest wrong answer first; page {page + 1} of {last + 1}</caption><thead><tr>"
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div><p>{turn}</p>"
    )
