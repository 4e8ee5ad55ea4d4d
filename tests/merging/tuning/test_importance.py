"""What mattered in a search is found where it is known, and a choice that some candidates lack counts too."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from merging.recipes.spec import MergeSpec
from merging.tuning.importance import FEWEST, choices, importances
from merging.tuning.search import Candidate


def tried(count: int = 60) -> list[Candidate]:
    """Candidates whose value is λ, and .3 more with TIES."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        method, scaling = random.choice(["task_arithmetic", "ties"]), round(float(random.uniform(0, 1)), 2)
        spec = MergeSpec.of(str(method), {"scaling": scaling}, decouple=float(random.choice([0.0, 1.0])))
        value = scaling + 0.3 * (method == "ties")
        found.append(Candidate(number, spec, "measured", value, value, value, 100, 1.0))
    return found


def test_a_column_per_choice_that_was_made() -> None:
    table = choices(tried(), ["cats", "dogs"])
    assert {*table.columns[:5], "decouple γ"} == {"trial", "merge", "value", "method", "λ", "decouple γ"}
    assert set(table.method) == {"Task Arithmetic", "TIES"}
    weighted = [
        Candidate(n, MergeSpec.of("tsv", weights=[w, 1.0]), "measured", w, w, w, 9, 0.1) for n, w in enumerate((0.5, 1))
    ]
    assert choices(weighted, ["cats", "dogs"])["weight of cats"].tolist() == [0.5, 1.0]
    assert "weight of dogs" not in choices(weighted, ["cats", "dogs"])


def test_what_the_value_follows_comes_first_in_the_right_measure() -> None:
    found = importances(choices(tried(200)))
    assert found.choice.tolist()[:2] == ["λ", "method"]
    shares = found.set_index("choice").importance
    # var(λ) = 1 / 12 against .3^2 / 4 of a coin
    assert shares["λ"] / shares["method"] == pytest.approx((1 / 12) / (0.09 / 4), rel=0.35)
    assert shares["decouple γ"] < 0.03
    assert shares.sum() == pytest.approx(1)
    pd.testing.assert_frame_equal(found, importances(choices(tried(200))))


def test_nothing_is_said_of_a_few_or_of_equal_ones() -> None:
    assert importances(choices(tried(FEWEST - 1))).empty
    equal = [Candidate(c.number, c.spec, c.state, 0.5, 0.5, 0.5, 100, 1.0) for c in tried()]
    assert importances(choices(equal)).empty
