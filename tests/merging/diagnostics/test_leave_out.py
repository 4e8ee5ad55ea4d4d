"""Leaving one out equals merging the rest, changes nothing where nothing was, knows its interval, and hands the model
back.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from builders import (
    HIDDEN,
    MODULES,
    QUERY,
    deltas_of,
    dense_added,
    gaussian,
    made_up_task,
    random_adapter,
    state,
    task_features,
    tiny_model,
    unchanged,
    with_deltas,
)

from merging import Adapter, MergeError, merge
from merging.adapters.head import Head
from merging.diagnostics.leave_out import (
    Partial,
    as_frame,
    layer_of,
    leave_one_adapter_out,
    leave_one_layer_out,
    merging_with,
    paired_interval,
)
from merging.evaluation.accuracy import EncodedTask, encode_task
from merging.experiments.sweep import measure

NAMES = ("task-0", "task-1", "task-2")


def with_head(adapter: Adapter, seed: int) -> Adapter:
    return replace(adapter, head=Head("pooled", {"weight": gaussian(seed, 2, HIDDEN).float(), "bias": torch.zeros(2)}))


@pytest.fixture
def adapters() -> list[Adapter]:
    return [with_head(random_adapter(i, scale=0.1), i) for i in range(3)]


@pytest.fixture(scope="module")
def tasks(tokenizer) -> list[EncodedTask]:
    return [encode_task(tokenizer, made_up_task(name, 240, seed=i), "test", 40) for i, name in enumerate(NAMES)]


def silent(adapter: Adapter) -> Adapter:
    return with_deltas(adapter, lambda module, update: update * 0.0)


def points(marks: str) -> float:
    return 100 * marks.count("1") / len(marks)


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "svd"])
def test_leaving_an_adapter_out_is_the_merge_of_the_rest(method: str, model, tokenizer, adapters, tasks) -> None:
    merge_of = merging_with(adapters, method, scaling=0.7)
    table = as_frame(leave_one_adapter_out(model, tokenizer, adapters, merge_of, tasks))
    assert list(zip(table.left_out, table.task, strict=True)) == list(product(NAMES, NAMES))
    heads = {adapter.task: adapter.head for adapter in adapters}
    before = measure(model, tokenizer, merge(adapters, method, scaling=0.7), tasks)
    for j, name in enumerate(NAMES):
        rest = merge([a for i, a in enumerate(adapters) if i != j], method, scaling=0.7)
        # the oracle: one dense update in a copy of the weights, under every task's own head
        with dense_added(model, deltas_of(rest)) as oracle:
            for task in tasks:
                empty = Adapter("none", {}, task=task.name, head=heads[task.name])
                [marks] = measure(oracle, tokenizer, empty, [task]).values()
                [row] = table[(table.left_out == name) & (table.task == task.name)].itertuples()
                assert row.difference == pytest.approx(points(marks) - points(before[task.name]))
                pairs = list(zip(before[task.name], marks, strict=True))
                assert (row.gained, row.lost, row.n) == (pairs.count(("0", "1")), pairs.count(("1", "0")), 40)
                assert row.low < row.difference < row.high
    assert table.difference.abs().max() > 0


def test_an_adapter_without_any_effect_changes_nothing_when_it_goes(model, tokenizer, adapters, tasks) -> None:
    adapters[1] = silent(adapters[1])
    table = as_frame(
        leave_one_adapter_out(model, tokenizer, adapters, merging_with(adapters, "task_arithmetic", scaling=0.7), tasks)
    )
    gone = table[table.left_out == "task-1"]
    assert (gone[["difference", "gained", "lost"]] == 0).all(axis=None)
    assert gone.high.to_numpy() == pytest.approx(-gone.low.to_numpy())
    assert table[table.left_out != "task-1"].difference.abs().max() > 0


def test_an_adapter_of_weight_zero_changes_nothing_when_it_goes_and_weights_follow_their_adapters(
    model, tokenizer, adapters, tasks
) -> None:
    weights = [0.0, 3.0, {"*query": 0.5, "*": 1.0}]
    merge_of = merging_with(adapters, "task_arithmetic", weights, scaling=0.7)
    table = as_frame(leave_one_adapter_out(model, tokenizer, adapters, merge_of, tasks))
    assert (table[table.left_out == "task-0"].difference == 0).all()
    rest = merge_of(adapters[1:])
    assert rest.weights == (3.0, {"*query": 0.5, "*": 1.0})
    expected = merge(adapters[1:], "task_arithmetic", weights[1:], scaling=0.7)
    assert all(torch.equal(rest.delta(module), expected.delta(module)) for module in MODULES)


def test_a_method_that_needs_the_task_is_measured_where_the_task_has_weights(model, tokenizer, adapters, tasks) -> None:
    table = as_frame(leave_one_adapter_out(model, tokenizer, adapters, merging_with(adapters, "emr"), tasks))
    assert list(zip(table.left_out, table.task, strict=True)) == [(a, b) for a, b in product(NAMES, NAMES) if a != b]
    before = measure(model, tokenizer, merge(adapters, "emr"), tasks)
    without = measure(model, tokenizer, merge(adapters[1:], "emr"), tasks[1:])
    mine = table[table.left_out == "task-0"].set_index("task").difference
    assert mine.to_dict() == pytest.approx({task: points(without[task]) - points(before[task]) for task in NAMES[1:]})
    only = as_frame(leave_one_adapter_out(model, tokenizer, adapters, merging_with(adapters, "emr"), tasks[:1]))
    assert only.left_out.tolist() == ["task-1", "task-2"]


def test_plug_ins_and_features_go_into_every_merge(model, tokenizer, adapters, tasks) -> None:
    arguments = {"features": task_features(tiny_model(), 3), "soft_osrm": 0.3, "decouple": 1.0, "scaling": 0.5}
    merge_of = merging_with(adapters, "task_arithmetic", **arguments)
    table = as_frame(leave_one_adapter_out(model, tokenizer, adapters, merge_of, tasks[:1]))
    [before], [after] = (
        measure(model, tokenizer, merge(some, "task_arithmetic", **arguments), tasks[:1]).values()
        for some in (adapters, adapters[:2])
    )
    assert table.set_index("left_out").difference["task-2"] == pytest.approx(points(after) - points(before))


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_leaving_a_layer_out_is_the_merge_without_its_modules(method: str, model, tokenizer, adapters, tasks) -> None:
    merge_of = merging_with(adapters, method, scaling=0.7)
    table = as_frame(leave_one_layer_out(model, tokenizer, adapters, merge_of, tasks))
    assert list(zip(table.left_out, table.task, strict=True)) == list(product("01", NAMES))
    merged = merge(adapters, method, scaling=0.7)
    before = measure(model, tokenizer, merged, tasks)
    for layer in "01":
        others = {module: merged.delta(module) for module in MODULES if f"layer.{layer}." not in module}
        assert len(others) == 2
        with dense_added(model, others) as oracle:
            for task, adapter in zip(tasks, adapters, strict=True):
                [marks] = measure(oracle, tokenizer, replace(adapter, deltas={}), [task]).values()
                [row] = table[(table.left_out == layer) & (table.task == task.name)].itertuples()
                assert row.difference == pytest.approx(points(marks) - points(before[task.name]))
    assert table.difference.abs().max() > 0


def test_a_layer_without_any_effect_changes_nothing_when_it_goes(model, tokenizer, adapters, tasks) -> None:
    quiet = [with_deltas(a, lambda module, update: update * (0.0 if ".1." in module else 1.0)) for a in adapters]
    table = as_frame(leave_one_layer_out(model, tokenizer, quiet, merging_with(quiet, "ties"), tasks))
    assert (table[table.left_out == "1"].difference == 0).all()
    assert table[table.left_out == "0"].difference.abs().max() > 0


def test_what_a_method_takes_from_all_layers_stays_as_it_is(model, adapters) -> None:
    merged = merge(adapters, "emr").for_task("task-1")
    rest = Partial(merge(adapters, "emr"), frozenset({QUERY})).for_task("task-1")
    before = state(model)
    with rest.applied_to(model):
        for module in MODULES:
            moved = model.get_submodule(module).weight - before[f"{module}.weight"]
            expected = torch.zeros_like(moved) if module == QUERY else merged.delta(module)
            assert torch.allclose(moved, expected, atol=1e-6)
    assert unchanged(model, before)


def test_a_task_aware_method_is_measured_on_every_task_whatever_the_layer(model, tokenizer, adapters, tasks) -> None:
    table = as_frame(leave_one_layer_out(model, tokenizer, adapters, merging_with(adapters, "emr"), tasks))
    assert list(zip(table.left_out, table.task, strict=True)) == list(product("01", NAMES))


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        (QUERY, "0"),
        ("layers.11.self_attn.q_proj", "11"),
        ("transformer.layer.3.attention.q_lin", "3"),
        ("pooler", "pooler"),
    ],
)
def test_the_layer_is_the_number_in_the_name(module: str, layer: str) -> None:
    assert layer_of(module) == layer


# -- the stream --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave_out", [leave_one_adapter_out, leave_one_layer_out])
def test_closing_stops_at_any_batch_and_restores_the_weights_bit_for_bit(
    leave_out, model, tokenizer, adapters, tasks
) -> None:
    before = state(model)
    merge_of = merging_with(adapters, "ties", scaling=0.5)
    batches = len(list(leave_out(model, tokenizer, adapters, merge_of, tasks)))
    for taken in (1, 4, batches // 2, batches - 1):
        run = leave_out(model, tokenizer, adapters, merge_of, tasks)
        for _ in range(taken):
            next(run)
        assert not unchanged(model, before)
        run.close()
        assert unchanged(model, before)
    assert unchanged(model, before)


def test_the_merge_of_all_comes_first_and_once_and_rows_only_grow(model, tokenizer, adapters, tasks) -> None:
    merges = []

    def merge_of(some):
        merges.append([adapter.name for adapter in some])
        return merge(some, "average")

    steps = list(leave_one_adapter_out(model, tokenizer, adapters, merge_of, tasks))
    assert merges == [list(NAMES), ["task-1", "task-2"], ["task-0", "task-2"], ["task-0", "task-1"]]
    assert list(dict.fromkeys(step.left_out for step in steps)) == ["", *NAMES]
    done = [step.done for step in steps]
    assert done == sorted(set(done))
    assert (done[-1], {step.total for step in steps}) == (4 * 120, {4 * 120})
    assert [len(step.changes) for step in steps if step.changes] == [3, 3, 3]
    for step in steps:
        assert {change.left_out for change in step.changes} <= {step.left_out}


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_the_interval_is_walds_with_half_a_row_in_each_cell() -> None:
    # 2 x 2 table of 100 rows with 12 gained and 4 lost: computed from the cells themselves
    cells = {(1, 1): 60.5, (0, 1): 12.5, (1, 0): 4.5, (0, 0): 24.5}
    total = sum(cells.values())
    mean = sum(n * (now - before) for (before, now), n in cells.items()) / total
    variance = sum(n * ((now - before) - mean) ** 2 for (before, now), n in cells.items()) / total
    half = 1.959963984540054 * math.sqrt(variance / total)
    assert paired_interval(12, 4, 100) == pytest.approx((mean - half, mean + half))


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_the_interval_holds_the_difference_and_mirrors_with_it(n: int) -> None:
    for gained, lost in product(range(n + 1), repeat=2):
        if gained + lost > n:
            continue
        low, high = paired_interval(gained, lost, n)
        assert -1 <= low <= (gained - lost) / n <= high <= 1
        assert paired_interval(lost, gained, n) == pytest.approx((-high, -low))
        assert low < high


def test_more_rows_that_change_both_ways_widen_the_interval() -> None:
    widths = [high - low for low, high in (paired_interval(k, k, 100) for k in range(0, 50, 5))]
    assert widths == sorted(widths)
    assert widths[0] == pytest.approx(2 * 1.959963984540054 / 102)


@pytest.mark.parametrize(("gain", "loss"), [(0.02, 0.01), (0.05, 0.05), (0.15, 0.03)])
def test_the_interval_covers_the_truth_as_often_as_it_says(gain: float, loss: float) -> None:
    n, covered = 60, 0.0
    for gained, lost in product(range(n + 1), repeat=2):
        if gained + lost <= n:
            low, high = paired_interval(gained, lost, n)
            ways = math.comb(n, gained) * math.comb(n - gained, lost)
            chance = ways * gain**gained * loss**lost * (1 - gain - loss) ** (n - gained - lost)
            covered += chance * (low <= gain - loss <= high)
    assert 0.94 < covered <= 1.0


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_the_only_adapter_cannot_be_left_out_but_its_layers_can(model, tokenizer, adapters, tasks) -> None:
    one = adapters[:1]
    merge_of = merging_with(one, "task_arithmetic")
    with pytest.raises(MergeError, match="two or more"):
        leave_one_adapter_out(model, tokenizer, one, merge_of, tasks[:1])
    assert len(as_frame(leave_one_layer_out(model, tokenizer, one, merge_of, tasks[:1]))) == 2


def test_weights_that_cannot_follow_their_adapters_are_refused(adapters) -> None:
    with pytest.raises(MergeError, match="2 weights for 3 adapters"):
        merging_with(adapters, "task_arithmetic", [1.0, 2.0])
    with pytest.raises(MergeError, match="twice"):
        merging_with([adapters[0], adapters[0]], "task_arithmetic", [1.0, 2.0])
    with pytest.raises(MergeError, match="task-2"):
        merging_with(adapters[:2], "task_arithmetic")(adapters)


def test_adapters_of_one_task_are_told_that_heads_cannot_be_told_apart(model, tokenizer, adapters, tasks) -> None:
    twins = [*adapters, replace(adapters[0], name="again")]
    with pytest.raises(MergeError, match="Two adapters bring a head"):
        next(leave_one_adapter_out(model, tokenizer, twins, merging_with(twins, "average"), tasks))
