"""What the app measures on demand, and its diagnoses, on the shipped pools: each against the merge itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from merging import Adapter, LowRank, MergeError, merge
from merging.diagnostics.grams import merge_error, merge_error_at
from merging.diagnostics.linked import Diagnosis
from merging.evaluation.accuracy import EncodedTask, evaluate
from merging.features.store import TextsOf
from merging.models.apply import add_update
from merging.models.layers import linear_layers, working_copy
from merging.plugins.orthogonalize import Orthogonalize
from merging.services.settings import Settings
from merging.services.workbench import Workbench

LIMIT = 24
PLUGINS = {"orthogonalize": "balanced", "penalty": 0.2, "decouple": 0.5}


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


@pytest.fixture(scope="module")
def pair(bench: Workbench) -> Settings:
    """Settings of a merge of two shipped adapters, as a visitor's own pool."""
    tasks = ("movie", "trec")
    folders = {task: str(bench.root / "adapters" / "default" / task) for task in tasks}
    bench.add_pool("own-pair", "Your set 1", folders, TextsOf(tasks, ("query", "value")))
    values = {"pool": "own-pair", "method": "ties", "scaling": 0.8, "density": 0.4, "weights": [1.0, 0.6]}
    return Settings.from_dict(values | PLUGINS)


@pytest.fixture(scope="module")
def read(bench: Workbench) -> Settings:
    """Settings of a merge of the first pool; its texts have been read."""
    pool = next(iter(bench.pools))
    weights = [1.0, 0.5, 1.5, 0.0, 1.0, 2.0, 0.25, 1.25]
    values = {"pool": pool, "method": "task_arithmetic", "scaling": 0.35, "weights": weights, "k": 20}
    settings = Settings.from_dict(values | PLUGINS)
    assert list(bench.read_moments(settings))
    return settings


# -- leave one out
# ---------------------------------------------------------------------------------------------------------


def accuracies(bench: Workbench, model, merged, adapters: list[Adapter], tasks: list[EncodedTask]) -> dict[str, float]:
    """Evaluate to the end: the accuracy per task, in points."""
    heads = {adapter.task: adapter.head for adapter in adapters}
    return {step.task: 100 * step.accuracy for step in evaluate(model, bench.base()[1], merged, tasks, heads=heads)}


@pytest.mark.parametrize("part", ["adapter", "layer"])
def test_leaving_out_is_the_difference_of_two_merges_evaluated_by_hand(
    bench: Workbench, pair: Settings, part: str
) -> None:
    adapters = list(bench.adapters(pair.pool))
    tasks = [bench.encoded(pair.pool, adapter.task, "test").first(LIMIT) for adapter in adapters]
    base = bench.base()[0]
    plugins = {"orthogonalize": Orthogonalize("balanced", 0.2), "decouple": 0.5}

    def merged_by_hand(some: list[Adapter]):
        weights = [pair.spec.weights[adapters.index(adapter)] for adapter in some]
        return merge(some, "ties", weights=weights, scaling=0.8, density=0.4, **plugins)

    whole = merged_by_hand(adapters)
    before = accuracies(bench, base, whole, adapters, tasks)
    steps = list(bench.leave_out(pair, part, LIMIT))
    changes = [change for step in steps for change in step.changes]
    assert steps[-1].done == steps[-1].total
    if part == "adapter":
        after = {
            left.name: accuracies(bench, base, merged_by_hand([a for a in adapters if a is not left]), adapters, tasks)
            for left in adapters
        }
    else:
        after = {}
        for layer in ("0", "1", "2", "3", "4", "5"):
            model = working_copy(base, whole.modules)
            for module, linear in linear_layers(model, whole.modules).items():
                if f".{layer}." not in module:
                    add_update(linear, whole.result(module))
            after[layer] = accuracies(bench, model, None, adapters, tasks)
    assert [(change.left_out, change.task) for change in changes] == [
        (left, task.name) for left in after for task in tasks
    ]
    for change in changes:
        assert change.n == LIMIT
        assert change.difference == pytest.approx(after[change.left_out][change.task] - before[change.task], abs=1e-9)
    assert any(change.difference for change in changes)


@pytest.mark.slow
def test_leaving_out_of_a_merge_that_needs_texts_merges_with_those_of_the_rest(
    bench: Workbench, read: Settings
) -> None:
    settings = read.changed(method="regmean", scaling=1.0, reduction=0.9, orthogonalize="off", decouple=0.0)
    steps = bench.leave_out(settings, "adapter", 2)
    tasks = bench.tasks(read.pool)
    changes = [change for step in steps for change in step.changes][: len(tasks)]
    adapters = list(bench.adapters(read.pool))
    encoded = [bench.encoded(settings.pool, task, "test").first(2) for task in tasks]
    features = bench.texts(read.pool, read.spec.k)
    whole, rest = (
        merge(some, "regmean", weights=weights, features=features)
        for some, weights in ((adapters, read.spec.weights), (adapters[1:], read.spec.weights[1:]))
    )
    before, after = (accuracies(bench, bench.base()[0], merged, adapters, encoded) for merged in (whole, rest))
    assert [change.left_out for change in changes] == [adapters[0].name] * len(tasks)
    assert [change.difference for change in changes] == pytest.approx([after[task] - before[task] for task in tasks])


