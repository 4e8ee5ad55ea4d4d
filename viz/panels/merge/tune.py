"""The card that searches for the best merge: its form, the ranked candidates, and what takes one over."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from merging.errors import MergeError
from merging.features.progress import Progress
from merging.services.limits import LIMITS
from merging.services.settings import Settings
from merging.services.tuning import TunePlan
from merging.services.visitor import Visitor
from merging.services.workbench import Workbench
from merging.tuning.importance import choices, importances
from merging.tuning.search import Candidate, ranked
from viz.figures.tuning import average_against_worst, candidates_tried, choices_made, choices_that_mattered
from viz.panels.kit.alert import alert
from viz.panels.kit.events import NOW, QUIET, paced, turns
from viz.panels.kit.picked import picked
from viz.panels.kit.plot import payload, plot
from viz.panels.merge.controls import Catalogue, read, restored

Tune = Callable[[TunePlan], Iterator[Progress | Candidate]]
GOALS = [("average accuracy", "average"), ("the worst task", "worst"), ("gap recovered", "gap")]
VARY = [("method", "method"), ("λ and parameters", "params"), ("plug-ins", "plugins"), ("weights", "weights")]
ALLOWED = [("read texts", "texts"), ("be told the task", "task_identity")]
SHOWN = 8
PAUSE = 0.4
COLUMNS = ("merge", "average", "worst", "rows", "seconds")
TRIED = (
    "Every candidate in the order in which it was tried; a cross was stopped because it could not win any more. Line: "
    "the best so far. Measured on validation rows, so the best is a little optimistic."
)
CHOSEN = (
    "A line is one candidate: what it chose, and its value at the right. The method with the best mean is at the top. "
    "“none”: this candidate had no such choice."
)
MATTERED = (
    "How much worse a candidate's value can be told when this choice is hidden (a random forest; whisker: standard "
    "deviation). It tells what made a difference in this search, which looks more often at what is promising."
)
FRONT = "Who wants no task to suffer chooses high up, who wants the average to be high chooses at the right."
WAITING = '<p role="status" data-place>waiting for its turn</p>'
STOPPED = '<p role="status">Stopped; nothing was measured.</p>'


@dataclass
class TuneSession:
    """One visitor's search: what was tried, of which pool, and whether it should stop."""

    number: int = 0
    pool: str = ""
    rank: int | None = None  # that adapters were cut to
    found: list[Candidate] = field(default_factory=list)
    visitor: Visitor = field(default_factory=Visitor)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TuneSession":
        """Make a new one: Gradio copies a state's first value for every page."""
        return TuneSession()

    def begin(self, pool: str, rank: int | None) -> int:
        """Begin a search, which ends the one before; returns its number."""
        self.number, self.pool, self.rank, self.found = self.number + 1, pool, rank, []
        return self.number

    def close(self) -> None:
        """Stop what runs."""
        self.number += 1


@dataclass(frozen=True)
class TuneCard:
    """The components of the card."""

    form: dict[str, Any]
    start: gr.Button
    stop: gr.Button
    note: gr.HTML
    table: gr.HTML
    tried: gr.HTML
    front: gr.HTML
    drawn: gr.Column
    chosen: gr.HTML
    mattered: gr.HTML
    explained: gr.Column


def tune_card() -> TuneCard:
    """Lay the card out."""
    bare: dict[str, Any] = {"apply_default_css": False, "container": False, "padding": False}
    with gr.Column(elem_id="ms-tune", elem_classes=["ms-card", "ms-full"]):
        gr.HTML(
            "<h2>Find the best merge</h2><p>Tries merges on validation rows, stops what cannot win, and ranks the rest."
            " It starts from what stands at the left.</p>",
            **bare,
        )
        with gr.Row(elem_classes="ms-choices"):
            form = {
                "goal": gr.Dropdown(GOALS, value="average", label="Best in", elem_id="ms-tune-goal"),
                "seconds": gr.Slider(
                    10,
                    LIMITS.search_seconds,
                    min(60, LIMITS.search_seconds),
                    step=10,
                    label="Seconds",
                    elem_id="ms-tune-seconds",
                    elem_classes="ms-slider",
                ),
                "rows": gr.Slider(
                    20, 300, 100, step=10, label="Rows per task", elem_id="ms-tune-rows", elem_classes="ms-slider"
                ),
                "rank": gr.Number(0, precision=0, minimum=0, label="Rank at most (0 = any)", elem_id="ms-tune-rank"),
            }
        with gr.Row(elem_classes="ms-choices"):
            form["groups"] = gr.CheckboxGroup(
                VARY, value=["method", "params", "plugins"], label="What may change", elem_id="ms-tune-groups"
            )
            form["allowed"] = gr.CheckboxGroup(ALLOWED, value=[], label="It may", elem_id="ms-tune-allowed")
        with gr.Row(elem_classes="ms-buttons"):
            start = gr.Button("Find it", variant="primary", size="sm", elem_id="ms-tune-start")
            stop = gr.Button("Stop", size="sm", elem_id="ms-tune-stop")
        note = gr.HTML(elem_id="ms-tune-note", elem_classes="ms-waits", **bare)
        table = picked("ms-tune-table")
        with gr.Column(visible=False, elem_id="ms-tune-figures") as drawn:
            tried = plot("ms-tune-tried", "What was tried")
            front = plot("ms-tune-front", "Average against the worst task")
        with gr.Column(visible=False, elem_id="ms-tune-explained") as explained:
            chosen = plot("ms-tune-chosen", "What the candidates chose")
            mattered = plot("ms-tune-mattered", "Which choice mattered")
    return TuneCard(form, start, stop, note, table, tried, front, drawn, chosen, mattered, explained)


