"""The command line: what it writes, what it prints, and that a failing command says one sentence and writes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builders import peft_folder, tiny_model
from commands import command
from safetensors.torch import load_file
from typer.testing import CliRunner

from merging import METHODS, Adapter, merge
from merging.cli.main import cli


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for i, rank in enumerate((2, 4, 8)):
        peft_folder(tmp_path / f"task-{i}", tiny_model(), seed=i, r=rank, target_modules=["query", "value"])
    return [tmp_path / f"task-{i}" for i in range(3)]


def test_merge_writes_what_the_library_merges(folders: list[Path], tmp_path: Path) -> None:
    done = command(
        "merge", *folders, "--method", "do_merging", "--scaling", 0.4, "--penalty", 0.2, "-o", tmp_path / "out"
    )
    assert done.exit_code == 0, done.stderr
    from merging import Orthogonalize

    adapters = [Adapter.load(folder) for folder in folders]
    merge(adapters, "do_merging", scaling=0.4, orthogonalize=Orthogonalize("balanced", 0.2)).save(tmp_path / "expected")
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "expected"))
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in ours)


@pytest.mark.slow
def test_weights_may_differ_by_layer(folders: list[Path], tmp_path: Path) -> None:
    weights = ["--weight", "*.layer.0.*=0.5,*=2", "--weight", 1, "--weight", 0]
    done = command("merge", *folders, "--method", "task_arithmetic", *weights, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    adapters = [Adapter.load(folder) for folder in folders]
    expected = merge(adapters, "task_arithmetic", weights=[{"*.layer.0.*": 0.5, "*": 2.0}, 1.0, 0.0])
    written = Adapter.load(tmp_path / "out")
    assert all(written.deltas[module].dense().equal(expected.delta(module)) for module in expected.modules)
    again = command("merge", tmp_path / "out" / "recipe.yaml", "-o", tmp_path / "again")
    assert again.exit_code == 0, again.stderr
    assert Adapter.load(tmp_path / "again").fingerprint == written.fingerprint
    refused = command("merge", *folders, "--method", "task_arithmetic", "--weight", "half", "-o", tmp_path / "no")
    assert refused.exit_code == 1
    assert "half" in refused.stderr


@pytest.mark.slow
def test_a_recipe_makes_the_same_files_again(folders: list[Path], tmp_path: Path) -> None:
    first = command(
        "merge",
        *folders,
        "--method",
        "ties",
        "--density",
        0.3,
        "--rank",
        3,
        "--weight",
        1,
        "--weight",
        2,
        "--weight",
        0.5,
        "-o",
        tmp_path / "a",
    )
    again = command("merge", tmp_path / "a" / "recipe.yaml", "-o", tmp_path / "b")
    assert (first.exit_code, again.exit_code) == (0, 0), first.stderr + again.stderr
    for name in ("adapter_model.safetensors", "adapter_config.json", "recipe.yaml", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--method", "nonsense"], "nonsense"),
        (["--method", "task_arithmetic", "--scaling", "nan"], "scaling"),
        (["--method", "average", "--scaling", "1"], "scaling"),
        (["--method", "ties", "--density", "0.5"], "rank"),
        (["--method", "emr", "--rank", "4"], "task"),
        (["--method", "average", "--weight", "1"], "weights"),
        (["--method", "average", "--head", "absent"], "absent"),
    ],
)
def test_a_failing_merge_says_one_sentence_and_writes_nothing(
    words: list[str], named: str, folders: list[Path], tmp_path: Path
) -> None:
    done = command("merge", *folders, *words, "-o", tmp_path / "out")
    assert done.exit_code != 0
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert named in done.stderr
    assert not (tmp_path / "out").exists()


def test_inspect_names_every_module_in_full(folders: list[Path]) -> None:
    done = command("inspect", *folders)
    assert done.exit_code == 0, done.stderr
    for adapter in map(Adapter.load, folders):
        assert all(module in done.stdout for module in adapter.deltas)


def test_every_parameter_of_every_method_is_an_option() -> None:
    page = CliRunner().invoke(cli, ["merge", "--help"], env={"COLUMNS": "400"}).output
    names = {param.name.replace("_", "-") for method in METHODS.values() for param in method.params}
    assert [name for name in names if f"--{name}" not in page] == []


@pytest.mark.parametrize("method", METHODS)
def test_methods_prints_each_page(method: str) -> None:
    assert METHODS[method].doc in CliRunner().invoke(cli, ["methods", method]).output


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from merging.cli.main import cli; "
        "said = CliRunner().invoke(cli, ['--help']).output; assert 'merge' in said; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
