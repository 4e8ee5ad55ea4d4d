"""`mergescope tune` writes the merge that it found best, and its recipe makes the same file again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from merging import MergeError
from merging.cli.main import cli

WORDS = [
    "tune",
    "--pool",
    "default",
    "--method",
    "task_arithmetic",
    "--vary",
    "params",
    "--rows",
    "8",
    "--test-rows",
    "8",
]


def test_the_best_is_written_with_its_study_and_made_again(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, [*WORDS, "--trials", "2", "--rank", "8", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    trials = pd.read_csv(tmp_path / "out" / "trials.csv")
    recipe = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert recipe["tuned"] == {"study": "tune", "trial": int(trials.trial[0]), "seed": 0}
    assert recipe["rank"] == 8
    assert "on test rows, which the search did not see" in done.output
    again = CliRunner().invoke(cli, ["merge", str(tmp_path / "out" / "recipe.yaml"), "-o", str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    for name in ("adapter_model.safetensors", "adapter_config.json", "recipe.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    "words", [["--goal", "best"], ["--task-weight", "trec"], ["--task-weight", "nope=2"], ["--vary", "colour"]]
)
def test_what_makes_no_sense_is_refused_in_a_sentence(words: list[str], tmp_path: Path) -> None:
    refused = CliRunner().invoke(cli, [*WORDS, "--trials", "1", *words, "-o", str(tmp_path / "no")])
    assert isinstance(refused.exception, MergeError)
    assert not (tmp_path / "no").exists()
