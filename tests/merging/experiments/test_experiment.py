"""The OSRM experiment runs from end to end in little, resumes, shares its work, and says what changed between two
starts of A.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from builders import tiny_model, tiny_tokenizer
from commands import Done, command

from merging import MergeError
from merging.experiments.ledger import Ledger
from merging.experiments.osrm import OsrmExperiment
from merging.experiments.osrm_plan import QUICK, AdapterSet, Experiment
from merging.experiments.osrm_summary import DATA, EFFECTS, STEPS, answer, summarise
from merging.experiments.sweep import pack
from merging.experiments.tables import markdown_osrm
from merging.training.variants import VARIANTS

TABLES = ("runs", "interference", "sweep", "test", "summary", "effects", "answers")


def quick(folder: Path) -> Done:
    return command("experiment", "osrm", "--quick", "--adapters", folder, "-o", folder / "tables")


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(folder / "tables" / f"osrm_{name}.csv", dtype={"hits": str}) for name in TABLES}


def adapters(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.glob("*/0/*/adapter_model.safetensors"))}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_experiment_writes_every_table_and_does_nothing_twice(tmp_path: Path) -> None:
    done = quick(tmp_path)
    assert done.exit_code == 0, done.stderr
    first = tables(tmp_path)
    runs = first["runs"][first["runs"].axis == "arm"]
    assert set(runs.variant) == set(VARIANTS)
    assert set(runs.groupby("variant").task.nunique()) == {3}
    # one seed for all tasks, or an own one for each
    seeds = runs.groupby("variant").seed.nunique()
    assert {name: seeds[name] for name in VARIANTS} == {name: 1 if v.shared_seed else 3 for name, v in VARIANTS.items()}
    lengths = runs.groupby("variant").row_norm.mean()
    assert lengths[["orthonormal_own", "osrm", "osrm_official"]].tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert lengths[["orthonormal_scaled", "osrm_scaled"]].tolist() == pytest.approx([384**0.5 / 8] * 2, abs=1e-5)
    assert lengths[["gaussian_own", "default_own"]].tolist() == pytest.approx([384**0.5 / 8, 3**-0.5], rel=0.02)
    assert set(first["effects"].effect) == set(EFFECTS)
    assert first["interference"].ratio.gt(0).all()
    # on every axis the arm itself has its place
    along = first["summary"][first["summary"].axis != "arm"].groupby(["axis", "variant"]).value.unique().map(sorted)
    assert along.to_dict() == {
        ("epochs", "osrm"): [1, 2],
        ("k", "osrm"): [5, 10],
        ("tasks", "gaussian_shared"): [2, 3],
        ("tasks", "osrm"): [2, 3],
    }
    assert markdown_osrm(tmp_path / "tables") in done.stdout
    # results that are in the tables need no adapter; one that is missing is merged from the adapters that are there
    shutil.rmtree(tmp_path / "osrm_official")
    before, test = adapters(tmp_path), first["test"]
    missing = (test.variant == "osrm") & (test.axis == "arm") & (test.method == "regmean")
    assert missing.sum() == 6
    test[~missing].to_csv(tmp_path / "tables" / "osrm_test.csv", index=False)
    (tmp_path / "tables" / "osrm_effects.csv").unlink()
    again = quick(tmp_path)
    assert again.exit_code == 0, again.stderr
    assert adapters(tmp_path) == before
    *work, last = again.stdout.split("\n\n")[0].splitlines()[:3]
    assert [line.rsplit(" ", 3)[0] for line in work] == ["osrm, repetition 0 regmean"] * 2
    assert last.startswith("tables in ")  # no other line of work
    assert not (tmp_path / "osrm_official").exists()
    for name, table in tables(tmp_path).items():
        assert sorted(map(str, table.to_numpy().tolist())) == sorted(map(str, first[name].to_numpy().tolist())), name


@pytest.fixture
def run(tmp_path: Path) -> OsrmExperiment:
    return OsrmExperiment(
        tiny_model(), tiny_tokenizer(), Experiment(), tmp_path / "a", tmp_path / "t", tmp_path / "pools"
    )


def test_repetition_0_comes_whole_then_the_axes_then_the_rest() -> None:
    first, axes, *rest = Experiment().parts()
    assert [one.variant for one in first] == list(VARIANTS)
    assert [{one.repetition for one in part} for part in (first, axes, *rest)] == [{0}, {0}, {1}, {2}, {3}]
    # what the arms already are is not run again
    assert {(one.axis, one.value) for one in axes} & {("k", 100), ("rank", 8), ("freeze_A", 0), ("tasks", 8)} == set()
    assert {one.axis for one in axes} == {"k", "rank", "freeze_A", "tasks", "epochs"}
    assert [part[0].repetition for part in replace(Experiment(), repetitions=(2,)).parts()] == [2]


def test_an_axis_changes_its_own_setting_only() -> None:
    experiment, home = Experiment(), Experiment().settings(AdapterSet("osrm"), "trec")
    at = {axis: experiment.settings(AdapterSet("osrm", 0, axis, value), "trec") for axis, value in
          (("k", 10.0), ("rank", 4.0), ("freeze_A", 1.0), ("epochs", 3.0), ("tasks", 2.0))}  # fmt: skip
    assert at["k"] == replace(home, k=10)
    assert at["rank"] == replace(home, rank=4, alpha=8.0)
    assert at["freeze_A"] == replace(home, freeze_A=True)
    assert at["epochs"] == replace(home, epochs=6, checkpoints=(1, 3, 6))
    assert at["tasks"] == home


def test_a_shipped_adapter_with_the_very_settings_is_read_not_trained(run: OsrmExperiment) -> None:
    arm, other = AdapterSet("gaussian_shared"), AdapterSet("gaussian_shared", 1)
    own = run.folder(arm, "trec")
    assert own == run.adapters / "gaussian_shared" / "0" / "trec"
    pool = run.pools / "papers" / "trec"
    pool.mkdir(parents=True)
    settings = run.experiment.settings(arm, "trec")
    for changed, place in (({}, pool), ({"epochs": 2}, own), ({"row_norm": 1.0}, own)):
        (pool / "mergescope.json").write_text(json.dumps({"training": asdict(settings) | changed}))
        assert run.folder(arm, "trec") == place
    (pool / "mergescope.json").write_text(json.dumps({"training": asdict(settings)}))
    assert run.folder(other, "trec") == run.adapters / "gaussian_shared" / "1" / "trec"
    assert run.folder(AdapterSet("gaussian_shared", 0, "tasks", 2.0), "trec") == pool
    assert run.folder(AdapterSet("gaussian_shared", 0, "rank", 4.0), "trec") != pool


def test_what_another_process_is_at_is_left_to_it(run: OsrmExperiment, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    monkeypatch.setattr(run, "_train", lambda which, task: trained.append(task) or iter(()))
    other = Ledger(run.adapters / "claims", "osrm")
    with other.claim("train osrm/0 movie") as mine:
        assert mine
        assert list(run.work(AdapterSet("osrm"))) == []
    assert trained == [task for task in run.experiment.tasks if task != "movie"]


def test_one_task_is_no_experiment(run: OsrmExperiment) -> None:
    with pytest.raises(MergeError, match="two or more"):
        OsrmExperiment(run.model, run.tokenizer, replace(QUICK, tasks=("trec",)), run.adapters, run.adapters)


# -- summaries

ARM = {"axis": "arm", "value": 0.0}
TASKS = ("a", "b")
RATES = {"base": 20, "alone": 80}


def made_up(folder: Path, right: dict[str, int], repetitions: tuple[int, ...] = (0, 1)) -> Ledger:
    """Write tables of 100 rows per task, of which the merge at every λ gets so many right, by variant."""
    ledger, marks = Ledger(folder, "osrm"), lambda count: pack("1" * count + "0" * (100 - count))
    test, sweep = [], []
    for variant, merged in right.items():
        for repetition in repetitions:
            for task in TASKS:
                key = ARM | {"variant": variant, "repetition": repetition, "task": task, "total": 100}
                test += [key | {"method": end, "scaling": 0.0, "hits": marks(count)} for end, count in RATES.items()]
                for scaling, lost in ((0.3, 0), (0.5, 0), (1.0, 10)):
                    one = key | {"method": "task_arithmetic", "scaling": scaling, "correct": merged - lost}
                    sweep.append(one | {"correct": 90 if scaling == 0.5 else 50})
                    test.append(one | {"hits": marks(merged - lost)})
    ledger.append("test", pd.DataFrame(test))
    ledger.append("sweep", pd.DataFrame(sweep))
    return ledger


def test_an_effect_is_the_difference_of_two_variants_on_the_same_rows(tmp_path: Path) -> None:
    ledger = made_up(tmp_path, {"orthonormal_own": 50, "osrm": 70, "osrm_scaled": 70})
    summarise(ledger)
    effects = ledger.table("effects").set_index(["effect", "method", "at"])
    data = effects.loc[(DATA, "task_arithmetic", "best λ")]
    assert data.difference == pytest.approx(0.2)
    assert data.low < 0.2 < data.high
    assert data.n == 2
    alone = effects.loc[(DATA, "alone", "best λ")]
    assert (alone.difference, alone.low, alone.high) == (0.0, 0.0, 0.0)
    # a variant without its partner is left out, not made up
    assert set(ledger.table("effects").reference) == {"orthonormal_own", "osrm_scaled"}


def test_the_summary_has_the_gap_recovered_at_each_scaling(tmp_path: Path) -> None:
    ledger = made_up(tmp_path, {"osrm": 50})
    summarise(ledger)
    summary = ledger.table("summary").set_index(["method", "at"])
    merged = summary.loc["task_arithmetic"]
    assert merged.average.to_dict() == pytest.approx({"λ 0.3": 0.5, "best λ": 0.5, "λ 1": 0.4})
    assert merged.gap.to_dict() == pytest.approx({"λ 0.3": 0.5, "best λ": 0.5, "λ 1": 1 / 3})
    assert (merged.gap_low < merged.gap).all()
    assert (merged.gap < merged.gap_high).all()
    assert summary.loc[("alone", "best λ")].average == pytest.approx(0.8)
    assert summary.gap[["base", "alone"]].isna().all()


def test_the_steps_from_the_baseline_add_up_and_the_answer_names_them(tmp_path: Path) -> None:
    right = {"gaussian_shared": 40, "gaussian_own": 45, "orthonormal_scaled": 44, "orthonormal_own": 60, "osrm": 63}
    ledger = made_up(tmp_path, right)
    summarise(ledger)
    effects = ledger.table("effects")
    best = effects[(effects.method == "task_arithmetic") & (effects["at"] == "best λ")].set_index("effect").difference
    assert [best[step] for step in STEPS] == pytest.approx([0.05, -0.01, 0.16, 0.03])
    assert best[list(STEPS)].sum() == pytest.approx(best["OSRM against its own baseline (gaussian, one seed)"])
    said = answer(ledger)
    assert said.count(". ") == 0
    for number in (
        "OSRM gains +23.0",
        "own A for each task brings +5.0",
        "same length -1.0",
        "gaussian's +16.0",
        "data +3.0",
    ):
        assert number in said
    assert "2 repetitions" in said
    assert ledger.table("answers").answer.tolist() == [said]


def test_one_repetition_is_said_to_be_one_and_none_to_be_missing(tmp_path: Path) -> None:
    arms = ["gaussian_shared", "gaussian_own", "orthonormal_scaled", "orthonormal_own", "osrm"]
    assert "not another training" in answer(made_up(tmp_path / "one", dict.fromkeys(arms, 50), repetitions=(0,)))
    assert "Not measured yet" in answer(made_up(tmp_path / "few", dict.fromkeys(arms[1:], 50)))
    empty = Ledger(tmp_path / "none", "osrm")
    summarise(empty)
    assert "Not measured yet" in answer(empty)
    assert markdown_osrm(tmp_path / "nowhere") == "Not measured yet; `mergescope experiment osrm` does it."
    assert markdown_osrm(tmp_path / "none") == markdown_osrm(tmp_path / "nowhere")


def test_a_set_that_lacks_a_task_does_not_count(tmp_path: Path) -> None:
    ledger = made_up(tmp_path, {"osrm": 50})
    test = ledger.table("test")
    ledger.replace("test", test[~((test.repetition == 1) & (test.task == "b") & (test.method == "task_arithmetic"))])
    summarise(ledger)
    summary = ledger.table("summary").set_index(["method", "at"])
    assert summary.n["task_arithmetic"].tolist() == [1, 1, 1]
    assert summary.n["alone", "best λ"] == 2


def test_fewer_tasks_lie_between_the_arms_own_ends_on_these_tasks(tmp_path: Path) -> None:
    ledger = made_up(tmp_path, {"osrm": 50})
    for table in ("test", "sweep"):
        rows = ledger.table(table)
        few = rows[(rows.repetition == 0) & (rows.task == "a") & (rows.method == "task_arithmetic")]
        ledger.append(table, few.assign(axis="tasks", value=1.0))
    summarise(ledger)
    summary = ledger.table("summary")
    few = summary[summary.axis == "tasks"].set_index(["method", "at"])
    assert few.average["alone", "best λ"] == pytest.approx(0.8)
    assert few.gap["task_arithmetic", "λ 1"] == pytest.approx(1 / 3)
    assert set(few.n) == {1}