# -- diagnosis
# -------------------------------------------------------------------------------------------------------------


def tuned(read: Settings, method: str, scaling: float | None, **params) -> Settings:
    given = {} if scaling is None else {"scaling": scaling}
    return read.changed(method=method, **given | params)


def dense(update: LowRank | Tensor) -> Tensor:
    return (update.dense() if isinstance(update, LowRank) else update).double()


def direct(bench: Workbench, settings: Settings, modules: list[str]) -> pd.Series:
    """The error of the workbench's own merge, from dense matrices: adapter, module -> error."""
    merged, features = bench.merged(settings), bench.texts(settings.pool, settings.spec.k)
    found = {}
    for adapter in bench.adapters(settings.pool):
        for module in modules:
            own, S = dense(adapter.deltas[module]), features.second_moment(adapter.task, module)
            gap = dense(merged.result(module)) - own
            found[adapter.name, module] = float(torch.sqrt(torch.trace(gap @ S @ gap.T) / torch.trace(own @ S @ own.T)))
    return pd.Series(found)


def close(frame: pd.DataFrame, expected: pd.Series) -> None:
    errors = frame.set_index(["adapter", "module"]).error
    np.testing.assert_allclose(errors[expected.index], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "scaling", "linear"),
    [("task_arithmetic", 0.35, "sum"), ("do_merging", 1.2, "sum"), ("average", None, "mean")],
)
def test_the_error_at_a_scaling_is_that_of_the_workbenchs_own_merge(
    bench: Workbench, read: Settings, method: str, scaling: float | None, linear: str
) -> None:
    settings = tuned(read, method, scaling)
    found = bench.diagnosis(settings)
    assert found.linear == linear
    modules = list(found.grams.modules[::5])
    factor = 1 / sum(read.spec.weights) if scaling is None else scaling
    expected = direct(bench, settings, modules)
    close(merge_error(found.grams, settings.spec.weights, factor), expected)
    # what was measured of the merge itself says the same: a mean is at its own size, whatever λ is
    close(merge_error_at(found.grams, found.merge, 1.0 if scaling is None else scaling), expected)


def test_the_error_of_a_merge_that_is_not_linear_follows_lambda(bench: Workbench, read: Settings) -> None:
    settings = tuned(read, "ties", 0.9, density=0.3)
    found = bench.diagnosis(settings)
    assert found.linear == ""
    modules = list(found.grams.modules[::5])
    close(merge_error_at(found.grams, found.merge, 0.9), direct(bench, settings, modules))
    close(merge_error_at(found.grams, found.merge, 0.4), direct(bench, tuned(read, "ties", 0.4, density=0.3), modules))


def arrays(found: Diagnosis) -> list[np.ndarray]:
    """Everything of a diagnosis that the browser scales by λ."""
    grams, merged = found.grams, found.merge
    return [
        grams.data,
        grams.data_across,
        grams.data_own,
        merged.data,
        merged.data_across,
        *found.separated,
        found.lost,
    ]


def test_a_diagnosis_does_not_depend_on_lambda(bench: Workbench, read: Settings) -> None:
    one, other = (bench.diagnosis(tuned(read, "ties", scaling, density=0.3)) for scaling in (0.2, 1.7))
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_needs_texts_that_nobody_has_read_says_so_and_the_rest_does_without(
    bench: Workbench, read: Settings
) -> None:
    unread = read.changed(k=145)  # the 100 texts that are read for k = 20 do not hold it
    found = bench.diagnosis(unread)
    assert found.grams.data is None
    assert found.merge.data is None
    assert not bench.texts_read(unread)
    for settings in (unread.changed(mu=0.3), tuned(unread, "regmean", 0.5)):
        with pytest.raises(MergeError, match="nobody has read"):
            bench.diagnosis(settings)


def test_a_diagnosis_of_a_visitors_own_pool_is_of_its_own_adapters(bench: Workbench, pair: Settings) -> None:
    assert list(bench.read_moments(pair.changed(k=10)))
    found = bench.diagnosis(pair.changed(k=10))
    assert found.grams.adapters == ("movie", "trec")
    assert found.grams.base.shape == (len(found.grams.modules), 2)
    assert (found.grams.base > 0).all()
    assert not list(bench.read_moments(pair.changed(k=10)))
