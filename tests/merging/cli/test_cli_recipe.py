"""A recipe.yaml on the command line: merge, inspect, evaluate and sweep take it, and nothing beside it is silently
ignored.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from builders import one_sentence, peft_folder, tiny_model
from sklearn.metrics import f1_score, matthews_corrcoef
from typer.testing import CliRunner, Result

from merging import METHODS, Adapter, Decouple, MergeError, Task, evaluate, merge, merge_recipe
from merging.cli.main import cli
from merging.evaluation.accuracy import encode_task, hits, predictions
from merging.experiments.sweep import SCALINGS
from merging.models.load import load_base
from merging.recipes.recipe import Recipe

SHIPPED = Path(__file__).parents[3] / "assets" / "adapters" / "default"
TASKS = ("movie", "newspaper")
ROWS = 8


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], env={"COLUMNS": "200"})


def printed(*words: object) -> str:
    done = run(*words)
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.stdout


def refused(*words: object) -> MergeError:
    error = run(*words).exception
    assert isinstance(error, MergeError), repr(error)
    return error


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for i in range(2):
        peft_folder(tmp_path / f"task-{i}", tiny_model(), seed=i, r=2 + i)
    return [tmp_path / f"task-{i}" for i in range(2)]


@pytest.fixture
def recipe(folders: list[Path], tmp_path: Path) -> Path:
    """Return a recipe with a value for everything, weights among it."""
    options = [
        "--density",
        0.5,
        "--scaling",
        0.3,
        "--seed",
        7,
        "--rank",
        4,
        "--weight",
        1,
        "--weight",
        2,
        "--decouple",
        0.25,
    ]
    plugins = ["--orthogonalize", "balanced", "--penalty", 0.2]
    printed("merge", *folders, "--method", "dare_ties", *options, *plugins, "-o", tmp_path / "out")
    return tmp_path / "out" / "recipe.yaml"


SAME = {
    "method": ["dare_ties"], "seed": [7], "rank": [4], "density": [0.5], "scaling": [0.3], "decouple": [0.25],
    "orthogonalize": ["balanced"], "penalty": [0.2], "weight": [1, 2],
}  # fmt: skip
OTHER = {
    "method": ["ties"],
    "seed": [0],
    "rank": [3],
    "density": [0.4],
    "scaling": [0.4],
    "decouple": [0.0],
    "orthogonalize": ["off"],
    "penalty": [0.1],
    "granularity": ["module"],
    "max-up": [2.0],
    "weight": [1, 1],
    "head": ["task-0"],
    "prefix": ["bert."],
    "soft-osrm": [0.1],
    "epsilon": [0.1],
}


@pytest.mark.parametrize(("option", "values"), OTHER.items(), ids=OTHER)
def test_an_option_that_says_something_else_than_the_recipe_is_refused(
    option: str, values: list[object], recipe: Path, tmp_path: Path
) -> None:
    beside = [word for value in values for word in (f"--{option}", value)]
    error = refused("merge", recipe, *beside, "-o", tmp_path / "no")
    assert one_sentence(error, f"--{option}", "edit the recipe"), str(error)
    assert not (tmp_path / "no").exists()


def test_options_that_say_the_same_as_the_recipe_are_accepted(recipe: Path, tmp_path: Path) -> None:
    beside = [word for option, values in SAME.items() for value in values for word in (f"--{option}", value)]
    printed("merge", recipe, *beside, "-o", tmp_path / "again")
    names = "adapter_model.safetensors", "recipe.yaml"
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (recipe.parent / name).read_bytes()


def test_a_recipe_that_names_no_plugin_has_the_methods_own(folders: list[Path], tmp_path: Path) -> None:
    text = yaml.safe_dump({"adapters": [{"path": str(folder)} for folder in folders], "method": "do_merging"})
    (tmp_path / "short.yaml").write_text(text)
    method = METHODS["do_merging"]
    own = [
        "--orthogonalize",
        method.orthogonalize,
        "--decouple",
        method.decouple,
        "--scaling",
        1.0,
        "--weight",
        1,
        "--weight",
        1,
    ]
    printed("merge", tmp_path / "short.yaml", *own, "--seed", 0, "-o", tmp_path / "out")
    expected = merge([Adapter.load(folder) for folder in folders], "do_merging")
    assert Adapter.load(tmp_path / "out").fingerprint == expected.to_adapter().fingerprint
    assert one_sentence(
        refused("merge", tmp_path / "short.yaml", "--decouple", 0, "-o", tmp_path / "no"), "--decouple", "1.0"
    )


def test_inspect_shows_the_recipes_adapters(recipe: Path, folders: list[Path]) -> None:
    assert printed("inspect", recipe) == printed("inspect", *folders)


@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_a_recipe_stands_alone(command: str, recipe: Path, folders: list[Path]) -> None:
    assert one_sentence(refused(command, recipe, folders[0]), "recipe.yaml", "alone")
    assert one_sentence(refused(command, recipe.with_name("gone.yaml")), "gone.yaml")


# -- accuracy
# ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the recipe of a merge of two shipped adapters."""
    place = tmp_path_factory.mktemp("shipped") / "two.yaml"
    merged = merge([Adapter.load(SHIPPED / task) for task in TASKS], "task_arithmetic", scaling=0.4, weights=[1.0, 0.5])
    place.write_text(merged.recipe.to_yaml())
    return place


