"""What is measured on demand on the Diagnose panel: what leaving one adapter or layer out changes."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from html import escape
from typing import Any

import pandas as pd

from merging.diagnostics.leave_out import Step
from merging.errors import MergeError
from merging.services.settings import Settings
from merging.services.workbench import Workbench
from viz.figures.leave_out import change_per_task
from viz.panels.diagnose.handlers import PAUSE, DiagnoseSession
from viz.panels.kit.events import paced
from viz.panels.kit.plot import payload
from viz.panels.osrm.views import nothing

LIMIT = 200
KEPT = 64  # leave-one-outs that are remembered, all visitors together
Changes = Callable[[dict[str, Any], str, int], Iterator[Step]]


class Demand:
    """The handlers; every run asks before each step whether the visitor still wants it.

    Parameters
    ----------
    leave_out : (settings as a dict, "adapter" or "layer", rows) -> steps
    """

    def __init__(self, workbench: Workbench, leave_out: Changes) -> None:
        self.workbench, self.steps = workbench, leave_out
        self._known: dict[tuple[Settings, str], pd.DataFrame] = {}

    def cancel(self, session: DiagnoseSession) -> dict[str, Any]:
        """Let whatever runs stop at its next step."""
        session.run += 1
        return {"busy": False}

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
        try:
            yield from self._read(session, token, settings, part)
            if session.run != token:
                return
            for step, due in paced(self.steps(settings.to_dict(), part, LIMIT), PAUSE * 3):
                if session.run != token:
                    return
                changes += [asdict(change) for change in step.changes]
                if step.changes or due:
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

    def _read(self, session: DiagnoseSession, token: int, settings: Settings, part: str) -> Iterator[dict[str, Any]]:
        """Read the texts that the merge needs, here and not in the stream: a borrowed GPU's process would lose them."""
        for step, _ in paced(self.workbench.read(settings), PAUSE):
            if session.run != token:
                return
            yield {"left_out": self._view(settings, part, pd.DataFrame(), step.sentence)}

    def _view(self, settings: Settings, part: str, changes: pd.DataFrame, words: str) -> str:
        tasks = self.workbench.tasks(settings.pool)
        titles = {task: escape(self.workbench.title(task), quote=False) for task in tasks}
        caption = (
            f"{words} Accuracy without {'that adapter' if part == 'adapter' else 'that layer of the merge'} minus "
            f"accuracy of the whole merge, in points, on the same {LIMIT} test rows of each task. Blue: the task is "
            "better off without it; a cell with an outline differs from 0 at 95 %."
        ).strip()
        if changes.empty:
            return nothing(caption, f"mergescope_leave_{part}_out")
        shown = changes.assign(
            left_out=[titles.get(name, name) if part == "adapter" else f"layer {name}" for name in changes["left_out"]],
            task=changes["task"].map(titles),
        )
        order = list(dict.fromkeys(shown["left_out"]))
        return payload(
            change_per_task(shown, order, list(titles.values())), caption, changes, f"mergescope_leave_{part}_out"
        )
