"""The verdict: what the merge keeps, in four numbers, first on the page."""

from collections.abc import Callable
from html import escape
from math import isnan
from typing import Any

import gradio as gr
import pandas as pd

from viz.panels.kit.alert import alert
from viz.panels.merge.session import Run, Summary, summarise

GOOD, POOR = 2 / 3, 1 / 3  # of the gap: green from here, red below there
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
    bare: dict[str, Any] = {"apply_default_css": False, "container": False, "padding": False}
    return gr.HTML(elem_id="ms-verdict", elem_classes="ms-waits", **bare)


def verdict_html(run: Run, before: Run | None, references: pd.DataFrame, title: Callable[[str], str]) -> str:
    """Write the verdict on `run`; while it has no estimate the numbers of the run before are shown, marked as such."""
    summary = summarise(run.scores, references)
    stale = summary is None
    if summary is None and before is not None:
        summary = summarise(before.scores, references)
    doing, counted, bar = STAGES[run.stage]
    done, total = (run.progress.done, run.progress.total) if run.progress else _rows(run)
    state = doing if run.state == "running" else STATES[run.state]
    place = " data-place" if run.state == "waiting" else ""
    if run.known:
        state, counted = "measured before", "{limit:,} test rows a task"
    return (
        f'<section class="ms-verdict{" ms-stale" if stale else ""}" aria-label="Verdict" data-state="{run.state}" '
        f'data-stage="{run.stage}" data-known="{str(run.known).lower()}">'
        f"{_numbers(summary, len(run.tasks), title, run.state == 'unmeasured')}"
        f'<div class="ms-progress"><small class="ms-label" title="{escape(run.label)}">{escape(run.label)}</small> '
        f"<small><span{place}>{state}</span> · <b>{done:,} of {total:,}</b></small>"
        f'<small class="ms-note">{counted.format(limit=run.limit)}</small>'
        f'<progress max="{total}" value="{done}" aria-label="{bar}"></progress></div>'
        f"{alert(run.error) if run.state == 'failed' and run.error else ''}"
        f'<p class="ms-unseen" data-say>{_sentence(run, summary, title)}</p></section>'
    )


def _rows(run: Run) -> tuple[int, int]:
    """Count the test rows evaluated and to be evaluated."""
    done = sum(score.done for score in run.scores.values())
    return done, sum(score.total for score in run.scores.values()) + run.limit * (len(run.tasks) - len(run.scores))


def _numbers(summary: Summary | None, tasks: int, title: Callable[[str], str], unmeasured: bool) -> str:
    recovered = average = worst = "–"
    tone, spread, counted = "", "", f"{tasks} adapters" if unmeasured else f"{tasks} tasks"
    share = "(merge − base) ÷ (own adapter − base)"
    note = "opened without tasks: nothing to measure" if unmeasured else "first estimates come within seconds"
    if summary is not None:
        recovered, tone, share = _recovered(summary)
        average, spread = f"{summary.average:.3f}", f"± {(summary.high - summary.low) / 2:.3f}"
        hurt = summary.worst_points < 0
        worst = f"{title(summary.worst)} {_points(summary.worst_points)}" if hurt else "no task"
        counted = f"{tasks} tasks" if summary.tasks == tasks else f"{summary.tasks} of {tasks} tasks"
        note = f"base {summary.base:.3f} · adapters alone {summary.single:.3f}"
    return (
        f'<div><small><dfn class="ms-term" tabindex="0">gap recovered</dfn>, base → adapters</small>'
        f'<strong class="ms-big {tone}" data-value="recovered">{recovered}</strong>'
        f'<small class="ms-note">{share}</small></div>'
        f"<div><small>average accuracy, {counted}</small>"
        f'<strong class="ms-big" data-value="average">{average}</strong> <span class="ms-muted">{spread}</span>'
        f'<small class="ms-note">{note}</small></div>'
        f'<div class="ms-hurt"><small>task hurt most</small>'
        f'<strong class="ms-warn" data-value="worst">{escape(worst)}</strong>'
        f'<small class="ms-note">against its own adapter</small></div>'
    )


def _recovered(summary: Summary) -> tuple[str, str, str]:
    """Return the number, its style and the line below it; dimmed until the average is known within 2 points."""
    if isnan(summary.recovered):
        return "–", "", "no task yet in which the adapter is clearly better than the base"
    tone = "ms-good" if summary.recovered >= GOOD else "ms-bad" if summary.recovered < POOR else "ms-warn"
    low, high = (f"{100 * value:.0f}".replace("-", "−") for value in (summary.recovered_low, summary.recovered_high))
    spread = f"95 %: {low} to {high} % · mean of {summary.counted} task{'s' * (summary.counted != 1)} with a clear gap"
    return (
        f"{100 * summary.recovered:.0f} %".replace("-", "−"),
        tone if summary.certain else f"{tone} ms-unsure",
        spread,
    )


def _points(value: float) -> str:
    return f"{value:+.1f} points".replace("-", "−")


def _sentence(run: Run, summary: Summary | None, title: Callable[[str], str]) -> str:
    """Say to those who listen to the page that a run has begun, and how it ended (assets/js/access.js)."""
    if run.state == "stopped":
        return "Stopped."
    if run.state == "failed":
        return escape(f"The evaluation failed. {run.error}")
    if run.state == "running":
        return escape(f"Evaluating {run.label}.")
    if run.state != "done" or summary is None:
        return ""
    return escape(
        f"{run.label}: recovers {100 * summary.recovered:.0f} percent of the gap between base and adapters, average "
        f"{summary.average:.3f}, hurt most: {title(summary.worst)}, {_points(summary.worst_points)}."
    )


def story_html(reference: Summary | None, opening: Summary | None, adapters: int) -> str:
    """Say in three lines what the page opens on and what to move first; nothing where its numbers do not ship."""
    if reference is None or opening is None:
        return ""
    harm = "worse than the base without them" if reference.average < reference.base else "little of what they add"
    return (
        f'<ul class="ms-story"><li><b>{adapters} adapters, one model.</b> Each alone answers {reference.single:.0%} '
        f"of its task's texts, the base with the same heads {reference.base:.0%}. Added up at λ = 1 (the pinned "
        f"diamonds) they answer <b>{reference.average:.0%}</b>: {harm}.</li><li><b>DO-Merging</b> (the dots) first "
        f"turns the same updates away from each other and makes them equally large: <b>{opening.average:.0%}</b>, "
        "without one text and without training.</li><li><b>Move first:</b> λ, and watch where the sum collapses. Then "
        "set the decoupling to 0, choose the pool “OSRM's init”, or raise soft OSRM's μ, which reads texts.</li></ul>"
    )
