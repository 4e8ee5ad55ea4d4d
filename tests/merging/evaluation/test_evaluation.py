"""evaluate() streams the accuracy that a plain loop finds, fairly between tasks, and leaves the model as it was."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest
import torch
from builders import (
    HIDDEN,
    called,
    deltas_of,
    dense_added,
    dense_sum,
    equal_pool,
    gaussian,
    made_up_task,
    quick,
    random_adapter,
    state,
    tiny_model,
    unchanged,
)
from hypothesis import given
from hypothesis import strategies as st

from merging import METHODS, Adapter, MergeError, Task, evaluate, merge
from merging.adapters.head import Head
from merging.evaluation.accuracy import FIRST_BATCH, encode_task, hits, predictions, wilson


def random_head(seed: int, classes: int = 2) -> Head:
    return Head("pooled", {"weight": gaussian(seed, classes, HIDDEN).float(), "bias": torch.zeros(classes)})


def with_head(adapter: Adapter, classes: int = 2) -> Adapter:
    return replace(adapter, head=random_head(len(adapter.name), classes))


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """Return three tasks with test splits of 12, 60 and 24 rows; the last has three classes."""
    return [made_up_task("task-0", 60), made_up_task("task-1", 300, seed=1), made_up_task("task-2", 120, 3, seed=2)]


@pytest.fixture
def adapters() -> list[Adapter]:
    return [with_head(random_adapter(i, scale=0.1), 3 if i == 2 else 2) for i in range(3)]


@torch.no_grad()
def accuracy(model, tokenizer, task: Task, head: Head, split: str = "test") -> float:
    """Return the accuracy text by text, without batches and padding."""
    rows, right = getattr(task, split), 0
    for text, label in zip(rows.texts, rows.labels, strict=True):
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        right += int((head.tensors["weight"] @ states.mean(0) + head.tensors["bias"]).argmax()) == label
    return right / len(rows)


def final(estimates) -> dict[str, float]:
    return {estimate.task: estimate.accuracy for estimate in estimates}


# -- the numbers -------------------------------------------------------------------------------------------------------


def test_the_final_accuracy_of_a_merge_is_that_of_a_plain_loop(model, tokenizer, tasks, adapters) -> None:
    result = final(evaluate(model, tokenizer, merge(adapters, "task_arithmetic", scaling=0.5), tasks))
    with dense_added(model, dense_sum(adapters, [0.5] * 3)) as oracle:
        expected = {t.name: accuracy(oracle, tokenizer, t, a.head) for t, a in zip(tasks, adapters, strict=True)}
    assert result == pytest.approx(expected)
    assert len(set(expected.values())) > 1


def test_the_final_accuracy_of_an_adapter_is_that_of_a_plain_loop(model, tokenizer, tasks, adapters) -> None:
    result = final(evaluate(model, tokenizer, adapters[1], tasks[1:2], split="validation"))
    with dense_added(model, dense_sum(adapters[1:2])) as oracle:
        assert result == pytest.approx(
            {"task-1": accuracy(oracle, tokenizer, tasks[1], adapters[1].head, "validation")}
        )


def test_the_final_accuracy_of_the_base_is_that_of_a_plain_loop(model, tokenizer, tasks) -> None:
    heads = {task.name: random_head(i, len(task.labels)) for i, task in enumerate(tasks)}
    result = final(evaluate(model, tokenizer, None, tasks, heads=heads))
    assert result == pytest.approx({task.name: accuracy(model, tokenizer, task, heads[task.name]) for task in tasks})


def test_given_heads_replace_the_adapters_own(model, tokenizer, tasks, adapters) -> None:
    always_first = Head("pooled", {"weight": torch.zeros(2, HIDDEN), "bias": torch.tensor([1.0, 0.0])})
    result = final(evaluate(model, tokenizer, merge(adapters, "average"), tasks[:1], heads={"task-0": always_first}))
    assert result["task-0"] == pytest.approx(tasks[0].test.labels.count(0) / len(tasks[0].test))


def test_rows_tokenised_before_give_the_same_stream(model, tokenizer, tasks, adapters) -> None:
    merged = merge(adapters, "average")
    encoded = [encode_task(tokenizer, task, limit=20) for task in tasks]
    assert list(evaluate(model, tokenizer, merged, encoded)) == list(
        evaluate(model, tokenizer, merged, tasks, limit=20)
    )


def test_a_limit_takes_the_first_rows(model, tokenizer, tasks, adapters) -> None:
    last = list(evaluate(model, tokenizer, adapters[1], tasks[1:2], limit=10))[-1]
    assert (last.done, last.total) == (10, 10)
    short = replace(
        tasks[1], test=replace(tasks[1].test, texts=tasks[1].test.texts[:10], labels=tasks[1].test.labels[:10])
    )
    with dense_added(model, dense_sum(adapters[1:2])) as oracle:
        assert last.accuracy == pytest.approx(accuracy(oracle, tokenizer, short, adapters[1].head))


@pytest.mark.parametrize("method", [name for name, spec in METHODS.items() if "task_id" in spec.needs])
def test_a_method_that_needs_the_task_gets_each_tasks_own_weights(
    method: str, model, tokenizer, tasks, adapters
) -> None:
    merged = merge(adapters, method)
    result = final(evaluate(model, tokenizer, merged, tasks))
    for task, adapter in zip(tasks, adapters, strict=True):
        with dense_added(model, deltas_of(merged.for_task(task.name))) as oracle:
            assert result[task.name] == pytest.approx(accuracy(oracle, tokenizer, task, adapter.head))


# -- the stream --------------------------------------------------------------------------------------------------------


def test_every_task_has_a_small_first_batch_before_any_has_a_second(model, tokenizer, tasks, adapters) -> None:
    estimates = list(evaluate(model, tokenizer, merge(adapters, "average"), tasks))
    assert [estimate.task for estimate in estimates[:3]] == ["task-0", "task-1", "task-2"]
    assert all(estimate.done <= FIRST_BATCH for estimate in estimates[:3])


def test_tasks_take_turns_until_they_are_done(model, tokenizer, tasks, adapters) -> None:
    turns: dict[str, list[int]] = {task.name: [] for task in tasks}
    estimates = list(evaluate(model, tokenizer, merge(adapters, "average"), tasks))
    for position, estimate in enumerate(estimates):
        turns[estimate.task].append(position)
    for turn in range(max(map(len, turns.values())) - 1):
        this = [positions[turn] for positions in turns.values() if len(positions) > turn]
        following = [positions[turn + 1] for positions in turns.values() if len(positions) > turn + 1]
        assert max(this) < min(following)


def test_estimates_only_grow_and_end_with_all_rows(model, tokenizer, tasks, adapters) -> None:
    seen: dict[str, list] = {task.name: [] for task in tasks}
    for estimate in evaluate(model, tokenizer, merge(adapters, "average"), tasks):
        seen[estimate.task].append(estimate)
        low, high = estimate.interval
        assert 0 <= low <= estimate.accuracy <= high <= 1
        assert estimate.interval == wilson(round(estimate.accuracy * estimate.done), estimate.done)
    for task in tasks:
        done = [estimate.done for estimate in seen[task.name]]
        assert done == sorted(set(done))
        assert done[-1] == len(task.test) == seen[task.name][-1].total


def test_estimates_are_plain_numbers(model, tokenizer, tasks, adapters) -> None:
    task, accuracy_, interval, done, total, marks = astuple(next(evaluate(model, tokenizer, adapters[0], tasks[:1])))
    assert [type(value) for value in (task, accuracy_, *interval, done, total)] == [str, float, float, float, int, int]
    assert (len(marks), len(marks) - marks.count(".")) == (total, done)
    assert marks.count("1") == round(accuracy_ * done)


# -- Wilson's interval -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


@quick
@given(total=st.integers(1, 2000), share=st.floats(0, 1), z=st.floats(0.5, 4))
def test_wilson_bounds_are_where_the_score_test_turns(total: int, share: float, z: float) -> None:
    correct = round(share * total)
    low, high = wilson(correct, total, z)
    for bound in (low, high):
        assert (correct / total - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / total, rel=1e-6, abs=1e-9)
    assert 0 <= low <= correct / total <= high <= 1
    assert wilson(total - correct, total, z) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_without_data_everything_is_possible() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_closing_the_stream_restores_the_weights(steps: int, model, tokenizer, tasks, adapters) -> None:
    before = state(model)
    model.train()
    stream = evaluate(model, tokenizer, merge(adapters, "task_arithmetic"), tasks)
    for _ in range(steps):
        next(stream)
    assert not unchanged(model, before)
    assert not model.training
    stream.close()
    assert unchanged(model, before)
    assert model.training


def test_an_exception_in_the_stream_restores_the_weights(model, tokenizer, tasks, adapters) -> None:
    before = state(model)
    stream = evaluate(model, tokenizer, merge(adapters, "task_arithmetic"), tasks)
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())
    assert unchanged(model, before)


def test_a_finished_stream_has_restored_the_weights_and_grad_mode(model, tokenizer, tasks, adapters) -> None:
    before = state(model)
    for _ in evaluate(model, tokenizer, adapters[0], tasks[:1]):
        assert torch.is_grad_enabled()
    assert unchanged(model, before)


def test_nothing_happens_to_a_model_whose_stream_was_never_started(model, tokenizer, tasks, adapters) -> None:
    before = state(model)
    evaluate(model, tokenizer, merge(adapters, "average"), tasks).close()
    assert unchanged(model, before)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_missing_head_is_named_before_anything_runs(model, tokenizer, tasks, adapters) -> None:
    headless = [*adapters[:2], replace(adapters[2], head=None)]
    with pytest.raises(MergeError, match="task-2"):
        evaluate(model, tokenizer, merge(headless, "average"), tasks)
    with pytest.raises(MergeError, match="heads"):
        evaluate(model, tokenizer, None, tasks)
    with pytest.raises(MergeError, match="task-1"):
        evaluate(model, tokenizer, None, tasks[:2], heads={"task-0": random_head(0)})


def test_a_head_with_another_number_of_labels_is_refused(model, tokenizer, tasks, adapters) -> None:
    with pytest.raises(MergeError, match=r"task-2.*2 labels.*3"):
        evaluate(model, tokenizer, merge(adapters, "average"), tasks, heads={t.name: random_head(0) for t in tasks})


def test_a_classification_models_head_without_all_of_its_tensors_is_refused(model, tokenizer, tasks) -> None:
    adapter = replace(random_adapter(0), head=Head("model", {"classifier.weight": torch.zeros(2, HIDDEN)}))
    with pytest.raises(MergeError, match=r"task-0.*classifier\.bias"):
        evaluate(model, tokenizer, adapter, tasks[:1])


def test_two_heads_for_one_task_are_refused(model, tokenizer, tasks, adapters) -> None:
    twice = [adapters[0], called(adapters[1], "task-0")]
    with pytest.raises(MergeError, match="task-0"):
        evaluate(model, tokenizer, merge(twice, "average"), tasks[:1])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"split": "dev"}, "dev"), ({"limit": 0}, "limit"), ({"tasks": []}, "tasks"), ({"tasks": "twice"}, "same name")],
)
def test_what_cannot_be_evaluated_is_refused(arguments: dict, word: str, model, tokenizer, tasks, adapters) -> None:
    chosen = {"tasks": tasks} | arguments
    chosen["tasks"] = [tasks[0], tasks[0]] if chosen["tasks"] == "twice" else chosen["tasks"]
    with pytest.raises(MergeError, match=word):
        evaluate(model, tokenizer, merge(adapters, "average"), **chosen)


def test_another_base_is_refused_and_left_alone(tokenizer, tasks) -> None:
    adapter = replace(with_head(equal_pool(1)[0]), base_fingerprint="of another model")
    other = tiny_model()
    before = state(other)
    with pytest.raises(MergeError, match="base"):
        next(evaluate(other, tokenizer, adapter, tasks[:1]))
    assert unchanged(other, before)


def test_a_stream_predicts_every_row_and_evaluate_counts_the_right_ones(
    model, tokenizer, adapters: list[Adapter], tasks: list[Task]
) -> None:
    merged = merge(adapters, "average")
    encoded = [encode_task(tokenizer, task) for task in tasks]
    batches = list(hits(model, tokenizer, merged, encoded))
    labels = {task.name: task.labels for task in encoded}
    for batch in batches:
        assert torch.equal(batch.right, batch.predicted == labels[batch.task][batch.rows])
    last = {p.task: p for p in evaluate(model, tokenizer, merged, encoded)}
    for task, predicted in predictions(batches).items():
        assert (predicted >= 0).all()
        assert last[task].accuracy == pytest.approx((predicted == labels[task]).double().mean().item())
    assert any((values < 0).any() for values in predictions(batches[:3]).values())
