"""A search measures what `evaluate` measures, repeats from its seed, keeps its limits, and is shared by processes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import (
    HIDDEN,
    gaussian,
    made_up_task,
    one_sentence,
    random_adapter,
    task_features,
    tiny_model,
    tiny_tokenizer,
)

from merging import Adapter, MergeError, evaluate
from merging.adapters.head import Head
from merging.engine import merge_spec
from merging.evaluation.accuracy import EncodedTask, encode_task, hits, predictions
from merging.recipes.spec import MergeSpec
from merging.tuning import search as tuning
from merging.tuning.goal import Goal
from merging.tuning.search import Search
from merging.tuning.space import GROUPS, Space

ROWS = 40


def adapters() -> list[Adapter]:
    made = []
    for seed, name in enumerate(("cats", "dogs")):
        head = Head("pooled", {"weight": gaussian(seed, 2, HIDDEN).float(), "bias": torch.zeros(2)})
        made.append(replace(random_adapter(seed, scale=0.1), name=name, task=name, head=head))
    return made


def tasks() -> list[EncodedTask]:
    made = [made_up_task(name, 4 * ROWS, seed=seed) for seed, name in enumerate(("cats", "dogs"))]
    return [encode_task(tiny_tokenizer(), task, "train", ROWS) for task in made]


def search(space: Space | None = None, goal: Goal | None = None, **options) -> Search:
    rows = tasks()
    chosen = goal or Goal.of("average", [task.name for task in rows])
    return Search(tiny_model(), tiny_tokenizer(), adapters(), rows, space or Space(), chosen, **options)


def test_what_is_measured_is_what_evaluate_says_and_the_best_is_the_best() -> None:
    one = search()
    found = [*one.run(trials=20)]
    assert [c.number for c in found] == [*range(20)]
    for c in found:
        assert c.spec is not None
        last = {e.task: e for e in evaluate(one.model, one.tokenizer, merge_spec(one.adapters, c.spec), one.tasks)}
        if c.state == "measured":
            assert c.average == pytest.approx(sum(e.accuracy for e in last.values()) / 2)
            assert (c.rows, c.worst) == (2 * ROWS, min(e.accuracy for e in last.values()))
    whole = [c for c in found if c.state == "measured"]
    assert one.best == max(whole, key=lambda c: (c.value, -c.number))
    table = one.table()
    assert table.trial.iloc[0] == one.best.number
    assert sorted(table.trial) == [*range(20)]
    front = table[table.pareto]
    for a, b in itertools.permutations(front.itertuples(), 2):
        assert not (a.average >= b.average and a.worst >= b.worst and (a.average, a.worst) != (b.average, b.worst))


def test_a_seed_repeats_the_search_and_another_seed_does_not() -> None:
    first, again, other = ([c.spec for c in search(seed=seed).run(trials=24)] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_what_was_measured_is_not_measured_again(monkeypatch) -> None:
    start = MergeSpec.of("task_arithmetic", {"scaling": 0.5})
    one = search(Space(frozenset({"params"}), start))
    for _ in range(2):
        one.study.enqueue_trial(one.study.get_trials()[0].system_attrs["fixed_params"], skip_if_exists=False)
    [first] = one.run(trials=1)
    monkeypatch.setattr(one, "subject", None)
    [again] = one.run(trials=2)
    assert (again.spec, again.value, again.state, again.rows) == (first.spec, first.value, "measured", first.rows)


def test_a_search_begins_with_what_was_tuned_and_tries_every_method() -> None:
    space = Space(start=MergeSpec.of("ties", {"scaling": 0.7, "density": 0.3}))
    tuned = [
        MergeSpec.of("task_arithmetic", {"scaling": 0.35}, orthogonalize="balanced"),
        MergeSpec.of("tsv", {"scaling": 0.55}),
        MergeSpec.of("task_arithmetic", {"scaling": 0.2}, soft_osrm=0.3),  # reads texts
        MergeSpec.of("emr"),  # is told the task
    ]
    params = [*space.starts(2, tuned)]
    specs = [c.spec for c in search(space, tuned=tuned).run(trials=len(params))]
    assert [spec.canonical() for spec in specs[:3]] == [spec.canonical() for spec in (space.start, *tuned[:2])]
    assert sorted({spec.method for spec in specs}) == sorted(space.allowed)
    assert len({*map(str, params)}) == len(params) == len(space.allowed)


@pytest.mark.parametrize("group", GROUPS)
def test_only_what_may_vary_varies(group: str) -> None:
    start = MergeSpec.of("task_arithmetic", {"scaling": 0.4}, decouple=0.5, weights=[1.0, 0.5])
    specs = [c.spec for c in search(Space(frozenset({group}), start)).run(trials=16)]
    assert len({*specs}) > 1
    for spec in specs:
        assert group == "method" or spec.method == start.method
        assert group in ("method", "params") or spec.params == start.params
        assert group == "plugins" or (spec.decouple == start.decouple) or spec.method != start.method
        assert group == "weights" or spec.weights == start.weights


def test_constraints_hold() -> None:
    for spec in (c.spec for c in search(seed=1).run(trials=30)):
        assert not spec.needs_data
        assert spec.method != "emr"
    limited = search(Space(rank=2, task_identity=True))
    assert "emr" not in limited.space.allowed
    [*_, last] = limited.run(trials=3)
    subject = limited.subject(last.spec)
    assert isinstance(subject, Adapter)
    assert max(update.rank for update in subject.deltas.values()) <= 2
    ranked = [c.spec for c in search(Space(rank=2, methods=("svd", "ctm"))).run(trials=6)]
    assert {(spec.method, spec.values["rank"]) for spec in ranked} == {("svd", 2), ("ctm", 2)}
    with_texts = search(
        Space(texts=True, methods=("task_arithmetic", "regmean")), features=task_features(tiny_model(), 2), seed=2
    )
    assert {"regmean"} < {*with_texts.space.allowed}
    for changes in ({"groups": frozenset({"rank"})}, {"methods": ("magic",)}, {"methods": ("emr",)}):
        with pytest.raises(MergeError) as refused:
            Space(**changes)
        assert one_sentence(refused.value)


def test_what_cannot_win_is_stopped_early(monkeypatch) -> None:
    monkeypatch.setattr("merging.evaluation.accuracy.BATCH", 8)  # several looks at so few rows
    start = MergeSpec.of("task_arithmetic", {"scaling": 2.0})
    one = search(Space(frozenset({"params", "plugins"}), start))
    right = predictions(hits(one.model, one.tokenizer, merge_spec(one.adapters, start), one.tasks, heads=one.heads))
    one.tasks = [replace(task, labels=right[task.name]) for task in one.tasks]  # what the first candidate answers
    first, *others = one.run(trials=14)
    assert (first.state, first.average) == ("measured", 1.0)
    stopped = [c for c in others if c.state == "stopped"]
    assert stopped
    for c in others:
        assert (c.rows < 2 * ROWS) == (c in stopped)


def test_a_search_ends_when_it_is_told() -> None:
    one = search()
    with pytest.raises(MergeError, match="end"):
        next(one.run())
    assert len([*one.run(seconds=0.0)]) == 0
    calls = itertools.count()
    assert [*one.run(trials=50, stop=lambda: next(calls) > 2)] == []
    assert len([*one.run(trials=3)]) == 3


def test_a_stored_study_goes_on_and_is_of_one_question(tmp_path: Path) -> None:
    for place in (str(tmp_path / "study.db"), str(tmp_path / "study.log")):
        first = [*search(storage=place).run(trials=5)]
        again = search(storage=place)
        assert len(again.table()) == 5
        assert [c.number for c in again.run(trials=8)] == [5, 6, 7]
        assert len(first) == 5
        with pytest.raises(MergeError) as refused:
            search(storage=place, goal=Goal("worst"))
        assert one_sentence(refused.value)


WORKER = """
import sys
sys.path[:0] = {paths!r}
import test_search
from merging.tuning import search as tuning
tuning.HEARTBEAT = 1
one = test_search.search(storage={place!r}, seed=5)
if {hang}:
    import sqlite3, time
    def hung(spec):
        signs = "select count(*) from trial_heartbeats"  # without one, nobody could notice that it is gone
        while not sqlite3.connect({place!r}).execute(signs).fetchone()[0]:
            time.sleep(0.05)
        print("hanging", flush=True)
        time.sleep(600)
    one.subject = hung
