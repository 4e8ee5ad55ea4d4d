"""Lessons are true and readable: files that fit, claims that the shipped tables bear out, short sentences, 5 to 8
minutes.
"""

import re

import pytest

from merging.errors import MergeError
from merging.io.assets import assets_folder
from merging.services.lessons import Guess, Lesson, Number, filled, holds, measure, read_lesson, shipped_lessons
from merging.services.link import from_query
from merging.services.workbench import Workbench

LESSONS = shipped_lessons()
TABLES = assets_folder() / "tables"
STEPS = [
    pytest.param(lesson, place, id=f"{lesson.id}/{step.id}")
    for lesson in LESSONS
    for place, step in enumerate(lesson.steps)
]
LONGEST = 25


@pytest.fixture(scope="module")
def workbench() -> Workbench:
    return Workbench()


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.?!])[”\"]?\s+", text) if part]


@pytest.mark.parametrize(("lesson", "place"), STEPS)
def test_a_claim_holds_on_the_shipped_tables(lesson: Lesson, place: int) -> None:
    step, numbers = lesson.steps[place], lesson.measured(TABLES)
    assert step.claim is None or holds(step.claim, numbers)
    if step.guess and step.guess.number:
        assert step.guess.low <= 100 * numbers[step.guess.number] <= step.guess.high


@pytest.mark.parametrize(("lesson", "place"), STEPS)
def test_no_sentence_is_over_25_words(lesson: Lesson, place: int) -> None:
    step = lesson.steps[place]
    said = [
        step.say,
        step.do or "",
        filled(step.happened, lesson.measured(TABLES)),
        step.guess.question if step.guess else "",
    ]
    if step.path:
        said += [turn.ask for turn in step.path.turns.values()] + [end.say for end in step.path.outcomes.values()]
    assert len(sentences(step.say)) <= 2
    assert [line for text in said for line in sentences(text) if len(line.split()) > LONGEST] == []


@pytest.mark.parametrize(("lesson", "place"), STEPS)
def test_a_step_has_a_screen(workbench: Workbench, lesson: Lesson, place: int) -> None:
    step = lesson.steps[place]
    links = (
        [lesson.link(place), *(end.link for end in step.path.outcomes.values())] if step.path else [lesson.link(place)]
    )
    for link in links:
        assert from_query(link, workbench) is not None


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.id)
def test_a_lesson_takes_five_to_eight_minutes_and_uses_its_numbers(lesson: Lesson) -> None:
    assert 5 <= lesson.minutes <= 8
    used = " ".join(
        f"{step.say} {step.happened} {step.claim} {step.guess.number if step.guess else ''}" for step in lesson.steps
    )
    assert [name for name in lesson.numbers if not re.search(rf"\b{name}\b", used)] == []


def test_the_eight_lessons_are_there() -> None:
    names = "adapter scaling interference texts osrm_helps magnitudes orthogonality choose"
    assert [lesson.id for lesson in LESSONS] == names.split()


def test_a_file_that_does_not_fit_is_named_with_its_field(tmp_path) -> None:
    path = tmp_path / "1_bad.yaml"
    path.write_text("id: bad\ntitle: Bad\nabout: x\nsteps: []\n")
    with pytest.raises(MergeError, match=r"1_bad\.yaml does not fit at steps"):
        read_lesson(path)
    path.write_text("id: [")
    with pytest.raises(MergeError, match="not valid YAML"):
        read_lesson(path)


def test_a_number_is_the_mean_over_its_rows(tmp_path) -> None:
    (tmp_path / "few.csv").write_text("method,correct,total\na,1,2\na,3,4\nb,0,4\n")
    assert measure(Number(table="few", where="method == 'a'"), tmp_path) == pytest.approx(0.625)
    with pytest.raises(MergeError, match="No row"):
        measure(Number(table="few", where="method == 'c'"), tmp_path)
    with pytest.raises(MergeError, match="needs the table"):
        measure(Number(table="none", where="method == 'c'"), tmp_path)


def test_a_false_claim_does_not_hold() -> None:
    assert holds("a < b - 0.1 and b < 1", {"a": 0.1, "b": 0.5})
    assert not holds("a > b", {"a": 0.1, "b": 0.5})


def test_numbers_are_written_with_a_minus() -> None:
    assert filled("{a:.0%} and {b:+.1f}, [[average]]", {"a": 0.431, "b": -2.0}) == "43\u00a0% and −2.0, [[average]]"


def test_a_guess_is_of_one_kind() -> None:
    with pytest.raises(ValueError, match="a guess has"):
        Guess(question="Which?", choices=("a", "b", "c"))
