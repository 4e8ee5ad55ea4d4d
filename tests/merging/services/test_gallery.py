"""The gallery says what the tables say: its comparisons hold, and its outcomes are the experiment's own."""

import pytest

from merging.experiments.do_pieces.results import Results
from merging.experiments.do_pieces.verdicts import FIGURES, verdict
from merging.io.assets import assets_folder
from merging.services.gallery import Card, gallery
from merging.services.lessons import filled, holds, measure, shipped_lessons

CARDS = gallery()
TABLES = assets_folder() / "tables"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_what_a_card_says_holds_on_the_shipped_tables(card: Card) -> None:
    numbers = {name: measure(number, TABLES) for name, number in card.numbers.items()}
    if card.shows is not None and card.measured is not None:
        assert holds(card.shows, numbers)
        assert "{" not in filled(card.measured, numbers)
        assert all(name in card.measured + card.shows for name in numbers)


@pytest.mark.parametrize("card", [card for card in CARDS if card.paper == "DO-Merging"], ids=lambda card: card.id)
def test_an_outcome_is_that_of_the_experiment(card: Card) -> None:
    found = verdict(card.figure, Results(TABLES))
    assert card.outcome == found.outcome
    assert card.second_hand == ("second-hand" in found.claim)
    assert card.draw == f"do/{card.figure}"


def test_every_figure_of_do_merging_has_a_card() -> None:
    drawn = {card.figure for card in CARDS if card.paper == "DO-Merging"}
    assert drawn == set(FIGURES) - {"epochs"}  # which is another paper's


def test_a_card_leads_into_a_lesson_that_is_there() -> None:
    lessons = {lesson.id: len(lesson.steps) for lesson in shipped_lessons()}
    assert [card.id for card in CARDS if not 1 <= card.step <= lessons.get(card.lesson, 0)] == []