print([c.number for c in one.run(trials={trials})])
"""


def worker(place: str, trials: int, hang: bool = False) -> subprocess.Popen[str]:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]
    code = WORKER.format(paths=paths, place=place, trials=trials, hang=hang)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_share_a_study_and_a_killed_one_loses_nothing(tmp_path: Path, monkeypatch) -> None:
    place = str(tmp_path / "study.db")
    killed = worker(place, 50, hang=True)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "hanging\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    time.sleep(3)  # longer than two heartbeats of a second
    both = [worker(place, 14) for _ in range(2)]
    assert [process.wait(timeout=250) for process in both] == [0, 0]
    monkeypatch.setattr(tuning, "HEARTBEAT", 1)
    study = search(storage=place, seed=5).study
    states = [trial.state.name for trial in study.trials]
    assert states[0] == "FAIL"
    whole = [trial for trial in study.trials if trial.state.name != "FAIL"]
    assert len(whole) >= 14
    assert any(trial.params == study.trials[0].params for trial in whole)
    queued = [str(trial.system_attrs["fixed_params"]) for trial in whole if "fixed_params" in trial.system_attrs]
    assert len(set(queued)) == len(queued) >= 13


def test_a_trial_repeats_its_merge_bit_for_bit() -> None:
    one = search(seed=7)
    [*_, last] = one.run(trials=15)
    mine = merge_spec(adapters(), last.spec)
    again = merge_spec(adapters(), MergeSpec.from_dict(last.spec.to_dict()))
    assert all(torch.equal(mine.delta(module), again.delta(module)) for module in mine.modules)
