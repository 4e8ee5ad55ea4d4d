"""One method in one new file plus one line is everywhere: controls, help, command line, recipe, link, sweep, browser
and laws.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHOD = '''"""A method that only a test has."""

from __future__ import annotations

from ..adapters.lowrank import LowRank
from .base import SCALING, Method, Stack
from .linear import weighted_sum


def throw_away(stack: Stack, scaling: float) -> LowRank:
    """Add the updates up, once more: W = W0 + λ sum_i w_i B_i A_i.

    References
    ----------
    Nobody, "Nothing", 2026.
    """
    return weighted_sum(stack, scaling)


THROW_AWAY = Method("throw_away", "Throw-away", "Nobody, 2026", "factor", throw_away, (SCALING,), linear="sum")
'''
EVERYWHERE = """
import sys
import gradio as gr
import torch
from merging import METHODS, Recipe, merge_recipe
from merging.experiments.sweep import CONTENDERS
from merging.plugins import PLUGINS
from merging.services.link import from_query, settings_of_recipe, to_query
from merging.services.workbench import Workbench
from viz.panels.kit.help import method_page
from viz.panels.merge.controls import choose, controls, opening, read, restored

bench = Workbench()
settings = opening(bench, METHODS, "throw_away")
slider = choose(bench, METHODS, "papers", "throw_away")["slider_0"]
assert (slider["label"], slider["visible"]) == (METHODS["task_arithmetic"].params[0].label, True)
assert "once more" in method_page(METHODS["throw_away"])
with gr.Blocks():
    form = controls(bench, METHODS, PLUGINS).form
assert ("Throw-away", "throw_away") in form["method"].choices, form["method"].choices
shown = {name: options.get("value") for name, options in restored(bench, METHODS, settings).items()}
assert read(bench, METHODS, shown) == settings
assert from_query(to_query(settings), bench)[0] == settings
assert settings_of_recipe(bench.recipe(settings), bench) == settings
assert bench.diagnosis(settings).linear == "sum"
assert CONTENDERS["throw_away"].merge(bench.adapters("papers"), 0.3).spec.scaling == 0.3
again = merge_recipe(Recipe.from_yaml(open(sys.argv[1]).read()))
assert (again.spec.method, again.spec.scaling) == ("throw_away", 0.35)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with one method more."""
    root = tmp_path_factory.mktemp("house")
    for folder in ("merging", "viz", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for file in ("app.py", "pyproject.toml"):
        shutil.copy(ROOT / file, root / file)
    (root / "assets").symlink_to(ROOT / "assets")
    (root / "merging/methods/throw_away.py").write_text(METHOD)
    home = root / "merging/methods/__init__.py"
    text = home.read_text()
    line = "from .throw_away import THROW_AWAY\nfrom .ties import"
    home.write_text(
        text.replace("from .ties import", line).replace(
            "PEFT_LINEAR, PEFT_TIES)", "PEFT_LINEAR, PEFT_TIES, THROW_AWAY)"
        )
    )
    return root


def run(house: Path, *words: str | Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(house), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=house, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_method_is_one_file_and_one_line(house: Path) -> None:
    assert "throw_away" in run(house, "-m", "merging.cli", "methods")
    assert "once more" in run(house, "-m", "merging.cli", "methods", "throw_away")
    adapters = [house / "assets/adapters/papers" / task for task in ("trec", "movie")]
    options = ["--method", "throw_away", "--scaling", ".35", "-o", house / "out"]
    run(house, "-m", "merging.cli", "merge", *adapters, *options)
    run(house, "-c", EVERYWHERE, house / "out/recipe.yaml")
    laws = run(house, "-m", "pytest", "-n0", "-q", "-k", "throw_away", "tests/merging/methods/test_laws.py")
    assert "failed" not in laws
