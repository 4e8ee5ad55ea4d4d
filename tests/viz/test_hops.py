"""Events of plain values check them in one thread, as Gradio checks them in many; running work lets them pass."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Condition, Event, Thread, current_thread
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext

from viz.panels.kit import events
from viz.panels.kit.hops import PLAIN, in_one_thread, prepared
from viz.panels.kit.sentences import Sentences


def test_values_are_checked_as_their_components_check_them() -> None:
    seen = []
    work = prepared(
        lambda count, name, written: seen.append((count, name, written)),
        [gr.Slider(0, 2, step=1), gr.Radio(["a", "b"]), gr.Textbox()],
    )
    work(1, "b", 7)
    assert seen == [(1, "b", "7")]
    with pytest.raises(gr.Error, match="not in the list of choices"):
        work(1, "c", "")
    with pytest.raises(gr.Error, match="maximum"):
        work(3, "a", "")


def test_what_gradio_gives_beside_the_inputs_is_left_alone() -> None:
    def asked(request: gr.Request, state: Any, count: int, event: gr.EventData) -> tuple[Any, ...]:
        return request, state, count, event

    state, event = object(), gr.EventData(None, {"name": "one"})
    request = gr.Request(username="somebody")
    given = prepared(asked, [gr.State(), gr.Number(precision=0)])(request, state, 1.6, event)
    assert given == (request, state, 2, event)
    # a parameter's default comes after the inputs
    assert prepared(lambda count, what=max: what(count, 1), [gr.Slider(0, 9)])(5, max) == 5


def test_choices_are_those_that_the_session_shows() -> None:
    shown = gr.Dropdown(["before"], type="index")
    work = prepared(lambda name: name, [shown])

    def asked() -> int:
        blocks = {shown._id: gr.Dropdown(["before", "since"], type="index")}
        LocalContext.blocks_config.set(SimpleNamespace(blocks=blocks))  # type: ignore[arg-type]
        return int(work("since"))

    assert copy_context().run(asked) == 1
    with pytest.raises(gr.Error, match="not in the list"):
        work("since")


def page(threads: list[Thread]) -> Sentences:
    def moved(one: float, other: float) -> str:
        threads.append(current_thread())
        return f"{one + other:g}"

    def stream(count: float) -> Iterator[str]:
        yield from map(str, range(int(count)))

    with Sentences() as demo:
        one, other, said, file = gr.Slider(0, 9), gr.Slider(0, 9), gr.HTML(), gr.File()
        one.change(moved, [one, other], said, queue=False)
        other.change(stream, other, said)
        file.change(lambda path: path, file, file)
    in_one_thread(demo)
    return demo


def processed(demo: Sentences, event: Any, values: list[Any]) -> list[Any]:
    """Process an event in a thread of its own: beside a browser's tests this one has a running loop already."""
    with ThreadPoolExecutor(1) as threads:
        done: dict[str, Any] = threads.submit(asyncio.run, demo.process_api(event, values, None)).result()
    return list(done["data"])


def test_a_page_answers_as_before_and_files_go_on_as_gradio_has_them() -> None:
    threads: list[Thread] = []
    demo = page(threads)
    moved, stream, filed = demo.fns.values()
    assert processed(demo, moved, [2, 3.5]) == ["5.5"]
    assert not (moved.preprocess or moved.postprocess or stream.preprocess)
    assert filed.preprocess and filed.postprocess and gr.File not in PLAIN
    with pytest.raises(gr.Error, match="maximum"):
        processed(demo, moved, [2, 11])
    assert len(threads) == 1


class Watched(Condition):
    """A condition that tells when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = Event()

    def wait_for(self, *args: Any, **named: Any) -> bool:
        self.awaited.set()
        return super().wait_for(*args, **named)


def steps(letters: str) -> Iterator[str]:
    yield from letters


def working(found: list[str]) -> Thread:
    """Begin work of two steps in a thread of its own."""
    thread = Thread(target=lambda: found.extend(step for step, _ in events.paced(steps("ab"), 0.0)))
    thread.start()
    return thread


def test_running_work_lets_what_is_answered_at_once_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    changed, found = Watched(), list[str]()
    monkeypatch.setattr(events, "_CHANGED", changed)
    monkeypatch.setattr(events, "PATIENCE", 60.0)
    with events.answering():
        work = working(found)
        assert changed.awaited.wait(20)
        assert found == []
        # what is answered at once would wait for itself
        assert [step for step, _ in events.paced(steps("xy"), 0.0)] == ["x", "y"]
    work.join(20)
    assert found == ["a", "b"]


def test_running_work_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[str]()
    monkeypatch.setattr(events, "PATIENCE", 0.1)
    with events.answering():
        working(found).join(20)
        assert found == ["a", "b"]