def test_evaluate_prints_what_the_library_measures(shipped: Path) -> None:
    lines = printed("evaluate", shipped, "--rows", ROWS, "--split", "validation").splitlines()
    model, tokenizer = load_base("minilm")
    merged = merge_recipe(Recipe.from_yaml(shipped.read_text()))
    tasks = [encode_task(tokenizer, Task.load(task), "validation", ROWS) for task in TASKS]
    heads = {adapter.task: adapter.head for adapter in merged.adapters}
    for i, (adapter, task) in enumerate(zip(merged.adapters, tasks, strict=True)):
        expected = [
            [*evaluate(model, tokenizer, subject, [task], heads=heads)][-1] for subject in (merged, adapter, None)
        ]
        name, ours, low, _, high, f1, correlation, alone, bare, rows = lines[1 + i].split()
        assert name == adapter.task
        assert [ours, alone, bare] == [f"{estimate.accuracy:.3f}" for estimate in expected]
        assert (low, high) == tuple(f"{bound:.3f}" for bound in expected[0].interval)
        guess = predictions(hits(model, tokenizer, merged, [task], heads=heads))[adapter.task]
        assert f1 == f"{f1_score(task.labels, guess, average='macro', zero_division=0.0):.3f}"
        assert correlation == f"{matthews_corrcoef(task.labels, guess):.3f}"
        assert int(rows) == ROWS
    assert lines[-2].split()[0] == "average"
    assert re.fullmatch(r"gap recovered: .*", lines[-1])


def test_sweep_measures_the_recipe_at_every_scaling(shipped: Path, tmp_path: Path) -> None:
    output = printed("sweep", shipped, "--rows", ROWS, "-o", tmp_path)
    table = pd.read_csv(tmp_path / "sweep_two.csv")
    assert set(SCALINGS) <= set(table.scaling)
    assert set(table.task) == set(TASKS)
    assert set(table.total) == {ROWS}
    model, tokenizer = load_base("minilm")
    adapters = [Adapter.load(SHIPPED / task) for task in TASKS]
    tasks = [encode_task(tokenizer, Task.load(task), "validation", ROWS) for task in TASKS]
    for scaling in (0.1, 1.5):
        merged = merge(adapters, "task_arithmetic", scaling=scaling, weights=[1.0, 0.5])
        found = {estimate.task: estimate for estimate in evaluate(model, tokenizer, merged, tasks)}
        rows = table[table.scaling == scaling].set_index("task")
        assert {task: rows.correct[task] / ROWS for task in TASKS} == {task: e.accuracy for task, e in found.items()}
    means = table.groupby("scaling").correct.sum()
    best = float(re.search(r"best scaling on validation: (\S+)", output)[1])
    assert best == min(means.index[means == means.max()])
    assert one_sentence(refused("sweep", shipped, "--rows", ROWS, "-o", tmp_path), "sweep_two.csv", "-o")


