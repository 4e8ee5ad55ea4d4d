"""How a visitor's rows look before they become a task, and what is said when they have."""

from collections.abc import Mapping, Sequence
from html import escape

from merging.tasks.files import Preview
from merging.tasks.records import FORMATS
from merging.tasks.task import Task

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
MOST_NAMED = 12  # labels
MOST_SHOWN = 20  # columns
LONGEST_NAME = 40
ROLES = {"text": "text", "pair": "second text", "label": "label", "split": "split"}


def preview_html(found: Preview) -> str:
    """Write what a file or a data set holds: its form, its labels and splits, what was guessed, what is wrong, its
    first rows.
    """
    parts = [f"<b>{escape(cut(found.name))}</b>: {_form(found)}, {_count(found.rows, 'row')}."]
    for what, counts in (("Labels", found.labels), ("Splits", found.splits)):
        if counts:
            parts.append(f"{what}: {escape(_counted(counts))}.")
    if found.guessed:
        guesses = ", ".join(f"{ROLES[role]} in {cut(getattr(found.chosen, role))}" for role in found.guessed)
        parts.append(f"Guessed from the columns’ names: {escape(guesses)}.")
    said = "".join(f"<p>{part}</p>" for part in parts)
    wrong = f'<p class="ms-error" role="alert">{escape(found.problem)}</p>' if found.problem else ""
    return f'<section aria-label="What it holds">{said}{wrong}{_table(found)}</section>'


def used_html(task: Task, rows: int, sampled: bool) -> str:
    """Say that ``rows`` rows, or a sample of them, are a task now."""
    splits = {split: len(getattr(task, split)) for split in ("train", "validation", "test")}
    left_out = rows - sum(splits.values())
    text = (
        f"Task {task.name}: {', '.join(f'{count:,} {split}' for split, count in splits.items())} rows; labels "
        f"{_listed(task.labels)}."
    )
    if left_out and not sampled:
        text += f" {_count(left_out, 'duplicate')} left out."
    return f'<p role="status">{escape(text)} Any adapter can be given it below.</p>'


def cut(name: str) -> str:
    """Return a column's or a label's name, cut if it is long."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _form(found: Preview) -> str:
    if found.format == "hub":
        return "a data set of the hub"
    between = f", cells between {DELIMITERS[found.delimiter]}" if found.delimiter else ""
    return FORMATS[found.format] + between


def _counted(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda item: -item[1])[:MOST_NAMED]
    more = f" and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
    return ", ".join(f"{cut(name)} {count:,}" for name, count in most) + more


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(cut, names[:MOST_NAMED])) + more


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _table(found: Preview) -> str:
    roles = {column: ROLES[role] for role, column in vars(found.chosen).items() if column}
    head = "".join(_heading(column, roles.get(column, "")) for column in found.columns[:MOST_SHOWN])
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row[:MOST_SHOWN])}</tr>" for row in found.first
    )
    hidden = len(found.columns) - MOST_SHOWN
    more = f'<p class="ms-muted">{_count(hidden, "more column")} not shown.</p>' if hidden > 0 else ""
    return (
        '<div class="ms-scroll ms-rows" tabindex="0" role="region" aria-label="First rows"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{more}"
    )


def _heading(column: str, role: str) -> str:
    chip = f' <span class="ms-chip">{role}</span>' if role else ""
    return f'<th scope="col">{escape(cut(column)) or "(no name)"}{chip}</th>'
