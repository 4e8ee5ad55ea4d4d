"""The project's own promises: Spaces' requirements agree with pyproject, the shipped pools are whole, the page's files
exist.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from merging import METHODS, Adapter, Recipe
from merging.evaluation.accuracy import own_head
from merging.evaluation.verbalisers import Verbaliser
from merging.experiments.results import BLOCKS, refreshed
from merging.experiments.sweep import best_scalings, read_table
from merging.io.assets import assets_folder
from merging.methods.base import SCALING
from merging.models.embedded import EMBEDDED
from merging.models.layers import fingerprint
from merging.models.load import load_base
from merging.shipped import SHIPPED, settings_of
from merging.tasks.task import Task
from merging.tasks.task import fingerprint as data_fingerprint
from merging.training.command import train_command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADAPTERS = [(pool, task) for pool, spec in SHIPPED.items() for task in spec.tasks]


def front_matter() -> dict:
    return yaml.safe_load((ROOT / "README.md").read_text().split("---")[1])


def test_spaces_requirements_agree_with_pyproject() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    spaces = {r.name: r for r in (Requirement(line) for line in lines if line and not line.startswith("#"))}
    ours = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
    assert set(spaces) == set(ours) - {"gradio"}, "gradio comes from the Space's sdk_version"
    for name, requirement in spaces.items():
        assert set(ours[name].specifier) - set(requirement.specifier) <= set(Requirement("torch<2.14").specifier)
    assert not spaces["torch"].specifier.contains("2.12.0"), "ZeroGPU has no torch from 2.12 on"


def test_the_space_runs_a_gradio_that_pyproject_admits() -> None:
    gradio = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "gradio")
    card = front_matter()
    assert gradio.specifier.contains(card["sdk_version"])
    assert (ROOT / card["app_file"]).exists()


def test_the_readmes_test_command_is_what_ci_runs() -> None:
    command = 'pip install -e ".[test]" && pytest'
    assert command in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci" / "run").read_text()


def test_the_readmes_pictures_exist() -> None:
    pictures = re.findall(r"\]\((assets/[^)]+)\)", (ROOT / "README.md").read_text())
    assert pictures
    assert [picture for picture in pictures if not (ROOT / picture).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "assets/results.md"])
def test_every_marked_number_follows_from_the_shipped_tables(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "<!-- " in text
    assert refreshed(text, assets_folder() / "tables") == text, "run mergescope results"


def test_every_block_of_numbers_has_its_place() -> None:
    both = (ROOT / "README.md").read_text() + (ROOT / "assets" / "results.md").read_text()
    assert [name for name in BLOCKS if f"<!-- {name} -->" not in both] == []


@pytest.mark.parametrize(("pool", "task"), ADAPTERS)
def test_a_shipped_adapter_says_how_it_was_made(pool: str, task: str) -> None:
    adapter = Adapter.load(assets_folder() / "adapters" / pool / task)
    metadata, spec = adapter.metadata, SHIPPED[pool]
    settings = settings_of(metadata)
    assert adapter.task == task
    assert settings == spec.settings(task)
    assert metadata.command == train_command(task, settings, spec.base, spec.words)
    assert metadata.data_fingerprint == data_fingerprint(Task.load(task))
    assert set(metadata.versions) >= {"torch", "transformers", "peft"}
    assert 0 < metadata.validation_accuracy <= 1
    head, labels = own_head(adapter), Task.load(task).labels
    assert isinstance(head, Verbaliser) == spec.words
    assert tuple(head.words if isinstance(head, Verbaliser) else head.labels) == labels


LEARNED = [(pool, task) for pool, task in ADAPTERS if pool != "easy" and SHIPPED[pool].settings(task).rows >= 300]
"""Adapters that have something to add and rows to learn it from: in `easy` the heads know it all, in `unequal` some
rows are too few.
"""


@pytest.mark.parametrize(("pool", "task"), LEARNED)
def test_a_shipped_adapter_adds_to_its_base(pool: str, task: str) -> None:
    path = assets_folder() / "adapters" / pool / task / "mergescope.json"
    measured = json.loads(path.read_text())["test_accuracy"]
    assert measured["adapter"] > measured["base"] - 0.005


@pytest.mark.parametrize("base", EMBEDDED)
def test_the_shipped_pools_belong_to_the_embedded_bases(base: str) -> None:
    expected = fingerprint(load_base(base)[0])
    mine = [(pool, task) for pool, task in ADAPTERS if SHIPPED[pool].base == base]
    recorded = {Adapter.load(assets_folder() / "adapters" / pool / task).base_fingerprint for pool, task in mine}
    assert recorded == {expected}


@pytest.mark.parametrize("pool", SHIPPED)
def test_the_slider_can_stand_at_every_tuned_scaling(pool: str) -> None:
    tuned = best_scalings(read_table(assets_folder() / "tables" / f"sweep_{pool}.csv"))
    for method, scaling in tuned.items():
        if method in METHODS:
            steps = scaling / SCALING.step
            assert steps == pytest.approx(round(steps)), (method, scaling)


@pytest.mark.parametrize("path", sorted((assets_folder() / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_is_one_and_says_that_it_was_not_run(path: Path) -> None:
    text = path.read_text()
    recipe = Recipe.from_yaml(text)
    METHODS[recipe.method].check(recipe.params)
    assert text.startswith("# Not run here.")
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", str(entry.path)) and entry.task for entry in recipe.adapters)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_page(method: str) -> None:
    page = METHODS[method].doc
    assert len(page.split("\n\n")[0]) > 40
    assert "References" in page
    assert all(param.help for param in METHODS[method].params)
