"""The workbench: features are read once, step by step, and an evaluation merged step by step gives the usual
numbers."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from merging.cli.recipes import features_of
from merging.errors import MergeError
from merging.evaluation.accuracy import Estimate, estimate, evaluate
from merging.experiments.sweep import ALONE, BASE, CONTENDERS, append, as_rows, read_table
from merging.features.progress import Progress
from merging.features.store import TextsOf
from merging.methods import METHODS
from merging.models.layers import working_copy
from merging.services.remembered import Remembered
from merging.services.settings import Settings
from merging.services.workbench import Workbench
from merging.shipped import POOLS
from viz.panels.merge.controls import opening


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
    settings = start.changed(
        **bench.defaults(start.pool, method).to_dict() | {"orthogonalize": "off", "decouple": 0.0, "weights": []}
    )
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
    soft = bench.update(start.changed(mu=0.3))
    assert soft.magnitude is None
    assert "soft_osrm" in soft.recipe_yaml
    assert before.magnitude is not None
    assert {step.what for step in bench.read(start)} <= {"loading"}
    assert list(bench.read(start)) == []
    reading = bench.read(start.changed(mu=0.3))
    first = next(reading)
    reading.close()
    assert first.what == "reading"
    assert 0 < first.done < first.total
    assert bench.update(start.changed(mu=0.3)).magnitude is None


def test_tables_are_read_once(bench: Workbench, start: Settings) -> None:
    assert bench.sweep(start.pool) is bench.sweep(start.pool)
    assert bench.defaults(start.pool, "ties") is bench.defaults(start.pool, "ties")


def test_a_visitors_own_set_is_a_pool_like_any_other(bench: Workbench, start: Settings) -> None:
    tasks = ("movie", "sms_spam")
    folders = {task: str(bench.root / "adapters" / "default" / task) for task in tasks}
    bench.add_pool("own-1", "Your set 1", folders, TextsOf(tasks, ("query", "value")))
    settings = start.changed(pool="own-1", weights=(1.0, 1.0), orthogonalize="off", decouple=0.0)
    assert bench.tasks("own-1") == list(tasks)
    assert list(bench.references("own-1").single) == list(
        bench.references("default").set_index("task").single[list(tasks)]
    )
    assert bench.sweep("own-1").empty
    assert bench.defaults("own-1", "ties").scaling == 0.5
    assert bench.update(settings).magnitude is not None
    last = list(bench.evaluate(settings, 8))[-1]
    assert last.done == last.total == 8
    assert "own-1" not in bench.pools
    reading = bench.read(settings.changed(mu=0.3, k=20))
    step = next(reading)
    reading.close()
    assert (step.what, step.total) == ("reading", 200)


def test_adapters_without_tasks_are_merged_but_not_measured(bench: Workbench, start: Settings) -> None:
    folders = {f"mine {task}": str(bench.root / "adapters" / "default" / task) for task in ("movie", "trec")}
    bench.add_pool("own-3", "Your adapters", folders, TextsOf(tuple(folders), ("query", "value")), measured=False)
    settings = start.changed(pool="own-3", weights=(1.0, 1.0), orthogonalize="off", decouple=0.0)
    assert [bench.title(task) for task in bench.tasks("own-3")] == ["mine movie", "mine trec"]
    assert bench.references("own-3")[["base", "single"]].isna().all(axis=None)
    assert bench.update(settings).magnitude is not None
    assert len(bench.merged(settings).modules) == len(bench.modules(start.pool))
    assert list(bench.read_moments(settings)) == []
    assert bench.diagnosis(settings).grams.data is None
    for asked in (
        lambda: bench.evaluate(settings, 8),
        lambda: bench.read(settings.changed(mu=0.3)),
        lambda: bench.read(settings.changed(method="regmean")),
    ):
        with pytest.raises(MergeError, match="opened without tasks"):
            next(asked())


def test_every_pool_has_a_base(bench: Workbench, start: Settings) -> None:
    assert {bench.base_of(pool) for pool in bench.pools if pool in POOLS} == {("minilm", "float32")}
    assert bench.base_of("smollm2") == ("smollm2", "float32")
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
    settings = start.changed(pool="own-6", weights=(1.0, 1.0))
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
        replace(adapter, deltas={module: adapter.deltas[module] for module in modules})
        for adapter in bench.adapters("own-5")
    ]
    there, here = features_of(adapters, None, k), bench.texts("own-5", k)
    assert here.modules == there.modules == modules
    for task in folders:
        for module in modules:
            assert torch.equal(here.second_moment(task, module), there.second_moment(task, module))


# -- accuracies that ship
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [50, 130, 200])
@pytest.mark.parametrize("method", ["do_merging", "task_arithmetic"])
def test_the_opening_has_the_very_marks_of_the_shipped_table(bench: Workbench, method: str, limit: int) -> None:
    table = read_table(bench.root / "tables" / "test_papers.csv")
    table = table[(table.method == method) & (table.scaling == 1)].set_index("task")
    found = bench.shipped(opening(bench, METHODS, method), limit)
    assert [one.task for one in found] == bench.tasks("papers")
    for one in found:
        row = table.loc[one.task]
        marks = bin(int(f"1{row.hits}", 16))[3:][: row.total]  # the 1 in front keeps zeros
        assert marks.count("1") == row.correct
        assert one.marks == marks[:limit]
        assert one.done == one.total == min(limit, row.total)
        assert one.accuracy == pytest.approx(one.marks.count("1") / one.total)


MEASURED = ("do_merging", "task_arithmetic", "orthogonalize", "decouple", "soft_osrm", "ties", "regmean", "average")


@pytest.fixture(scope="module")
def measured(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """Return a workbench on the same adapters whose table has made-up marks, others for each method, at λ = 1 and 60
    rows.
    """
    root, draw = tmp_path_factory.mktemp("assets"), np.random.default_rng(0)
    (root / "adapters").symlink_to(bench.root / "adapters")
    for name in (BASE, ALONE, *MEASURED):
        marks = {task: "".join(draw.choice(["0", "1"], 60)) for task in bench.tasks("papers")}
        append(root / "tables" / "test_papers.csv", as_rows(marks, name, 0.0 if name in (BASE, ALONE) else 1.0))
    return Workbench(root)


def contender(bench: Workbench, name: str) -> Settings:
    """Return the settings of what a table's row was measured with: λ = 1 and the defaults of everything else."""
    spec = CONTENDERS[name].spec(1.0)
    return Settings("papers", replace(spec, weights=(1.0,) * len(bench.tasks("papers"))))


