"""The pinned runs as a table beside the current one, and the current one against a pin, on the same rows."""

from collections.abc import Callable, Sequence
from html import escape
from math import isnan

import pandas as pd

from merging.playground.paired import AVERAGE, paired_table
from viz.figures.theme import pin_colour
from viz.panels.merge.session import LONGEST_TITLE, Run, summarise

NOW = "now"
Title = Callable[[str], str]


def compare_html(run: Run, pins: Sequence[Run], references: pd.DataFrame, title: Title, against: str) -> str:
    """Write the card.

    Parameters
    ----------
    against : the letter of the pin that the current run is compared with; the last pin where there is none of it
    """
    heading = "<h2>Compare</h2>"
    if not pins:
        return f"{heading}<p>Pin a run, and it stands here beside what you try next.</p>"
    other = next((pin for pin in pins if pin.name == against), pins[-1])
    return f"{heading}{_runs(run, pins, references, title, other)}{_against(run, other, title)}"


def _runs(run: Run, pins: Sequence[Run], references: pd.DataFrame, title: Title, other: Run) -> str:
    tasks = list(references["task"])
    names = ["", "name", "method", "settings", "", "average", "gap recovered", "seconds", *map(title, tasks)]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = [_run(NOW, run, references, tasks, "")]
    for pin in (pin for pin in pins if pin is not run):
        pressed = str(pin is other).lower()
        buttons = (
            f'<button type="button" data-pick="against:{pin.name}" aria-pressed="{pressed}" '
            f'aria-label="Compare with {pin.name}">compare</button> '
            f'<button type="button" data-pick="unpin:{pin.name}" aria-label="Unpin {pin.name}">unpin</button>'
        )
        lines.append(_run(pin.name, pin, references, tasks, buttons))
    said = ""
    if run in pins:
        said = f'<p role="status">This run is pinned as {run.name}; move something and compare.</p>'
    return (
        f'{said}<div class="ms-scroll" tabindex="0" role="region" aria-label="Pinned runs"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _run(name: str, run: Run, references: pd.DataFrame, tasks: Sequence[str], buttons: str) -> str:
    found = summarise(run.scores, references)
    cells = ["–", "–"]
    if found is not None:
        cells[0] = f"{found.average:.3f}"
        cells[1] = "–" if isnan(found.recovered) else f"{100 * found.recovered:.0f} %".replace("-", "−")
    cells.append("before" if run.known else "–" if run.seconds is None else f"{run.seconds:.1f}")
    cells += [f"{run.scores[task].accuracy:.3f}" if task in run.scores else "–" for task in tasks]
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    method, _, settings = run.label.partition(" · ")
    pin, called = "", ""
    if name != NOW:
        pin = f' class="ms-pin" style="--pin:{pin_colour(name)}"'
        called = (
            f'<input type="text" data-text="title:{name}" value="{escape(run.title)}" maxlength="{LONGEST_TITLE}" '
            f'placeholder="give it a name" aria-label="Name of pin {name}">'
        )
    start = f'<th scope="row"{pin}>{name}</th><td>{called}</td><td>{escape(method)}</td><td>{escape(settings)}</td>'
    return f"<tr>{start}<td>{buttons}</td>{row}</tr>"


def _against(run: Run, other: Run, title: Title) -> str:
    if other is run:
        return ""
    marks = [{task: score.marks for task, score in one.scores.items()} for one in (run, other)]
    table = paired_table(*marks)
    if table.empty:
        return "<p>Nothing to compare yet: the first rows are not answered.</p>"
    names = ("task", "rows", "now", other.name, "difference, points", "95 %", "only now", f"only {other.name}", "p")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = []
    for row in table.itertuples():
        name = "average" if row.task == AVERAGE else escape(title(row.task))
        spread = f"{row.low:+.1f} to {row.high:+.1f}"
        p = "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"
        certain = " data-certain" if row.low > 0 or row.high < 0 else ""
        sides = f"{row.first:.1f} %", f"{row.second:.1f} %", f"{row.difference:+.1f}"
        cells = (row.rows, *sides, spread, row.only_first, row.only_second, p)
        row_html = "".join(f"<td>{str(cell).replace('-', '−')}</td>" for cell in cells)
        lines.append(f'<tr{certain}><th scope="row">{name}</th>{row_html}</tr>')
    return (
        f'<div class="ms-scroll" tabindex="0" role="region" aria-label="Now against {other.name}"><table><caption>Now '
        f"against {escape(other.called)}: on the same test rows; p is McNemar's, exact; bold where the "
        f"95 % interval leaves 0 out</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        "</div>"
    )
