"""One cache of features: sessions share a reading, bytes are bounded whatever k does, and what is forgotten is gone."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from builders import MODULES, QUERY, made_up_task, tiny_model

from merging import MergeError, collect_features
from merging.features.moments import Moments
from merging.features.store import FeatureStore, TextsOf

TASKS = {
    name: replace(made_up_task(rows=160, seed=place), name=name) for place, name in enumerate(("one", "two", "three"))
}
TEXTS = TextsOf(("one", "two"), (QUERY, list(MODULES)[-1]), max_length=16)


class Counted:
    """A base that counts how often it is asked for, and may fail."""

    def __init__(self, tokenizer) -> None:
        self.model, self.tokenizer, self.asked, self.broken = tiny_model(), tokenizer, 0, False

    def __call__(self, source: str, dtype: str):
        self.asked += 1
        if self.broken:
            raise OSError("disk")
        return self.model, self.tokenizer


@pytest.fixture
def base(tokenizer) -> Counted:
    return Counted(tokenizer)


@pytest.fixture
def store(base: Counted) -> FeatureStore:
    return FeatureStore(base, TASKS.__getitem__)


def test_sessions_that_need_the_same_texts_share_one_reading(store: FeatureStore, base: Counted) -> None:
    first, second = store.reading(TEXTS, 50), store.reading(TEXTS, 20)
    steps = [next(first), next(second)]
    assert steps[0][0] < steps[1][0]
    assert not store.ready(TEXTS, 50)
    list(first)
    assert list(second) == []
    assert store.ready(TEXTS, 50) and store.ready(TEXTS, 20)
    assert base.asked == 1


def test_a_reading_that_is_left_alone_goes_on_where_it_was(store: FeatureStore, base: Counted) -> None:
    reading = store.reading(TEXTS, 50)
    done, total = next(reading)
    reading.close()
    left = list(store.reading(TEXTS, 50))
    assert left[0][0] > done and left[-1] == (total, total)
    assert base.asked == 1


def test_a_reading_that_failed_starts_again(store: FeatureStore, base: Counted) -> None:
    base.broken = True
    with pytest.raises(OSError, match="disk"):
        store.features(TEXTS, 50)
    base.broken = False
    assert store.features(TEXTS, 50).k == 50


def test_a_prefix_is_what_reading_only_it_gives(store: FeatureStore, base: Counted) -> None:
    rows = {name: TASKS[name].train.texts for name in TEXTS.tasks}
    for k in (60, 7, 51):
        there = collect_features(base.model, base.tokenizer, rows, k, TEXTS.modules, TEXTS.max_length)
        for task in TEXTS.tasks:
            for module in TEXTS.modules:
                here = store.features(TEXTS, k).second_moment(task, module)
                torch.testing.assert_close(here, there.second_moment(task, module), rtol=1e-5, atol=1e-7)


def test_a_prefix_does_not_depend_on_what_was_asked_before(base: Counted) -> None:
    asked = []
    for path in ((80, 55), (55,), (10, 95, 55)):
        store = FeatureStore(base, TASKS.__getitem__)
        for k in path:
            moment = store.features(TEXTS, k).second_moment("one", QUERY)
        asked.append(moment)
    assert torch.equal(asked[0], asked[1]) and torch.equal(asked[0], asked[2])


def test_moments_of_every_k_together_stay_within_their_bytes(store: FeatureStore) -> None:
    one = store.features(TEXTS, 99).second_moment("one", QUERY).nbytes
    store.moments.largest = 4 * one
    for k in range(10, 96):
        features = store.features(TEXTS, k)
        for task in TEXTS.tasks:
            for module in TEXTS.modules:
                features.second_moment(task, module)
        assert store.moments.nbytes <= 4 * MODULES[list(MODULES)[-1]][1] ** 2 * 8
    again = store.features(TEXTS, 40).second_moment("two", QUERY)
    assert torch.equal(again, store.features(TEXTS, 40).second_moment("two", QUERY))


def test_the_least_recently_used_moment_goes_first() -> None:
    moments, made = Moments(largest=2 * 8), []

    def make(name: str) -> torch.Tensor:
        made.append(name)
        return torch.zeros(1, dtype=torch.float64)

    for name in ("a", "b", "a", "c", "a", "b"):
        moments.get((0, name), lambda name=name: make(name))
    assert made == ["a", "b", "c", "b"]
    assert moments.nbytes == 16


def test_readings_beyond_the_bound_are_dropped_and_the_newest_stays(store: FeatureStore) -> None:
    first = weakref.ref(store.features(TEXTS, 50).tokens)
    store.largest = store.nbytes
    other = replace(TEXTS, tasks=("two", "three"))
    store.features(other, 50)
    gc.collect()
    assert first() is None
    assert not store.ready(TEXTS, 50) and store.ready(other, 50)


def test_what_is_read_of_a_forgotten_task_is_gone_with_its_moments(store: FeatureStore) -> None:
    store.features(TEXTS, 20).second_moment("one", QUERY)
    store.features(replace(TEXTS, tasks=("three",)), 20)
    store.forget(["one"])
    assert not store.ready(TEXTS, 20) and store.ready(replace(TEXTS, tasks=("three",)), 20)
    assert store.moments.nbytes == 0


def test_what_cannot_be_kept_is_refused_by_its_real_cost(base: Counted) -> None:
    store = FeatureStore(base, TASKS.__getitem__, largest=10_000)
    with pytest.raises(MergeError, match=r"2 tasks at 2 layer inputs need 0\.0 GB.*choose fewer tasks"):
        store.features(TEXTS, 50)
