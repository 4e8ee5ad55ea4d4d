"""Features are what a hand-made hook sees: real tokens only, whatever the batches, for every pooling and prefix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import HIDDEN, MODULES, QUERY, distance, sentences, state, tiny_classifier, token_rows, unchanged

from merging import Features, MergeError, collect_features
from merging.features.reading import reading_features

LAST = list(MODULES)[-1]
TEXTS = {"first": sentences(1, 7, 12), "second": sentences(2, 7, 3)}


def collect(model, tokenizer, texts=None, k: int = 7, modules=(QUERY, LAST), **options) -> Features:
    return collect_features(model, tokenizer, texts or TEXTS, k=k, modules=list(modules), **options)


def moment(rows: list[torch.Tensor], pooling: str) -> np.ndarray:
    """Return H^T H / rows for one pooling, in numpy."""
    means = np.stack([text.numpy().mean(0) for text in rows])
    H = {
        "token": np.concatenate([text.numpy() for text in rows]),
        "mean": means,
        "task_mean": means.mean(0, keepdims=True),
    }[pooling]
    return H.T @ H / len(H)


@pytest.mark.parametrize("task", TEXTS)
@pytest.mark.parametrize("module", [QUERY, LAST])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_samples_and_moments_are_those_of_a_hand_made_hook(task: str, module: str, k: int, model, tokenizer) -> None:
    features = collect(model, tokenizer)
    rows = token_rows(model, TEXTS[task][:k], module)
    means = torch.stack([text.mean(0) for text in rows])
    assert distance(features.first(k).samples(task, module), means) < 1e-5
    assert features.first(k).samples(task, module).shape == (k, MODULES[module][1])
    for pooling in ("token", "mean", "task_mean"):
        expected = torch.from_numpy(moment(rows, pooling))
        assert distance(features.second_moment(task, module, pooling, k), expected) < 1e-5
        assert distance(features.first(k).second_moment(task, module, pooling), expected) < 1e-5


def test_the_default_pooling_is_one_row_per_token(model, tokenizer) -> None:
    features = collect(model, tokenizer)
    assert torch.equal(features.second_moment("first", QUERY), features.second_moment("first", QUERY, "token"))
    assert features.second_moment("first", QUERY).dtype == torch.float64
    assert features.samples("first", QUERY).dtype == torch.float32


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("keep_tokens", [True, False])
def test_padding_does_not_count(batch_size: int, keep_tokens: bool, model, tokenizer) -> None:
    whole = collect(model, tokenizer, batch_size=32)
    pieces = collect(model, tokenizer, batch_size=batch_size, keep_tokens=keep_tokens)
    for task in TEXTS:
        for module in (QUERY, LAST):
            assert distance(pieces.samples(task, module), whole.samples(task, module)) < 1e-5
            assert distance(pieces.second_moment(task, module), whole.second_moment(task, module)) < 1e-5


def test_moments_are_not_centred(model, tokenizer) -> None:
    features = collect(model, tokenizer)
    H = features.samples("first", QUERY).double()
    assert distance(features.second_moment("first", QUERY, "mean"), H.T @ H / len(H)) < 1e-12
    assert distance(features.second_moment("first", QUERY, "mean"), H.T.cov(correction=0)) > 0.1


def test_only_the_first_k_texts_are_read(model, tokenizer) -> None:
    few = collect(model, tokenizer, k=3)
    assert few.k == 3
    assert few.samples("first", QUERY).shape == (3, HIDDEN)
    assert (
        distance(few.second_moment("first", QUERY), collect(model, tokenizer).second_moment("first", QUERY, k=3)) < 1e-5
    )


def test_a_task_may_have_fewer_texts_than_k(model, tokenizer) -> None:
    features = collect(model, tokenizer, {"long": TEXTS["first"], "short": TEXTS["second"][:2]}, k=5)
    assert features.k == 5
    assert len(features.samples("short", QUERY)) == 2
    assert torch.equal(features.second_moment("short", QUERY, k=5), features.second_moment("short", QUERY))


def test_modules_with_one_input_share_its_rows_and_others_do_not(model, tokenizer) -> None:
    attention = [f"encoder.layer.0.attention.self.{name}" for name in ("query", "key", "value")]
    features = collect(model, tokenizer, modules=[*attention, LAST])
    for module in attention[1:]:
        assert torch.equal(features.second_moment("first", module), features.second_moment("first", attention[0]))
    assert len(features.rows) == 2 * len(TEXTS)
    assert features.modules == (*attention, LAST)


def test_long_texts_are_cut(model, tokenizer) -> None:
    long = {"task": [" ".join(sentences(3, 8))]}
    features = collect(model, tokenizer, long, max_length=5)
    words = long["task"][0].split()[:3]  # and two special tokens
    assert (
        distance(
            features.second_moment("task", QUERY),
            torch.from_numpy(moment(token_rows(model, [" ".join(words)], QUERY), "token")),
        )
        < 1e-5
    )


def test_a_model_with_a_head_gives_the_features_of_its_encoder(tokenizer) -> None:
    classifier = tiny_classifier()
    features = collect(classifier, tokenizer)
    expected = torch.from_numpy(moment(token_rows(classifier.bert, TEXTS["first"], QUERY), "token"))
    assert distance(features.second_moment("first", QUERY), expected) < 1e-5


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool, model, tokenizer) -> None:
    model.train(training)
    before = state(model)
    collect(model, tokenizer)
    assert model.training is training
    assert unchanged(model, before)
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_hooks_are_removed_after_an_error(model, tokenizer) -> None:
    with pytest.raises(MergeError, match="second"):
        collect(model, tokenizer, {"first": TEXTS["first"], "second": []})
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_running_moments_cannot_give_a_smaller_k(model, tokenizer) -> None:
    features = collect(model, tokenizer, keep_tokens=False)
    assert features.second_moment("first", QUERY, "mean", k=2).shape == (HIDDEN, HIDDEN)
    with pytest.raises(MergeError, match="keep_tokens"):
        features.second_moment("first", QUERY, k=2)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"k": 0}, "k = 0"),
        ({"modules": []}, "modules"),
        ({"modules": ["encoder.layer.9.attention.self.query"]}, "encoder.layer.9.attention.self.query"),
        ({"modules": ["embeddings.word_embeddings"]}, "Embedding"),
        ({"modules": ["pooler.dense"]}, "pooler.dense"),
        ({"texts": {"empty": []}}, "empty"),
        ({"texts": {"blank": ["a cat", "  "]}}, "2"),
        ({"texts": {}}, "task"),
    ],
)
def test_what_cannot_be_collected_is_refused(options: dict, word: str, model, tokenizer) -> None:
    arguments = {"texts": TEXTS, "k": 7, "modules": [QUERY]} | options
    with pytest.raises(MergeError, match=word):
        collect_features(model, tokenizer, **arguments)


def test_a_miss_is_named(model, tokenizer) -> None:
    features = collect(model, tokenizer)
    with pytest.raises(MergeError, match="third"):
        features.samples("third", QUERY)
    with pytest.raises(MergeError, match=r"layer\.1\.attention"):
        features.samples("first", "encoder.layer.1.attention.self.query")
    with pytest.raises(MergeError, match="median"):
        features.second_moment("first", QUERY, "median")
    with pytest.raises(MergeError, match="k = 0"):
        features.second_moment("first", QUERY, k=0)
    with pytest.raises(MergeError, match="k = 0"):
        features.first(0)


def test_reading_step_by_step_gives_the_same_features_and_can_be_stopped(model, tokenizer) -> None:
    arguments = (model, tokenizer, TEXTS, 40, [QUERY])
    reading = reading_features(*arguments, batch_size=2)
    steps = []
    try:
        while True:
            steps.append(next(reading))
    except StopIteration as finished:
        features = finished.value
    done, total = steps[-1]
    assert done == total == sum(map(len, TEXTS.values()))
    assert [step[0] for step in steps] == sorted({step[0] for step in steps})
    whole = collect_features(*arguments, batch_size=2)
    assert all(torch.equal(features.second_moment(t, QUERY), whole.second_moment(t, QUERY)) for t in TEXTS)
    stopped = reading_features(*arguments)
    next(stopped)
    stopped.close()
    assert not any(module._forward_pre_hooks for module in model.modules())
