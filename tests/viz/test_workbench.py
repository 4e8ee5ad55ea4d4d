"""The workbench: features are read once, step by step, and an evaluation merged step by step gives the usual numbers."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from merging.cli_recipe import features_of
from merging.errors import MergeError
from merging.evaluation import evaluate
from merging.feature_store import TextsOf
from merging.methods import METHODS
from merging.models import working_copy
from merging.pools import POOLS
from merging.reading import Progress
from merging.workbench import Settings, Workbench
from viz.panels.controls import opening


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


@pytest.fixture(scope="module")
def start(bench: Workbench) -> Settings:
    return opening(bench, METHODS)


@pytest.mark.parametrize("method", ["do_merging", "ties", "emr"])
def test_merging_step_by_step_gives_the_numbers_of_a_merge_applied_at_once(
    bench: Workbench, start: Settings, method: str
) -> None:
    params = tuple(bench.defaults(start.pool, method)["params"].items())
    settings = replace(start, method=method, params=params, orthogonalize="off", decouple=0.0)
    steps = [step for step in bench.evaluate(settings, 8) if getattr(step, "what", "") != "loading"]
    progress = [step for step in steps if isinstance(step, Progress)]
    merged = bench.merged(settings)
    tasks = [bench.encoded(settings.pool, task, "test").first(8) for task in bench.tasks(settings.pool)]
    model, tokenizer = bench.base()
    assert steps[len(progress) :] == list(evaluate(working_copy(model, merged.modules), tokenizer, merged, tasks))
    total = len(merged.modules)
    assert progress == [Progress("merging", done, total) for done in range(1 if method == "emr" else total + 1)]


def test_a_look_at_a_merge_reads_no_text(bench: Workbench, start: Settings) -> None:
    before = bench.update(start)
    soft = bench.update(replace(start, mu=0.3))
    assert soft.magnitude is None
    assert "soft_osrm" in soft.recipe_yaml
    assert before.magnitude is not None
    assert {step.what for step in bench.read(start)} <= {"loading"}
    assert list(bench.read(start)) == []
    reading = bench.read(replace(start, mu=0.3))
    first = next(reading)
    reading.close()
    assert first.what == "reading"
    assert 0 < first.done < first.total
    assert bench.update(replace(start, mu=0.3)).magnitude is None


def test_tables_are_read_once(bench: Workbench, start: Settings) -> None:
    assert bench.sweep(start.pool) is bench.sweep(start.pool)
    assert bench.defaults(start.pool, "ties") is bench.defaults(start.pool, "ties")
    assert bench.penalty("raw") == 1.0


def test_a_visitors_own_set_is_a_pool_like_any_other(bench: Workbench, start: Settings) -> None:
    tasks = ("movie", "sms_spam")
    folders = {task: str(bench.root / "adapters" / "default" / task) for task in tasks}
    bench.add_pool("own-1", "Your set 1", folders, TextsOf(tasks, ("query", "value")))
    settings = replace(start, pool="own-1", weights=(1.0, 1.0), orthogonalize="off", decouple=0.0)
    assert bench.tasks("own-1") == list(tasks)
    assert list(bench.references("own-1").single) == list(bench.references(start.pool).set_index("task").single[list(tasks)])
    assert bench.sweep("own-1").empty
    assert bench.defaults("own-1", "ties")["params"]["scaling"] == 0.5
    assert bench.update(settings).magnitude is not None
    last = list(bench.evaluate(settings, 8))[-1]
    assert last.done == last.total == 8
    assert "own-1" not in bench.pools
    reading = bench.read(replace(settings, mu=0.3, k=20))
    step = next(reading)
    reading.close()
    assert (step.what, step.total) == ("reading", 200)


def test_adapters_without_tasks_are_merged_but_not_measured(bench: Workbench, start: Settings) -> None:
    folders = {f"mine {task}": str(bench.root / "adapters" / "default" / task) for task in ("movie", "trec")}
    bench.add_pool("own-3", "Your adapters", folders, TextsOf(tuple(folders), ("query", "value")), measured=False)
    settings = replace(start, pool="own-3", weights=(1.0, 1.0), orthogonalize="off", decouple=0.0)
    assert [bench.title(task) for task in bench.tasks("own-3")] == ["mine movie", "mine trec"]
    assert bench.references("own-3")[["base", "single"]].isna().all(axis=None)
    assert bench.update(settings).magnitude is not None
    assert len(bench.merged(settings).modules) == len(bench.modules(start.pool))
    assert list(bench.read_moments(settings)) == []
    assert bench.diagnosis(settings).grams.data is None
    for asked in (
        lambda: bench.evaluate(settings, 8),
        lambda: bench.read(replace(settings, mu=0.3)),
        lambda: bench.read(replace(settings, method="regmean")),
    ):
        with pytest.raises(MergeError, match="opened without tasks"):
            next(asked())


def test_every_pool_has_a_base(bench: Workbench, start: Settings) -> None:
    assert {bench.base_of(pool) for pool in POOLS} == {("minilm", "float32")}
    bench.add_pool("own-4", "Yours", {}, TextsOf(("movie",), ("query", "value"), "smollm2", "bfloat16"))
    assert bench.base_of("own-4") == ("smollm2", "bfloat16")
    assert bench.base_title(start.pool) == "all-MiniLM-L6-v2"


def test_a_set_that_is_no_longer_kept_says_so(bench: Workbench) -> None:
    bench.add_pool("own-2", "Your set 2", {}, TextsOf(("movie",), ("query", "value")))
    bench.remove_pool("own-2")
    with pytest.raises(MergeError, match="no longer kept"):
        bench.tasks("own-2")


def test_a_pool_that_is_removed_frees_all_that_was_computed_of_it(bench: Workbench, start: Settings) -> None:
    tasks = ("movie", "sms_spam")
    folders = {task: str(bench.root / "adapters" / "papers" / task) for task in tasks}
    bench.add_pool("own-6", "Yours", folders, TextsOf(tasks, ("query", "value")))
    settings = replace(start, pool="own-6", weights=(1.0, 1.0))
    bench.update(settings)
    bench.references("own-6")
    bench.overlaps("own-6", "A")
    held = [weakref.ref(adapter) for adapter in bench.adapters("own-6")]
    bench.remove_pool("own-6")
    gc.collect()
    assert [ref() for ref in held] == [None, None]
    with pytest.raises(MergeError, match="no longer kept"):
        bench.adapters("own-6")


@pytest.mark.parametrize("k", [30, 100])
def test_the_command_line_reads_the_very_features_of_the_app(bench: Workbench, start: Settings, k: int) -> None:
    folders = {task: str(bench.root / "adapters" / "default" / task) for task in ("sms_spam", "movie")}
    modules = ("encoder.layer.0.attention.self.query", "encoder.layer.1.attention.self.value")
    bench.add_pool("own-5", "Yours", folders, TextsOf(tuple(folders), modules))
    adapters = [
        replace(adapter, deltas={module: adapter.deltas[module] for module in modules}) for adapter in bench.adapters("own-5")
    ]
    there, here = features_of(adapters, None, k), bench.texts("own-5", k)
    assert here.modules == there.modules == modules
    for task in folders:
        for module in modules:
            assert torch.equal(here.second_moment(task, module), there.second_moment(task, module))
