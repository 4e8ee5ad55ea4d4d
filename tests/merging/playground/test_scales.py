"""A slider's story is the merge at each λ, for every method that has one, and it flips where the answers do."""

from __future__ import annotations

import pandas as pd
import pytest
from asked import TEXTS, pooled_adapters
from builders import task_features

from merging import METHODS, merge
from merging.playground import flips, over_scaling, predictions, question_of, weights_by_task, weights_of

SCALED = [name for name, method in METHODS.items() if any(param.name == "scaling" for param in method.params)]


@pytest.mark.parametrize("method", SCALED)
def test_the_story_is_the_merge_at_each_scaling(method: str, model, tokenizer) -> None:
    adapters = pooled_adapters()
    question = question_of(adapters[0])
    features = task_features(model, 3) if "data" in METHODS[method].needs else None
    at_one = weights_of(merge(adapters, method, scaling=1.0, features=features))
    story = over_scaling(model, tokenizer, TEXTS, question, at_one)
    assert story.scaling.min() == 0
    assert story.scaling.max() == 1.5
    for scaling in (0.0, 0.35, 1.5):
        merged = merge(adapters, method, scaling=scaling, features=features) if scaling else None
        sources = {"x": weights_by_task(merged, [question.task])}
        again = predictions(model, tokenizer, TEXTS, [question], sources)
        mine = story[story.scaling == scaling].sort_values("text", kind="stable")
        assert mine.probability.to_numpy() == pytest.approx(again.probability.to_numpy(), abs=1e-5)


def test_flips_lie_where_the_winner_changes(model, tokenizer) -> None:
    adapters = pooled_adapters()
    question = question_of(adapters[0])
    at_one = weights_of(merge(adapters, "task_arithmetic", scaling=1.0))
    found = flips(over_scaling(model, tokenizer, TEXTS, question, at_one))
    assert len(found)
    for row in found.itertuples():
        around = over_scaling(
            model, tokenizer, [TEXTS[row.text]], question, at_one, [row.scaling - 0.02, row.scaling + 0.02]
        )
        winners = around.loc[around.groupby("scaling").probability.idxmax()].label.tolist()
        assert winners == [row.before, row.after]


def test_a_flip_between_two_points_is_where_the_lines_cross() -> None:
    rows = [(0, 0.0, "a", 1.0), (0, 0.0, "b", 0.0), (0, 1.0, "a", 0.0), (0, 1.0, "b", 3.0)]
    story = pd.DataFrame(rows, columns=["text", "scaling", "label", "logit"])
    [row] = flips(story).itertuples(index=False)
    assert tuple(row) == (0, pytest.approx(0.25), "a", "b")
    assert flips(story[story.scaling == 0.0]).empty
