"""The lab's services: subspaces that answer to k, trainings that keep what is done, sentences for what cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import HIDDEN, made_up_task, state, tiny_model, tiny_tokenizer, unchanged

from merging import Adapter, LowRank, MergeError
from merging.osrm import random_orthonormal
from merging.services.lab import Lab
from merging.services.plan import Plan

MODULE = "encoder.layer.0.attention.self.query"


def made_lab() -> Lab:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    found = Lab(lambda source, dtype: (model, tokenizer))
    for i, name in enumerate(("one", "two", "three")):
        found.add(made_up_task(name, rows=60, seed=i), "me")
    return found


@pytest.fixture
def lab() -> Lab:
    return made_lab()


PLAN = Plan(("me-one", "me-two", "me-three"), k=10, rank=3, epochs=1, rows=30)


def test_own_tasks_are_seen_by_their_owner_only(lab: Lab) -> None:
    assert {"me-one", "trec"} <= set(lab.titles("me"))
    assert not any(name.startswith("me-") for name in (*lab.titles(), *lab.titles("you")))


def test_the_chosen_directions_have_least_energy_and_are_seen_least(lab: Lab) -> None:
    view = lab.subspace(PLAN, "me-one", MODULE)
    assert view.spectrum.eigenvalue.is_monotonic_increasing
    assert view.spectrum.chosen.tolist() == [True] * 3 + [False] * (HIDDEN - 3)
    assert view.seen.task.tolist() == list(PLAN.tasks)
    assert view.seen.own.tolist() == [True, False, False]
    others = view.seen[~view.seen.own]
    assert (others.share < 0.5 * others.random).all()
    assert view.texts == dict.fromkeys(PLAN.tasks, 10)


def test_a_random_start_is_seen_about_as_much_as_chance(lab: Lab) -> None:
    view = lab.subspace(replace(PLAN, variant="orthonormal_own"), "me-one", MODULE)
    assert not view.spectrum.chosen.any()
    assert view.change is None
    assert view.seen.share.mean() > 3 * lab.subspace(PLAN, "me-one", MODULE).seen.share.mean()


def test_another_k_is_another_subspace_and_all_texts_change_nothing(lab: Lab) -> None:
    few, most = (lab.subspace(replace(PLAN, k=k), "me-one", MODULE).change for k in (2, 10_000))
    assert few > 0.05
    assert most == pytest.approx(0.0, abs=1e-6)
    assert lab.subspace(replace(PLAN, k=10_000), "me-one", MODULE).texts["me-one"] < 10_000


def test_the_released_variant_is_not_unique(lab: Lab) -> None:
    view = lab.subspace(replace(PLAN, variant="osrm_official"), "me-one", MODULE)
    assert not view.unique
    assert view.null_dimension > PLAN.rank


def test_reading_can_be_stopped_and_keeps_nothing(lab: Lab) -> None:
    reading = lab.reading(PLAN)
    done, total = next(reading)
    assert 0 < done <= total
    reading.close()
    assert not lab.ready(PLAN)
    assert [*lab.reading(PLAN)]
    assert lab.ready(PLAN)
    assert [*lab.reading(PLAN)] == []


@pytest.mark.parametrize("variant", ["gaussian_shared", "osrm_scaled", "osrm_official"])
def test_every_task_of_a_plan_gets_an_adapter_that_loads_and_can_be_merged(
    variant: str, lab: Lab, tmp_path: Path
) -> None:
    model, _ = lab.base("minilm", "float32")
    before = state(model)
    events = [*lab.train(replace(PLAN, variant=variant), tmp_path, test_rows=10)]
    assert unchanged(model, before)
    folders = {event.task: event.folder for event in events if event.folder}
    assert list(folders) == list(PLAN.tasks)
    for task, folder in folders.items():
        adapter = Adapter.load(folder)
        assert adapter.task == task
        assert adapter.metadata.variant == variant
        assert set(adapter.metadata.test_accuracy) == {"adapter", "base"}
    *_, last = lab.merged_accuracy(folders, 0.5, rows=10)
    assert last[4] == last[5]


def test_a_stopped_training_keeps_what_is_done(lab: Lab, tmp_path: Path) -> None:
    seen = []
    for event in lab.train(replace(PLAN, epochs=50), tmp_path, test_rows=10, stop=lambda: len(seen) >= 3):
        seen.append(event)
    assert seen[-1].folder is not None
    assert [path.name for path in tmp_path.iterdir()] == ["me-one"]
    assert Adapter.load(tmp_path / "me-one").metadata.steps.done < seen[-1].steps


KILLED = """
import os, signal, sys
from pathlib import Path
import test_lab
for event in test_lab.made_lab().train(test_lab.PLAN, Path(sys.argv[1]), test_rows=10):
    if event.task == "me-two":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_training_leaves_whole_adapters_and_can_be_made_again(lab: Lab, tmp_path: Path) -> None:
    root = tmp_path / "training"
    paths = os.pathsep.join(str(Path(__file__).parents[above]) for above in (0, 1, 3))
    program = [sys.executable, "-c", KILLED, str(root)]
    done = subprocess.run(program, check=False, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in root.iterdir()] == ["me-one"]
    assert Adapter.load(root / "me-one").head is not None
    again = [event.folder for event in lab.train(PLAN, root, test_rows=10) if event.folder is not None]
    assert sorted(again) == sorted(str(path) for path in root.iterdir())


def test_what_the_post_hoc_variant_would_leave_of_a_trained_adapter(lab: Lab) -> None:
    assert lab.subspace(PLAN, "me-one", MODULE).erased is None
    A = lab._start(PLAN, lab.features(PLAN), "me-one", MODULE)[0]
    elsewhere = random_orthonormal(3, HIDDEN, torch.Generator().manual_seed(0))
    for rows, low, high in ((A, 1 - 1e-5, 1 + 1e-5), (elsewhere, 0.0, 0.5)):
        adapter = Adapter("a", {MODULE: LowRank(torch.randn(HIDDEN, 3), rows)}, task="me-one")
        lab.trained = {"me-one": adapter}.get
        assert low <= lab.subspace(PLAN, "me-one", MODULE).erased <= high
    assert lab.subspace(PLAN, "me-two", MODULE).erased is None
    assert lab.subspace(replace(PLAN, variant="default_own"), "me-one", MODULE).erased is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": ()}, "at least one"),
        ({"tasks": ("me-one",)}, "two tasks"),
        ({"tasks": ("me-one", "me-one")}, "twice"),
        ({"tasks": ("me-one", "nothing")}, "nothing"),
        ({"rank": HIDDEN + 1}, "width"),
        ({"rank": 0}, "width"),
        ({"k": 0}, "start at 1"),
        ({"learning_rate": 0.0}, "learning rate"),
        ({"variant": "magic"}, "magic"),
        ({"modules": ("nowhere",)}, "nowhere"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_before_anything_is_written(
    change: dict, words: str, lab: Lab, tmp_path: Path
) -> None:
    with pytest.raises(MergeError, match=words):
        [*lab.train(replace(PLAN, **change), tmp_path)]
    assert list(tmp_path.iterdir()) == []
