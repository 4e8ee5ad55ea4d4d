"""The OSRM experiment runs from end to end in little, resumes, and says what changed between two starts of A."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from merging.experiments.osrm import EFFECTS, VARIANTS, summarise
from merging.search import pack

TABLES = ("runs", "interference", "sweep", "test", "tasks", "summary", "effects")


def quick(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "merging.cli",
        "experiment",
        "osrm",
        "--quick",
        "--adapters",
        folder,
        "-o",
        folder / "tables",
    ]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, check=False)


def test_the_quick_experiment_writes_every_table_and_does_nothing_twice(tmp_path: Path) -> None:
    done = quick(tmp_path)
    assert done.returncode == 0, done.stderr
    tables = {name: pd.read_csv(tmp_path / "tables" / f"osrm_{name}.csv") for name in TABLES}
    runs = tables["runs"]
    assert set(VARIANTS) < set(runs.variant)
    assert set(runs.groupby("variant").task.nunique()) == {2}
    # one seed for all tasks, or an own one for each
    seeds = runs.groupby("variant").seed.nunique()
    assert {name: seeds[name] for name in VARIANTS} == {name: 1 if v.shared_seed else 2 for name, v in VARIANTS.items()}
    assert set(tables["effects"].effect) == set(EFFECTS)
    assert tables["interference"].ratio.gt(0).all()
    # results that are in the tables need no adapter; one that is missing is merged from the adapters that are there
    shutil.rmtree(tmp_path / "osrm_official")
    sweep = tables["test"]
    sweep[(sweep.variant != "osrm") | (sweep.method != "regmean")].to_csv(tmp_path / "tables" / "osrm_test.csv", index=False)
    adapters = sorted(path.stat().st_mtime_ns for path in tmp_path.glob("*/0/*/adapter_model.safetensors"))
    (tmp_path / "tables" / "osrm_effects.csv").unlink()
    again = quick(tmp_path)
    assert again.returncode == 0, again.stderr
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.glob("*/0/*/adapter_model.safetensors")) == adapters
    first, second, *_ = again.stdout.splitlines()
    assert first.startswith("osrm 0 regmean at")
    assert second.startswith("tables in ")  # no other line of work
    assert not (tmp_path / "osrm_official").exists()
    assert set(map(tuple, pd.read_csv(tmp_path / "tables" / "osrm_test.csv").to_numpy())) == set(map(tuple, sweep.to_numpy()))
    assert (tmp_path / "tables" / "osrm_effects.csv").exists()


def test_an_effect_is_the_difference_of_two_variants_on_the_same_rows(tmp_path: Path) -> None:
    better, worse = "1" * 80 + "0" * 20, "1" * 50 + "0" * 50
    marks = {"default_own": better, "default_shared": worse, "osrm": better, "orthonormal_own": better}
    tested = [
        (variant, repetition, "ties", task, 100, pack(found))
        for variant, found in marks.items() for repetition in (0, 1) for task in ("a", "b")
    ]  # fmt: skip
    columns = ["variant", "repetition", "method", "task", "total", "hits"]
    pd.DataFrame(tested, columns=columns).to_csv(tmp_path / "osrm_test.csv", index=False)
    pd.DataFrame([], columns=columns).to_csv(tmp_path / "osrm_runs.csv", index=False)
    summarise(tmp_path)
    effects = pd.read_csv(tmp_path / "osrm_effects.csv").set_index(["variant", "reference"])
    own = effects.loc[("default_own", "default_shared")]
    assert own.difference == pytest.approx(0.3)
    assert own.low < 0.3 < own.high
    assert own.n == 2
    none = effects.loc[("osrm", "orthonormal_own")]
    assert (none.difference, none.low, none.high) == (0.0, 0.0, 0.0)
    # a variant without its partner is left out, not made up
    assert ("orthonormal_own", "orthonormal_shared") not in effects.index


def test_a_set_that_lacks_a_task_does_not_count(tmp_path: Path) -> None:
    columns = ["variant", "repetition", "method", "task", "total", "hits"]
    rows = [("osrm", 0, "ties", "a", 4, "f"), ("osrm", 0, "ties", "b", 4, "f"), ("osrm", 1, "ties", "a", 4, "0")]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "osrm_test.csv", index=False)
    pd.DataFrame([], columns=columns).to_csv(tmp_path / "osrm_runs.csv", index=False)
    summarise(tmp_path)
    [row] = pd.read_csv(tmp_path / "osrm_summary.csv").itertuples()
    assert (row.variant, row.n, row.average) == ("osrm", 1, 1.0)
