"""Pins have letters, stand in figures, tables and files, and are compared on the same rows; settings can be undone."""

import json
from html import escape

import pytest
from fake_workbench import TITLES, FakeWorkbench
from test_merge_panel import EVERYWHERE, form, panel

from merging.playground.paired import paired_table
from viz.figures.theme import PINS
from viz.panels.merge.session import Session


@pytest.fixture
def workbench() -> FakeWorkbench:
    return FakeWorkbench()


def evaluated(merge, session: Session, workbench: FakeWorkbench, **changes) -> dict[str, str]:
    merge.redraw(session, form(workbench, **changes), 100, EVERYWHERE)
    return list(merge.evaluate(session))[-1]


@pytest.fixture
def compared(workbench: FakeWorkbench):
    """A page with two pins, A and B, and a third run."""
    merge, session = panel(workbench), Session()
    for scaling in (0.2, 1.2):
        evaluated(merge, session, workbench, slider_0=scaling)
        merge.pin(session)
    values = evaluated(merge, session, workbench, slider_0=0.5)
    return merge, session, values


def test_pinning_says_at_once_that_it_was_done_and_under_which_letter(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    values = evaluated(merge, session, workbench)
    assert "Pin a run" in session.sent["compare"]
    values = merge.pin(session)
    assert "pinned as A" in values["compare"]
    assert 'role="status"' in values["compare"]
    assert merge.pin(session) == {}, "once is enough"


def test_pins_stand_in_figure_legend_table_and_file(compared) -> None:
    _, session, values = compared
    packed = json.loads(values["accuracy"])
    names = [trace["name"] for trace in packed["figure"]["data"] if trace.get("showlegend")]
    assert names == [f"{pin.name}: {pin.label}" for pin in session.pins]
    assert packed["figure"]["layout"]["showlegend"]
    assert [column for column in packed["table"]["columns"] if column[:2] in ("A:", "B:")] == names
    assert packed["figure"]["data"][-1]["name"] == "the merge"


def test_the_current_run_is_compared_with_a_pin_on_the_same_rows(compared) -> None:
    merge, session, values = compared
    html = values["compare"]
    assert "Now against B" in html
    marks = [{task: score.marks for task, score in run.scores.items()} for run in (session.run, session.pins[0])]
    average = paired_table(*marks).iloc[-1]
    html = merge.compare(session, "against:A")["compare"]
    assert "Now against A" in html
    assert f"{average.difference:+.1f}".replace("-", "−") in html
    assert all(title in html for title in TITLES.values())


def test_a_pin_is_dropped_by_its_letter_which_is_free_again(compared) -> None:
    merge, session, _ = compared
    merge.compare(session, "unpin:A")
    assert [pin.name for pin in session.pins] == ["B"]
    merge.pin(session)
    assert [pin.name for pin in session.pins] == ["B", "A"]
    for nonsense in ("unpin:Z", "against:<b>", "", "else:A"):
        merge.compare(session, nonsense)
    assert len(session.pins) == 2
    assert "<b>" not in session.sent["compare"]
    merge.unpin(session)
    assert session.pins == []


def test_a_pin_has_one_colour_everywhere_and_a_name_of_ones_own(compared) -> None:
    merge, session, _ = compared
    values = merge.compare(session, "title:A:  my <b>best</b> " + "x" * 99)
    pin, other = session.pins
    assert pin.title == ("my <b>best</b> " + "x" * 99)[:40]
    assert (pin.called, other.called) == (f"A: {pin.title}", f"B: {other.label}")
    assert f'value="{escape(pin.title)}"' in values["compare"]
    assert "<b>" not in values["compare"]
    assert f"--pin:{PINS[0]}" in values["compare"]
    for figure in ("accuracy", "sweep"):
        packed = json.loads(values[figure])
        colours = {t["name"]: t["marker"]["color"] for t in packed["figure"]["data"] if "diamond-open" in str(t)}
        assert colours == {escape(pin.called, quote=False): PINS[0], other.called: PINS[1]}
        assert pin.called in str(packed["table"])
    merge.compare(session, "title:A:")
    assert pin.called == f"A: {pin.label}"
    assert merge.compare(session, "title:Z:nobody") == {}


def test_the_table_tells_method_settings_and_seconds(compared) -> None:
    _, session, values = compared
    run = session.run
    method, _, settings = run.label.partition(" · ")
    assert f"<td>{method}</td><td>{settings}</td>" in values["compare"]
    for name in ("name", "method", "settings", "average", "gap recovered", "seconds", *TITLES.values()):
        assert f'<th scope="col">{name}</th>' in values["compare"]
    assert f"<td>{run.seconds:.1f}</td>" in values["compare"]


def test_settings_go_back_and_forward_again(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    session.drag = 0.0
    assert merge.turn(session, True) == {}
    for scaling in (0.2, 0.7, 0.9):
        merge.redraw(session, form(workbench, slider_0=scaling), 100, EVERYWHERE)

    def shown(back: bool) -> float:
        options = merge.turn(session, back)
        values = {name: option["value"] for name, option in options.items() if "value" in option}
        merge.redraw(session, form(workbench) | values, int(values["limit"]), EVERYWHERE)
        return session.run.settings.spec.scaling

    assert [shown(True), shown(True)] == [0.7, 0.2]
    assert merge.turn(session, True) == {}
    assert shown(False) == 0.7
    merge.redraw(session, form(workbench, method="task_arithmetic"), 100, EVERYWHERE)
    assert merge.turn(session, False) == {}, "a new move ends what was undone"
    assert shown(True) == 0.7
    assert session.run.settings.spec.method == "do_merging"


def test_a_drag_is_one_step_back(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    for scaling in (0.2, 0.3, 0.4, 0.5, 0.6):
        merge.redraw(session, form(workbench, slider_0=scaling), 100, EVERYWHERE)
    assert merge.turn(session, True)["slider_0"]["value"] == 0.2
    assert merge.turn(session, True) == {}
