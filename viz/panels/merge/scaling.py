"""The button that measures the merge as it stands over λ, draws the curve and sets the best one."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import pandas as pd

from merging.experiments.sweep import best_scalings
from merging.features.progress import Progress
from merging.services.settings import Settings
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.merge.controls import Controls, read, restored
from viz.panels.merge.handlers import MergeHandlers
from viz.panels.merge.session import Session

SweepScaling = Callable[[Settings, int], Iterator[Progress | pd.DataFrame]]
ROWS = 50
"""Validation rows a task: 8 scalings of 8 tasks take half a minute with the embedded encoder on two cores."""


def tune_scaling(
    panel: MergeHandlers, sweep: SweepScaling, session: Session, form: dict[str, Any]
) -> Iterator[tuple[dict[str, str], dict[str, dict[str, Any]]]]:
    """Give what the page shows of accuracy and notes after each λ, and at the end what the controls become.

    A second press of the button stops it; then, and where the controls say another merge by then, they are left alone.
    """
    mine, settings = session.presses, read(panel.workbench, panel.methods, form)
    if mine % 2 == 0:  # the press that stops
        return
    rows = pd.DataFrame()
    try:
        for step in sweep(settings, ROWS):
            if session.presses != mine:
                break
            if isinstance(step, Progress):
                words = f"{step.what[:1].upper()}{step.what[1:]}: {step.done} of {step.total}. Once more stops it."
                yield {"notes": f'<p role="status">{words}</p>'}, {}
                continue
            rows = pd.concat([rows, step], ignore_index=True)
            session.curve = settings, rows
            if session.run is not None and session.curve_of(session.run.settings) is rows:
                yield session.changed(**panel.accuracy(session, session.run)), {}
        else:
            best = settings.changed(scaling=best_scalings(rows)[settings.spec.method])
            if session.run is not None and session.curve_of(session.run.settings) is rows:
                yield {}, restored(panel.workbench, panel.methods, best)
    finally:
        session.presses += session.presses % 2
    yield {"notes": ""}, {}


def wire_scaling(
    controls: Controls,
    panel: MergeHandlers,
    sweep: SweepScaling,
    state: gr.State,
    shown: dict[str, Any],
    after: Callable[[Any], None],
) -> None:
    """Let the button tune.

    Parameters
    ----------
    shown : the components that hold the accuracy and the notes, by name
    after : merges and evaluates again after an event
    """
    form = controls.form

    def run(session: Session, *values: Any) -> Iterator[list[Any]]:
        for news, options in tune_scaling(panel, sweep, session, dict(zip(form, values, strict=True))):
            yield [
                *(news.get(name, gr.skip()) for name in shown),
                *(gr.update(**options[name]) if name in options else gr.skip() for name in form),
            ]
        yield [gr.skip()] * (len(shown) + len(form))

    def press(session: Session) -> None:
        session.presses += 1

    outputs = [*shown.values(), *form.values()]
    pressed = controls.tune.click(press, state, None, **NOW)
    after(pressed.then(run, [state, *form.values()], outputs, **turns("searches"), **QUIET))
