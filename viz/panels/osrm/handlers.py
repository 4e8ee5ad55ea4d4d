"""What happens on the OSRM panel: plain values in, texts for its components out, no Gradio.

A move of the plan is answered in two steps, as on the Merge panel: `redraw` takes the plan up and draws what is known,
`look` reads the texts that are missing and draws the rest. Training is in osrm_training.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.services.plan import Plan
from viz.panels.kit.alert import alert
from viz.panels.kit.events import paced
from viz.panels.osrm import views
from viz.panels.osrm.plan import read_plan
from viz.panels.osrm.session import OsrmSession
from viz.panels.osrm.status import notes_html, reading_html
from viz.panels.osrm.training import PAUSE, TrainingHandlers, Values
from viz.panels.osrm.upload import read_task

SUBSPACE = ("spectrum", "seen", "rank")


class OsrmHandlers(TrainingHandlers):
    """The handlers of the whole panel: the plan and its figures, and those of trainings and sets."""

    def redraw(self, session: OsrmSession, form: Mapping[str, Any], part: tuple[str, str, str]) -> Values:
        """Take the plan and the choice of task, layer and module up; draw what needs no reading."""
        move = session.move()
        try:
            plan = read_plan(form)
            self.lab.check(plan)
        except MergeError as error:
            session.plan = None
            return session.changed(note=alert(error))
        if session.plan is None or not _same_texts(plan, session.plan):
            session.stopped = False
        session.plan = plan
        choices = self._choices(session, plan)
        session.part = tuple(  # type: ignore[assignment]
            value if value in [key for _, key in options] else options[start][1]
            for value, options, start in zip(part, choices, (0, len(choices[1]) // 2, 0), strict=True)
        )
        values: Values = {"parts": choices}
        values |= self.figures(session) if self.lab.ready(plan) else self._unread(session)
        return session.changed(**values) if session.looked == move else {}

    def look(self, session: OsrmSession) -> Iterator[Values]:
        """Read the texts of the plan, unless that has been done, and draw what depends on them."""
        plan = session.plan
        if plan is None or session.stopped or self.lab.ready(plan):
            return
        try:
            yield from self._look(session, plan)
        except MergeError as error:
            yield session.changed(note=alert(error))

    def _look(self, session: OsrmSession, plan: Plan) -> Iterator[Values]:
        for step, due in paced(self.lab.reading(plan), PAUSE):
            if session.plan is None or session.stopped or not _same_texts(plan, session.plan):
                # Gradio sends a generator's last value once more when it ends
                yield {}
                return
            if due:
                yield session.changed(note=reading_html(*step))
        yield session.changed(**self.figures(session))

    def stop_reading(self, session: OsrmSession) -> Values:
        """Stop reading; what was read so far is not kept."""
        if session.plan is None or self.lab.ready(session.plan):
            return {}
        session.stopped = True
        return session.changed(**self._unread(session))

    def read_again(self, session: OsrmSession) -> None:
        """Let `look` read once more."""
        session.stopped = False

    def figures(self, session: OsrmSession) -> Values:
        """Solve and draw the subspace of the chosen task at the chosen module."""
        plan, (task, layer, part) = session.plan, session.part
        assert plan is not None
        titles = self.titles(session)
        module = next(name for name in self.lab.modules(plan) if views.place(name) == (layer, part))
        values = {"rank": views.rank_view(titles, plan, task, module, self.lab.rank_curve(plan, task, module))}
        try:
            view = self.lab.subspace(plan, task, module)
        except MergeError as error:
            sentence = f"Not for one task alone: {error}" if len(plan.tasks) == 1 else str(error)
            return (
                values | {name: views.nothing(sentence, f"mergescope_{name}") for name in SUBSPACE[:2]} | {"note": ""}
            )
        return values | {
            "spectrum": views.spectrum_view(titles, plan, task, module, view),
            "seen": views.seen_view(titles, plan, task, module, view),
            "note": notes_html(views.warnings(titles, plan, view)),
        }

    def modules(self, base: str) -> Values:
        """Give the kinds of modules that another base has, with the usual ones chosen; or say why it cannot be had."""
        try:
            kinds, usual = self.lab.kinds(base)
        except MergeError as error:
            return {"note": alert(error)}
        return {"choices": list(kinds), "value": list(usual)}

    def add_task(self, session: OsrmSession, path: str) -> Values:
        """Read a visitor's own task; gives the new choices, or says what is wrong with the file."""
        session.refused = True
        try:
            task = read_task(Path(path))
            known = self.lab.titles(session.visitor.key)
            name = next(n for n in _numbered(task.name) if f"{session.visitor.key}-{n}" not in known)
            added = self.lab.add(replace(task, name=name, title=name), session.visitor.key)
        except MergeError as error:
            return {"note": alert(error)}
        session.refused = False
        return {"tasks": [(title, key) for key, title in self.titles(session).items()], "added": added}

    def _choices(self, session: OsrmSession, plan: Plan) -> list[list[tuple[str, str]]]:
        titles = self.titles(session)
        places = [views.place(module) for module in self.lab.modules(plan)]
        layers = list(dict.fromkeys(layer for layer, _ in places))
        parts = list(dict.fromkeys(part for _, part in places))
        short = [part.rsplit(".", 1)[-1] for part in parts]
        named = [(last if short.count(last) == 1 else part, part) for part, last in zip(parts, short, strict=True)]
        return [[(titles[task], task) for task in plan.tasks], [(layer, layer) for layer in layers], named]

    def _unread(self, session: OsrmSession) -> Values:
        why = "Reading the texts …" if not session.stopped else "Press “Read texts” to see this."
        note = reading_html(0, 0) if not session.stopped else '<p data-state="stopped">Reading was stopped.</p>'
        return {name: views.nothing(why, f"mergescope_{name}") for name in SUBSPACE} | {"note": note}


def _same_texts(one: Plan, other: Plan) -> bool:
    return (one.base, one.tasks, one.modules, one.k) == (other.base, other.tasks, other.modules, other.k)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name} {number}"
        number += 1
