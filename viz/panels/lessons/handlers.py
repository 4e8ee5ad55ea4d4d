"""What a step of a lesson does to the Merge tab, and how leaving undoes it: plain values in and out, no Gradio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from merging.errors import MergeError
from merging.services.lessons import Lesson
from merging.services.link import from_query
from merging.services.settings import Settings
from merging.services.workbench import Workbench
from viz.panels.merge.controls import Catalogue, restored
from viz.panels.merge.session import Run, Session

Options = dict[str, dict[str, Any]]


@dataclass
class Before:
    """What the Merge tab showed before a lesson began; nothing while there is none."""

    shown: tuple[Settings, int] | None = None
    pins: list[Run] = field(default_factory=list)


class LessonHandlers:
    """The handlers, on one workbench and the lessons that ship."""

    def __init__(self, workbench: Workbench, methods: Catalogue, lessons: Sequence[Lesson]) -> None:
        self.workbench, self.methods = workbench, methods
        self.lessons: Mapping[str, Lesson] = {lesson.id: lesson for lesson in lessons}

    def step(self, before: Before, session: Session, place: str) -> Options:
        """Give what the controls become at a place, `lesson/step` with the step counted from 0, or
        `lesson/step/outcome` at the end of a decision path; keep what they said before the lesson.

        Raises
        ------
        MergeError
            If there is no such lesson or step.
        """
        query = self._query(place)
        if before.shown is None and session.now is not None:
            before.shown, before.pins = session.now, list(session.pins)
        found = from_query(query, self.workbench)
        assert found is not None, "a lesson's link is never empty"
        return self._options(*found)

    def leave(self, before: Before, session: Session) -> Options:
        """Give what the controls said before the lesson; nothing where there was none."""
        if before.shown is None:
            return {}
        options = self._options(*before.shown)
        session.pins, before.shown, before.pins = before.pins, None, []
        return options

    def _options(self, settings: Settings, limit: int) -> Options:
        return restored(self.workbench, self.methods, settings) | {"limit": {"value": limit}}

    def _query(self, place: str) -> str:
        name, _, rest = place.partition("/")
        number, _, outcome = rest.partition("/")
        lesson = self.lessons.get(name)
        if lesson is None or not number.isdecimal() or int(number) >= len(lesson.steps):
            raise MergeError(f"There is no lesson {name[:40]!r} with a step {number[:10]!r}: choose one from the list.")
        path = lesson.steps[int(number)].path
        if outcome and (path is None or outcome not in path.outcomes):
            raise MergeError(f"The lesson {name} has no outcome {outcome[:40]!r}: start its last question again.")
        return path.outcomes[outcome].link if path and outcome else lesson.link(int(number))