@pytest.mark.parametrize("name", MEASURED)
def test_a_merge_that_ships_has_its_own_marks_and_no_others(measured: Workbench, name: str) -> None:
    table = read_table(measured.tables / "test_papers.csv")
    expected = table[table.method == name].set_index("task").hits
    found = measured.shipped(contender(measured, name), 60)
    assert {one.task: f"{int(one.marks, 2):015x}" for one in found} == expected.to_dict()
    assert measured.shipped(contender(measured, name), 61) == []


def test_what_one_visitor_has_measured_is_known_to_all(bench: Workbench) -> None:
    settings = contender(bench, "task_arithmetic").changed(scaling=0.37)
    stream = bench.remembering(lambda values, limit: bench.evaluate(Settings.from_dict(values), limit))
    stopped = stream(settings.to_dict(), 50)
    assert any(isinstance(step, Estimate) for step in islice(stopped, 200))
    stopped.close()  # type: ignore[attr-defined]
    assert bench.known(settings, 50) == []
    last = {step.task: step for step in stream(settings.to_dict(), 50) if isinstance(step, Estimate)}
    assert {one.task: one for one in bench.known(settings, 50)} == last
    assert [one.marks for one in bench.known(settings, 20)] == [last[task].marks[:20] for task in last]
    assert bench.known(settings, 51) == []
    assert bench.known(settings.changed(seed=1, k=30), 50)  # changes nothing of this merge
    assert bench.known(settings.changed(scaling=0.38), 50) == []
    assert bench.known(replace(settings, pool="osrm"), 50) == []


