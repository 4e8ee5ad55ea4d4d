"""``try`` prints what the playground answers, ``broke`` what an evaluation counts; failures are one sentence."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from merging import Adapter, MergeError, Recipe, merge
from merging.cli.main import cli
from merging.cli.recipes import opened
from merging.io.assets import assets_folder
from merging.playground import predictions, question_of, weights_by_task
from merging.tasks.task import Task

POOL = assets_folder() / "adapters" / "papers"
NAMES = ("trec", "sms_spam", "movie")
FOLDERS = [str(POOL / name) for name in NAMES]
TEXT = "What is a leaky heart valve ?"


def run(*words: object) -> str:
    done = CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    adapters = [Adapter.load(folder) for folder in FOLDERS]
    path = tmp_path_factory.mktemp("merge") / "recipe.yaml"
    path.write_text(Recipe.of(merge(adapters, "task_arithmetic", scaling=1.0).spec, adapters).to_yaml())
    return path


def test_try_prints_the_answers_and_who_did_it(tmp_path: Path) -> None:
    out = run(
        "try",
        *FOLDERS,
        "--text",
        TEXT,
        "--scaling",
        1.0,
        "--text",
        "Hello <b>you</b>",
        "--task",
        "trec",
        "-o",
        tmp_path / "said.csv",
    )
    adapters = [Adapter.load(folder) for folder in FOLDERS]
    model, tokenizer = opened(adapters, None)
    questions = [question_of(a, Task.load(a.task)) for a in adapters]
    merged = merge(adapters, "task_arithmetic", scaling=1.0)
    frame = predictions(model, tokenizer, [TEXT], questions, {"merge": weights_by_task(merged, NAMES)})
    best = frame.loc[frame[frame.task == "trec"].probability.idxmax()]
    assert f"{best.label} {best.probability:.2f}" in out
    assert "who did it: trec" in out
    table = pd.read_csv(tmp_path / "said.csv")
    assert set(table.text) == {TEXT, "Hello <b>you</b>"}
    mine = table[(table.source == "merge") & (table.text == TEXT)]
    assert mine.probability.to_numpy() == pytest.approx(frame.probability.to_numpy(), abs=1e-6)


def test_broke_prints_a_recount_of_the_evaluation(recipe: Path, tmp_path: Path) -> None:
    out = run("broke", recipe, "--task", "trec", "--rows", 40, "--show", 3, "-o", tmp_path / "rows.csv")
    table = pd.read_csv(tmp_path / "rows.csv")
    broken, mended = ((table.kind == kind).sum() for kind in ("broken", "mended"))
    assert f"of 40 test rows the merge breaks {broken} and mends {mended}" in out
    evaluated = run("evaluate", recipe, "--rows", 40).splitlines()
    line = next(line for line in evaluated if line.startswith("trec")).split()
    merged, adapter = float(line[1]), float(line[7])
    assert broken - mended == round(40 * (adapter - merged))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["try", *FOLDERS, "--text", " "], "empty"),
        (["try", *FOLDERS, "--text", "x", "--task", "bbc"], "bbc"),
        (["try", FOLDERS[0], FOLDERS[0], "--text", "x"], "Two adapters"),
        (["broke", FOLDERS[0], "--task", "trec"], "no recipe.yaml"),
    ],
)
def test_what_cannot_be_tried_is_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(MergeError, match=said):
        CliRunner().invoke(cli, words, catch_exceptions=False)
