"""Events are watched: their visitor stays while they run, and leaves when a generator that was at work is abandoned."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from merging.services.governor import Governor
from merging.services.visitor import Visitor
from viz.panels.server.jobs import watched


@pytest.mark.parametrize("kind", ["", "trainings"])
def test_a_visitor_leaves_once_an_abandoned_event_has_ended(kind: str) -> None:
    left = list[Visitor]()
    governor, session = Governor(lambda: iter(()), left.append), SimpleNamespace(visitor=Visitor())

    def train(session: Any, rows: int) -> Iterator[int]:
        yield from range(rows)

    steps: Callable[..., Iterator[int]] = watched(train, governor, kind)
    running = steps(session, 3)
    assert next(running) == 0
    governor.part(session.visitor)
    assert next(running) == 1
    assert left == []
    del running
    assert left == [session.visitor]


def test_a_visitor_leaves_after_an_event_that_failed() -> None:
    left = list[Visitor]()
    governor, session = Governor(lambda: iter(()), left.append), SimpleNamespace(visitor=Visitor())

    def fail(session: Any) -> None:
        governor.part(session.visitor)
        assert left == []
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        watched(fail, governor)(session)
    assert left == [session.visitor]
