"""The verdict: what the merge keeps, in four numbers, first on the page."""

from collections.abc import Callable
from html import escape

import gradio as gr
import pandas as pd

from viz.panels.session import Run, Summary, summarise

GOOD = 0.9
STATES = {
    "waiting": "evaluation starts",
    "done": "finished",
    "stopped": "stopped",
    "refused": "cannot be merged, see the note",
    "failed": "the evaluation failed",
    "unmeasured": "merged, not measured",
}
STAGES = {  # what a running evaluation does, what it counts, and the bar's name
    "loading": ("loading the base model", "fetched first where it is not here yet", "Base model loaded"),
    "reading": ("reading texts", "training texts, without labels", "Texts read"),
    "merging": ("merging", "modules", "Modules merged"),
    "evaluating": ("evaluating", "test split, up to {limit:,} rows a task", "Texts evaluated"),
}


def verdict() -> gr.HTML:
    """Make the empty verdict; its value is made by :func:`verdict_html`."""
    return gr.HTML(elem_id="ms-verdict", apply_default_css=False, container=False, padding=False)


def verdict_html(run: Run, before: Run | None, references: pd.DataFrame, title: Callable[[str], str]) -> str:
    """Write the verdict on `run`; while it has no estimate the numbers of the run before are shown, marked as such."""
    summary = summarise(run.scores, references)
    stale = summary is None
    if summary is None and before is not None:
        summary = summarise(before.scores, references)
    doing, counted, bar = STAGES[run.stage]
    done, total = (run.progress.done, run.progress.total) if run.progress else _rows(run)
    state = doing if run.state == "running" else STATES[run.state]
    return (
        f'<section class="ms-verdict{" ms-stale" if stale else ""}" aria-label="Verdict" data-state="{run.state}" '
        f'data-stage="{run.stage}">{_numbers(summary, len(run.tasks), title, run.state == "unmeasured")}'
        f'<div class="ms-progress"><small class="ms-label" title="{escape(run.label)}">{escape(run.label)}</small> '
        f"<small><span>{state}</span> · <b>{done:,} of {total:,}</b></small>"
        f'<small class="ms-note">{counted.format(limit=run.limit)}</small>'
        f'<progress max="{total}" value="{done}" aria-label="{bar}"></progress></div>'
        f'<p class="ms-unseen" role="status">{_sentence(run, summary, title)}</p></section>'
    )


def _rows(run: Run) -> tuple[int, int]:
    """Count the test rows evaluated and to be evaluated."""
    done = sum(score.done for score in run.scores.values())
    return done, sum(score.total for score in run.scores.values()) + run.limit * (len(run.tasks) - len(run.scores))


def _numbers(summary: Summary | None, tasks: int, title: Callable[[str], str], unmeasured: bool) -> str:
    kept = average = worst = "–"
    tone, spread, counted = "", "", f"{tasks} adapters" if unmeasured else f"{tasks} tasks"
    note = "opened without tasks: nothing to measure" if unmeasured else "first estimates come within seconds"
    if summary is not None:
        kept, tone = f"{100 * summary.kept:.1f} %", "ms-good" if summary.kept >= GOOD else "ms-warn"
        average, spread = f"{summary.average:.3f}", f"± {(summary.high - summary.low) / 2:.3f}"
        hurt = summary.worst_points < 0
        worst = f"{title(summary.worst)} {_points(summary.worst_points)}" if hurt else "no task"
        counted = f"{tasks} tasks" if summary.tasks == tasks else f"{summary.tasks} of {tasks} tasks"
        note = f"base {summary.base:.3f} · adapters alone {summary.single:.3f}"
    return (
        f"<div><small>share of single-task accuracy kept</small>"
        f'<strong class="ms-big {tone}" data-value="kept">{kept}</strong>'
        f'<small class="ms-note">merge ÷ own adapter, mean over tasks</small></div>'
        f"<div><small>average accuracy, {counted}</small>"
        f'<strong class="ms-big" data-value="average">{average}</strong> <span class="ms-muted">{spread}</span>'
        f'<small class="ms-note">{note}</small></div>'
        f'<div class="ms-hurt"><small>task hurt most</small>'
        f'<strong class="ms-warn" data-value="worst">{escape(worst)}</strong>'
        f'<small class="ms-note">against its own adapter</small></div>'
    )


def _points(value: float) -> str:
    return f"{value:+.1f} points".replace("-", "−")


def _sentence(run: Run, summary: Summary | None, title: Callable[[str], str]) -> str:
    """Say the result once, when it is final, or that there will be none, to those who listen to the page."""
    if run.state == "stopped":
        return "Stopped."
    if run.state != "done" or summary is None:
        return ""
    return escape(
        f"{run.label}: keeps {100 * summary.kept:.1f} percent of single-task accuracy, average {summary.average:.3f}, "
        f"hurt most: {title(summary.worst)}, {_points(summary.worst_points)}."
    )