def ranking(table: pd.DataFrame) -> str:
    """Write the best candidates as a table with a button each that takes it over."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *COLUMNS, ""))
    lines = []
    for place, row in enumerate(table.head(SHOWN).itertuples(), 1):
        numbers = f"{row.average:.3f}", f"{row.worst:.3f}", f"{row.rows:,}", f"{row.seconds:.1f}"
        cells = "".join(f"<td>{number}</td>" for number in numbers)
        state = "" if row.state == "measured" else f" <small>{row.state}</small>"
        button = (
            f'<button type="button" data-pick="use:{row.trial}" aria-label="Use candidate {place}">use it</button>'
            if row.state == "measured"
            else ""
        )
        lines.append(
            f'<tr><td>{place}</td><th scope="row">{escape(str(row.merge))}{state}</th>{cells}<td>{button}</td></tr>'
        )
    return (
        '<div class="ms-scroll" tabindex="0" role="region" aria-label="The best candidates"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def wire_tune(
    card: TuneCard,
    workbench: Workbench,
    methods: Catalogue,
    tune: Tune,
    form: dict[str, Any],
    taken: Callable[[Any], None],
) -> None:
    """Let the card search, and the merge's controls take a candidate over.

    Parameters
    ----------
    form : the controls that decide the merge
    taken : merges and evaluates again after an event
    """
    state = gr.State(TuneSession())
    shown = [card.note, card.table, card.tried, card.front, card.drawn, card.chosen, card.mattered, card.explained]
    kept = [gr.skip()] * len(shown)

    def drawing(session: TuneSession, done: bool) -> list[Any]:
        table = ranked(session.found)
        best = table.iloc[0]
        words = f"{len(table)} candidates{'' if done else ' so far'}; the best: {best['merge']}, {best.average:.3f}."
        if done:
            words += " “Use it” sets the controls, and the merge is measured once on test rows, which decide."
        if done and session.rank:
            words += f" All was cut to rank {session.rank}: choose that rank on Export, this tab cuts none."
        rows = table.drop(columns="pareto")
        return [
            f'<p role="status">{escape(words)}</p>',
            ranking(table),
            payload(candidates_tried(table), TRIED, rows, "search"),
            payload(average_against_worst(table), FRONT, table, "search-front"),
            gr.update(visible=True),
            *(explanation(session) if done else kept[-3:]),
        ]

    def explanation(session: TuneSession) -> list[Any]:
        """Draw what follows from all candidates together, if they are enough to tell."""
        table = choices(session.found, [workbench.title(task) for task in workbench.tasks(session.pool)])
        importance = importances(table)
        if importance.empty:
            return kept[-3:]
        return [
            payload(choices_made(table, importance), CHOSEN, table, "search-choices"),
            payload(choices_that_mattered(importance), MATTERED, importance, "search-importance"),
            gr.update(visible=True),
        ]

    def search(session: TuneSession, *values: Any) -> Iterator[list[Any]]:
        asked = dict(zip([*card.form, *form], values, strict=True))
        try:
            settings = read(workbench, methods, {name: asked[name] for name in form})
            plan = TunePlan(
                settings.pool,
                settings.spec,
                asked["goal"],
                min(float(asked["seconds"]), LIMITS.search_seconds),
                int(asked["rows"]),
                tuple(asked["groups"]),
                "texts" in asked["allowed"],
                "task_identity" in asked["allowed"],
                int(asked["rank"] or 0) or None,
                settings.spec.seed,
            )
            mine = session.begin(settings.pool, plan.rank)
            hidden = gr.update(visible=False)
            first = '<p role="status">The first candidate is measured.</p>'
            yield [first, "", *kept[2:4], hidden, *kept[5:7], hidden]
            for step, due in paced(tune(plan), PAUSE):
                if session.number != mine:
                    break
                if isinstance(step, Progress):
                    yield [f'<p role="status">{escape(step.what)}: {step.done} of {step.total}</p>', *kept[1:]]
                    continue
                session.found.append(step)
                if due:
                    yield drawing(session, False)
            yield drawing(session, True) if session.found and session.pool == plan.pool else kept
        except MergeError as error:
            yield [alert(error), *kept[1:]]

    def stopped(session: TuneSession) -> list[Any]:
        session.close()
        return drawing(session, True) if session.found else [STOPPED, *kept[1:]]

    def use(session: TuneSession, event: gr.EventData) -> list[Any]:
        number = int(str(event.name).removeprefix("use:"))
        spec = next((one.spec for one in session.found if one.number == number), None)
        options = restored(workbench, methods, Settings(session.pool, spec)) if spec is not None else {}
        return [gr.update(**options[name]) if name in options else gr.skip() for name in form]

    inputs = [state, *card.form.values(), *form.values()]
    pressed = card.start.click(lambda: WAITING, None, card.note, **NOW)
    searching = pressed.then(search, inputs, shown, **QUIET | turns("searches", card.note))
    card.stop.click(stopped, state, shown, **NOW)
    card.stop.click(None, None, None, cancels=[searching])  # who waits behind moves up at once
    taken(card.table.pick(use, state, list(form.values()), **NOW))
