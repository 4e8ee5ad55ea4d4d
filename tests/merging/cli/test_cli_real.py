"""What the command line says of adapters as people have them: warnings on stderr, and the base that somebody vouches
for.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from builders import edit_config, one_sentence, peft_folder, random_update, tiny_model
from safetensors.torch import load_file
from typer.testing import CliRunner

from merging import Adapter, MergeError
from merging.cli import cli


def run(*words: object) -> tuple[str, str]:
    """Return (stdout, stderr) of a command that must not fail."""
    done = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    for i in range(2):
        peft_folder(tmp_path / f"task-{i}", tiny_model(), seed=0, r=4)
    return [tmp_path / f"task-{i}" for i in range(2)]


def test_merge_prints_the_warnings_of_inspect_on_stderr(pair: list[Path], tmp_path: Path) -> None:
    told, _ = run("inspect", *pair)
    lines = [line for line in told.splitlines() if line.startswith("warning: ")]
    out, said = run("merge", *pair, "--method", "average", "-o", tmp_path / "out")
    assert any("same update" in line for line in lines)
    assert [line for line in said.splitlines() if line.startswith("warning: ")] == lines
    assert said.splitlines()[-1] == "exact"
    assert out.strip() == str(tmp_path / "out")


def test_the_base_given_vouches_is_said_and_stands_in_the_file(pair: list[Path], tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    for i, name in enumerate(["alice/bert-mine", "bob/bert-mine"]):
        edit_config(pair[i], base_model_name_or_path=name)
    with pytest.raises(MergeError, match="--base"):
        run("merge", *pair, "--method", "average", "-o", tmp_path / "out")
    _, said = run("merge", *pair, "--method", "average", "--base", tmp_path / "base", "-o", tmp_path / "out")
    assert "alice/bert-mine" in said
    assert "as you say" in said
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((tmp_path / "base").resolve())
    assert "as you say" in (tmp_path / "out" / "README.md").read_text()
    assert "compatible" in run("inspect", *pair, "--base", tmp_path / "base")[0]


def test_the_type_of_the_numbers_can_be_chosen(pair: list[Path], tmp_path: Path) -> None:
    _, said = run("merge", *pair, "--method", "average", "--dtype", "bfloat16", "-o", tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "adapter_model.safetensors").values()} == {
        torch.bfloat16
    }
    run("merge", tmp_path / "out" / "recipe.yaml", "-o", tmp_path / "again")
    for name in ("adapter_model.safetensors", "recipe.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert "rounded to bfloat16" in said.splitlines()[-1]


def test_inspect_says_what_4_and_8_bits_leave(pair: list[Path], tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    plain, _ = run("inspect", *pair, "--base", tmp_path / "base")
    told, _ = run("inspect", *pair, "--base", tmp_path / "base", "--quantisation")
    assert "nf4_error" not in plain
    header = next(line for line in told.splitlines() if line.split()[:2] == ["adapter", "module"])
    assert header.split()[-4:] == ["nf4_error", "nf4_unchanged", "int8_error", "int8_unchanged"]
    rows = [line.split() for line in told.splitlines() if line.split()[:1] in (["task-0"], ["task-1"])]
    assert len(rows) == 2 * 4
    assert all(0 < float(row[-2]) < float(row[-4]) for row in rows)
    assert {line.split(",")[0] for line in told.splitlines() if ", nf4: the median" in line} == {"task-0", "task-1"}


def test_a_rank_far_below_full_says_that_it_is_randomised_and_the_exact_one_is_kept_in_the_recipe(
    tmp_path: Path,
) -> None:
    folders = [tmp_path / f"wide-{i}" for i in range(2)]
    for i, folder in enumerate(folders):
        Adapter(folder.name, {"layer": random_update(i, 600, 600, 2)}, base="wide").save(folder)
    command = ("merge", *folders, "--method", "ties", "--rank", 8)
    _, quick = run(*command, "-o", tmp_path / "quick")
    assert "randomised" in quick
    assert "randomised" in (tmp_path / "quick" / "README.md").read_text()
    _, best = run(*command, "--exact-svd", "-o", tmp_path / "best")
    assert "best approximation" in best
    for name in ("quick", "best"):
        run("merge", tmp_path / name / "recipe.yaml", "-o", tmp_path / f"{name}-again")
        files = [tmp_path / folder / "adapter_model.safetensors" for folder in (name, f"{name}-again")]
        assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(MergeError, match="--exact-svd"):
        run("merge", tmp_path / "quick" / "recipe.yaml", "--exact-svd", "-o", tmp_path / "no")
    with pytest.raises(MergeError, match="--exact-svd"):
        run(*command, "--full-model", "--exact-svd", "-o", tmp_path / "no")


def test_a_dry_run_says_what_would_happen_and_writes_nothing(pair: list[Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    told, said = run("merge", *pair, "--method", "average", "--dry-run")
    assert told.splitlines()[0].split() == ["module", "kind", "shape", "what", "merged_from", "zero_in", "why"]
    assert sum("low-rank" in line for line in told.splitlines()) == 4
    assert told.splitlines()[-1] == "4 modules merged; nothing was written"
    assert "same update" in said
    with pytest.raises(MergeError, match=r"4 of 4 are refused: ties builds dense updates: choose a rank"):
        run("merge", *pair, "--method", "ties", "--dry-run", "-o", tmp_path / "out")
    with pytest.raises(MergeError, match="-o FOLDER"):
        run("merge", *pair, "--method", "average")
    assert sorted(tmp_path.rglob("*")) == before
    run("merge", *pair, "--method", "average", "-o", tmp_path / "out")
    told, _ = run("merge", tmp_path / "out" / "recipe.yaml", "--dry-run")
    assert "4 modules merged" in told


def test_a_dry_run_names_every_adapter_that_cannot_be_read(pair: list[Path], tmp_path: Path) -> None:
    for name, changes in (("one", {"use_dora": True}), ("two", {"peft_type": "IA3"})):
        shutil.copytree(pair[0], tmp_path / name)
        edit_config(tmp_path / name, **changes)
    places = [pair[0], tmp_path / "one", pair[1], tmp_path / "two"]
    weights = [word for weight in (1, 2, 3, 4) for word in ("--weight", weight)]
    words = ["merge", *places, "--method", "average", *weights, "--dry-run"]
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert isinstance(done.exception, MergeError)
    assert one_sentence(done.exception, "2 of 6 are refused", "DoRA")
    assert "IA3" in done.stdout
    assert sum("low-rank" in line for line in done.stdout.splitlines()) == 4