def test_what_is_of_one_visitor_is_not_remembered(bench: Workbench) -> None:
    own = Settings("guest1-pool1", contender(bench, "average").spec)
    estimates = [estimate("trec", "10"), estimate("movie", "01")]
    assert [*bench.remembering(lambda values, limit: iter_of(estimates))(own.to_dict(), 50)] == estimates
    assert bench.remembered.of(own, 50) == []


def test_remembered_accuracies_are_bounded_and_the_longest_unused_go(bench: Workbench) -> None:
    some = [contender(bench, "task_arithmetic").changed(scaling=scaling) for scaling in (0.1, 0.2, 0.3)]
    remembered = Remembered(largest=10)
    for settings in some[:2]:
        remembered.take(settings, 5, [estimate("trec", "10101")])
    assert remembered.of(some[0], 5)
    remembered.take(some[2], 4, [estimate("trec", "1010")])
    assert [bool(remembered.of(settings, 4)) for settings in some] == [True, False, True]
    remembered.take(some[0], 3, [estimate("trec", "101")])  # fewer rows than are known
    assert remembered.of(some[0], 5)
    remembered.take(some[1], 5, [estimate("trec", "1010.")])  # not come to its end
    assert remembered.of(some[1], 5) == []


def iter_of(steps: list[Estimate]) -> Iterator[Progress | Estimate]:
    yield from steps


FEWER = (1.0, 0.5, *(1.0,) * 6)
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a granularity": ("do_merging", {"granularity": "module"}),
    "a limit of decouple": ("decouple", {"max_up": 2.0}),
    "a norm cap": ("task_arithmetic", {"norm_cap": 3.0}),
    "Pico": ("task_arithmetic", {"pico": True}),
    "renormalised": ("do_merging", {"renormalise": True}),
    "another strength": ("do_merging", {"decouple": 0.5}),
    "no decouple": ("do_merging", {"decouple": 0.0}),
    "another mode": ("do_merging", {"orthogonalize": "raw", "penalty": 1.0}),
    "another penalty": ("do_merging", {"penalty": 0.2}),
    "another mu": ("soft_osrm", {"mu": 0.2}),
    "weights": ("do_merging", {"weights": FEWER}),
    "weights of a mean": ("average", {"weights": FEWER}),
    "all weights one half": ("do_merging", {"weights": (0.5,) * 8}),
    "k of soft OSRM": ("soft_osrm", {"k": 30}),
    "k of RegMean": ("regmean", {"k": 600}),
    "another scaling": ("do_merging", {"scaling": 0.975}),
    "another pool": ("do_merging", {"pool": "osrm"}),
    "a method that was not measured": ("task_arithmetic", {"method": "svd", "scaling": 1.0, "rank": 8}),
}


@pytest.mark.parametrize(("name", "changes"), OTHERS.values(), ids=OTHERS)
def test_no_other_merge_is_given_a_shipped_accuracy(measured: Workbench, name: str, changes: dict[str, Any]) -> None:
    settings = contender(measured, name)
    assert measured.shipped(settings, 50)
    assert measured.shipped(settings.changed(**changes), 50) == []


@pytest.mark.parametrize("changes", [{"density": 0.3}, {"trim": "model"}, {"election": "weighted"}])
def test_no_other_parameter_is_given_a_shipped_accuracy(measured: Workbench, changes: dict[str, Any]) -> None:
    settings = contender(measured, "ties")
    assert dict(settings.spec.params).keys() >= changes.keys()
    assert measured.shipped(settings.changed(**changes), 50) == []


def test_what_does_not_change_the_merge_keeps_its_shipped_accuracy(measured: Workbench) -> None:
    settings = contender(measured, "task_arithmetic")
    assert (
        measured.shipped(settings.changed(granularity="module", k=30, seed=1), 50)
        == measured.shipped(settings, 50)
        != []
    )


def test_a_table_that_lacks_a_task_gives_nothing(measured: Workbench, bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "adapters").symlink_to(bench.root / "adapters")
    table = read_table(measured.tables / "test_papers.csv")
    append(
        tmp_path / "tables" / "test_papers.csv", pd.DataFrame(table[(table.method == BASE) | (table.task != "movie")])
    )
    found = Workbench(tmp_path)
    assert found.shipped(contender(found, "do_merging"), 50) == []