def test_sweep_refuses_what_a_recipe_decides_and_a_method_without_scaling(shipped: Path, tmp_path: Path) -> None:
    assert one_sentence(refused("sweep", shipped, "--method", "ties"), "--method")
    assert one_sentence(refused("sweep", shipped, "--pool", "default"), "--pool")
    assert one_sentence(refused("sweep", tmp_path / "adapter"), "recipe.yaml")
    (tmp_path / "mean.yaml").write_text(
        merge([Adapter.load(SHIPPED / task) for task in TASKS], "average").recipe.to_yaml()
    )
    assert one_sentence(refused("sweep", tmp_path / "mean.yaml"), "average", "scaling")


def test_adapters_without_a_head_cannot_be_evaluated(recipe: Path) -> None:
    assert one_sentence(refused("evaluate", recipe), "task-0", "head")


# -- the options of decouple
# ---------------------------------------------------------------------------------------------


def test_the_options_of_decouple_make_the_librarys_merge(folders: list[Path], tmp_path: Path) -> None:
    options = ["--decouple", 0.5, "--granularity", "module", "--max-up", 1.5, "--renormalise"]
    printed("merge", *folders, "--method", "task_arithmetic", *options, "-o", tmp_path / "out")
    pool = [Adapter.load(folder) for folder in folders]
    expected = merge(pool, "task_arithmetic", decouple=Decouple(0.5, "module", 1.5, True))
    assert Adapter.load(tmp_path / "out").fingerprint == expected.to_adapter().fingerprint
    recipe = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert recipe["decouple"] == {"strength": 0.5, "granularity": "module", "max_up": 1.5, "renormalise": True}
    printed("merge", tmp_path / "out" / "recipe.yaml", *options, "-o", tmp_path / "again")


def test_a_norm_cap_and_pico_make_the_librarys_merge(folders: list[Path], tmp_path: Path) -> None:
    options = ["--norm-cap", 0, "--pico"]
    printed("merge", *folders, "--method", "task_arithmetic", *options, "-o", tmp_path / "out")
    pool = [Adapter.load(folder) for folder in folders]
    expected, capped, plain = (
        merge(pool, "task_arithmetic", **plugins).to_adapter().fingerprint
        for plugins in ({"norm_cap": 0.0, "pico": True}, {"norm_cap": 0.0}, {})
    )
    assert len({expected, capped, plain}) == 3
    assert Adapter.load(tmp_path / "out").fingerprint == expected
    assert "Pico, norm cap 0 MAD above the median" in (tmp_path / "out" / "README.md").read_text()
    printed("merge", tmp_path / "out" / "recipe.yaml", *options, "-o", tmp_path / "again")
    error = refused("merge", tmp_path / "out" / "recipe.yaml", "--norm-cap", 3, "-o", tmp_path / "other")
    assert one_sentence(error, "--norm-cap 3", "0.0"), str(error)
    error = refused("merge", tmp_path / "out" / "recipe.yaml", "--no-pico", "-o", tmp_path / "other")
    assert one_sentence(error, "--pico False", "True"), str(error)


def test_an_option_of_decouple_takes_the_methods_own_strength(folders: list[Path], tmp_path: Path) -> None:
    printed("merge", *folders, "--method", "do_merging", "--granularity", "module", "-o", tmp_path / "out")
    expected = merge([Adapter.load(folder) for folder in folders], "do_merging", decouple=Decouple(1.0, "module"))
    assert Adapter.load(tmp_path / "out").fingerprint == expected.to_adapter().fingerprint


@pytest.mark.parametrize("option", [["--granularity", "module"], ["--max-up", 2], ["--renormalise"]])
def test_an_option_of_decouple_without_a_strength_is_refused(
    option: list[object], folders: list[Path], tmp_path: Path
) -> None:
    error = refused("merge", *folders, "--method", "ties", *option, "-o", tmp_path / "out")
    assert one_sentence(error, str(option[0]), "--decouple"), str(error)


def test_the_page_of_do_merging_lists_what_is_ours() -> None:
    page = printed("methods", "do_merging")
    for option in ("--penalty", "--decouple", "--granularity", "--max-up", "--renormalise"):
        assert f"{option} (" in page
    assert page.count("(Ours.)") == 4
    assert "--granularity" not in printed("methods", "ties")
