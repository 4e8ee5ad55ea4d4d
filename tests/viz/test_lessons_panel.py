"""The lesson's card and what it does to the Merge tab's controls: steps set them, leaving gives them back."""

import json

import pytest

from merging.errors import MergeError
from merging.io.assets import assets_folder
from merging.methods import METHODS
from merging.services.gallery import gallery
from merging.services.lessons import shipped_lessons
from merging.services.link import from_query
from merging.services.workbench import Workbench
from viz.panels.lessons.card import code_html, list_html, packed
from viz.panels.lessons.gallery import gallery_html
from viz.panels.lessons.handlers import Before, LessonHandlers
from viz.panels.merge.session import Run, Session

LESSONS = shipped_lessons()
TABLES = assets_folder() / "tables"


@pytest.fixture(scope="module")
def panel() -> LessonHandlers:
    return LessonHandlers(Workbench(), METHODS, LESSONS)


def opened(panel: LessonHandlers, query: str) -> Session:
    session, found = Session(), from_query(query, panel.workbench)
    assert found is not None
    session.visit(*found)
    return session


def values(options: dict) -> dict:
    return {name: option["value"] for name, option in options.items() if "value" in option}


def test_a_step_sets_the_controls_and_leaving_gives_them_back(panel: LessonHandlers) -> None:
    session, before = opened(panel, "pool=default&method=ties&scaling=0.85&density=0.3&seed=7&limit=150"), Before()
    run = Run(session.now[0], 150, (), "mine")
    session.pins = [run]
    shown = values(panel.step(before, session, "scaling/1"))
    assert (shown["pool"], shown["method"], shown["slider_0"], shown["limit"]) == (
        "papers",
        "task_arithmetic",
        1.0,
        200,
    )
    # a later step sees another screen, but what is given back is what was there before the lesson
    session.visit(*from_query("pool=papers&method=task_arithmetic&scaling=1", panel.workbench))
    session.pins = []
    panel.step(before, session, "scaling/2")
    back = values(panel.leave(before, session))
    assert (back["pool"], back["method"], back["slider_0"], back["slider_1"]) == ("default", "ties", 0.85, 0.3)
    assert (back["limit"], back["seed"], session.pins) == (150, 7, [run])
    assert panel.leave(before, session) == {}


def test_the_end_of_a_path_is_a_screen_too(panel: LessonHandlers) -> None:
    session = opened(panel, "pool=papers&method=task_arithmetic&scaling=1")
    place = [step.id for step in panel.lessons["choose"].steps].index("path")
    assert values(panel.step(Before(), session, f"choose/{place}/emr"))["method"] == "emr"


@pytest.mark.parametrize("place", ["", "nothing/0", "scaling/99", "scaling/x", "scaling/1/emr", "choose/3/nowhere"])
def test_a_place_that_is_not_there_is_refused(panel: LessonHandlers, place: str) -> None:
    with pytest.raises(MergeError, match=r"no (lesson|outcome)"):
        panel.step(Before(), opened(panel, "pool=papers&method=average"), place)


def test_the_browser_gets_numbers_and_not_their_names() -> None:
    lessons = json.loads(packed(LESSONS, TABLES))
    steps = [step for lesson in lessons for step in lesson["steps"]]
    assert len(steps) == sum(len(lesson.steps) for lesson in LESSONS)
    assert not any("{" in step["happened"] + step["say"] or "claim" in step or "link" in step for step in steps)
    guesses = [step["guess"] for step in steps if "guess" in step]
    assert all(("truth" in guess) != ("choices" in guess) for guess in guesses)
    assert all(guess["low"] <= guess["truth"] <= guess["high"] for guess in guesses if "truth" in guess)


def test_every_lesson_and_figure_is_on_the_page() -> None:
    page = list_html(LESSONS)
    assert [page.count(f'data-lesson="{lesson.id}"') for lesson in LESSONS] == [1] * len(LESSONS)
    cards = gallery()
    shown = gallery_html(cards, TABLES).html_template
    assert [shown.count(f'id="ms-figure-{card.id}"') for card in cards] == [1] * len(cards)
    assert shown.count("Second-hand:") == sum(card.second_hand for card in cards)


def test_a_code_is_of_an_address_and_nothing_else() -> None:
    code = code_html("http://127.0.0.1:7860/?lesson=scaling&x=<b>")
    assert "<svg" in code
    assert "<b>" not in code
    for wrong in ("javascript:alert(1)", "x", "http://" + "a" * 400):
        with pytest.raises(MergeError, match="address"):
            code_html(wrong)
