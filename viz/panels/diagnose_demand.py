"""What is measured on demand on the Diagnose panel: a forecast and its test, and what leaving one adapter or layer out changes."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from html import escape
from time import monotonic
from typing import Any

import pandas as pd

from merging.errors import MergeError
from merging.leave_out import Step
from merging.on_demand import Forecast
from viz.figures.leave_out import change_per_task
from viz.panels.component import payload
from viz.panels.diagnose_handlers import PAUSE, DiagnoseSession
from viz.panels.handlers import Stream
from viz.panels.osrm_views import nothing
from viz.panels.services import Settings, Workbench
from viz.panels.session import Run, summarise

LIMIT = 200
KEPT = 64  # leave-one-outs that are remembered, all visitors together
Changes = Callable[[dict[str, Any], str, int], Iterator[Step]]


class Demand:
    """The handlers; every run asks before each step whether the visitor still wants it.

    Parameters
    ----------
    forecast : settings -> what the predictor says
    stream : evaluates a merge (`viz.panels.handlers.Stream`)
    leave_out : (settings as a dict, "adapter" or "layer", rows) -> steps
    """

    def __init__(
        self, workbench: Workbench, forecast: Callable[[Settings], Forecast], stream: Stream, leave_out: Changes
    ) -> None:
        self.workbench, self.forecast, self.stream, self.steps = workbench, forecast, stream, leave_out
        self._known: dict[tuple[Settings, str], pd.DataFrame] = {}

    def cancel(self, session: DiagnoseSession) -> dict[str, Any]:
        """Let whatever runs stop at its next step."""
        session.run += 1
        return {"busy": False}

    def predict(self, session: DiagnoseSession) -> Iterator[dict[str, Any]]:
        """Show the forecast, then the measured accuracy beside it."""
        settings, token = session.settings, self._begin(session)
        if settings is None:
            return
        yield {"predicted": _paragraph("Predicting from the weights …"), "busy": True}
        try:
            yield from self._predict(session, token, settings)
        except MergeError as error:
            yield {"predicted": f'<p class="ms-error" role="alert">{escape(str(error))}</p>', "busy": False}

    def _predict(self, session: DiagnoseSession, token: int, settings: Settings) -> Iterator[dict[str, Any]]:
        yield from self._read(session, token, settings, "predicted")
        if session.run != token:
            return
        said = self.forecast(settings)
        yield {"predicted": _predicted(said)}
        tasks = tuple(self.workbench.tasks(settings.pool))
        run, drawn = Run(settings, LIMIT, tasks, ""), 0.0
        references = self.workbench.references(settings.pool)
        with closing(self.stream(asdict(settings), LIMIT)) as steps:
            for step in steps:
                if session.run != token:
                    return
                run.take(step)
                if run.scores and monotonic() - drawn > PAUSE:
                    drawn = monotonic()
                    yield {"predicted": _predicted(said, run, references)}
        yield {"predicted": _predicted(said, run, references, done=True), "busy": False}

    def leave_out(self, session: DiagnoseSession, part: str) -> Iterator[dict[str, Any]]:
        """Leave each adapter or layer out in turn; what has been measured is shown at once."""
        settings, token = session.settings, self._begin(session)
        if settings is None:
            return
        known = self._known.get((settings, part))
        if known is not None:
            yield {"left_out": self._view(settings, part, known, ""), "busy": False}
            return
        yield {"left_out": self._view(settings, part, pd.DataFrame(), "Starting."), "busy": True}
        changes: list[dict[str, Any]] = []
        drawn = 0.0
        try:
            yield from self._read(session, token, settings, "left_out", part)
            if session.run != token:
                return
            with closing(self.steps(asdict(settings), part, LIMIT)) as steps:
                for step in steps:
                    if session.run != token:
                        return
                    changes += [asdict(change) for change in step.changes]
                    if step.changes or monotonic() - drawn > PAUSE * 3:
                        drawn = monotonic()
                        words = f"{step.done} of {step.total} rows measured."
                        yield {"left_out": self._view(settings, part, pd.DataFrame(changes), words)}
        except MergeError as error:
            yield {"left_out": self._view(settings, part, pd.DataFrame(), str(error)), "busy": False}
            return
        found = pd.DataFrame(changes)
        self._known[settings, part] = found
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        yield {"left_out": self._view(settings, part, found, ""), "busy": False}

    def _begin(self, session: DiagnoseSession) -> int:
        session.run += 1
        return session.run

    def _read(
        self, session: DiagnoseSession, token: int, settings: Settings, where: str, part: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Read the texts that the merge needs, here and not in the stream: a borrowed GPU's process would lose them."""
        with closing(self.workbench.read(settings)) as steps:
            for step in steps:
                if session.run != token:
                    return
                words = step.sentence
                yield {where: self._view(settings, part, pd.DataFrame(), words) if part else _paragraph(words)}

    def _view(self, settings: Settings, part: str, changes: pd.DataFrame, words: str) -> str:
        tasks = self.workbench.tasks(settings.pool)
        titles = {task: escape(self.workbench.title(task), quote=False) for task in tasks}
        caption = (
            f"{words} Accuracy without {'that adapter' if part == 'adapter' else 'that layer of the merge'} minus accuracy of the whole merge, in points, "
            f"on the same {LIMIT} test rows of each task. Blue: the task is better off without it; a cell with an outline differs from 0 at 95 %."
        ).strip()
        if changes.empty:
            return nothing(caption, f"mergescope_leave_{part}_out")
        shown = changes.assign(
            left_out=[titles.get(name, name) if part == "adapter" else f"layer {name}" for name in changes["left_out"]],
            task=changes["task"].map(titles),
        )
        order = list(dict.fromkeys(shown["left_out"]))
        return payload(change_per_task(shown, order, list(titles.values())), caption, changes, f"mergescope_leave_{part}_out")


def _predicted(said: Forecast, run: Run | None = None, references: pd.DataFrame | None = None, done: bool = False) -> str:
    """Write the forecast, and the measured accuracy as far as it is known."""
    if said.kept is None:
        lines = "".join(f"<li>{escape(reason)}</li>" for reason in said.reasons)
        first = f"<p>No prediction for this merge:</p><ul>{lines}</ul>"
    else:
        first = (
            f"<p>Predicted from the weights alone: keeps <b>{said.kept:.1%}</b> of the adapters’ own accuracy, ± {said.error:.1%} (four of five merges "
            "of unseen task subsets lie within).</p>"
        )
    result = summarise(run.scores, references) if run is not None and references is not None else None
    if result is None:
        return f'<div role="status">{first}</div>'
    half = 100 * (result.high - result.low) / 2 / result.single
    measured = f"<p>Measured{'' if done else ' so far'}: keeps <b>{result.kept:.1%}</b> ± {half:.1f} %.</p>"
    if said.kept is not None and done:
        gap = 100 * (result.kept - said.kept)
        inside = abs(result.kept - said.kept) <= said.error
        measured += f"<p>{gap:+.1f} points against the prediction, {'within' if inside else 'outside'} its error.</p>"
    return f'<div role="status">{first}{measured}</div>'


def _paragraph(words: str) -> str:
    return f'<p role="status">{escape(words)}</p>'
