"""DO-Merging's figures: what is drawn is what the tables hold, and what is missing is said."""

import json
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from merging.experiments.ledger import Ledger
from merging.experiments.sweep import ALONE, BASE, pack
from viz.figures.do_magnitude import titles_of
from viz.panels.diagnose.do_views import NEEDS, DoViews

ROWS = 40


def row(right: int, **key: object) -> dict[str, object]:
    return key | {"correct": right, "total": ROWS, "hits": pack("1" * right + "0" * (ROWS - right))}


def measured(right: int, method: str, scaling: float, **key: object) -> list[dict[str, object]]:
    splits = ("validation", "test") if method != ALONE else ("test",)
    return [
        row(right, **key, method=method, scaling=scaling, split=split, task=task)
        for split in splits
        for task in ("a", "b")
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return tables of every figure: Task Arithmetic loses at λ 1, DO-Merging does not."""
    tables: dict[str, list[dict[str, object]]] = {
        name: [] for name in {name for names in NEEDS.values() for name in names}
    }
    for name in ("default", "papers", "full", "epochs-1", "epochs-2", "rank-2"):
        for method, right in ((BASE, 10), (ALONE, 36)):
            tables["ends"] += [row(right, method=method, scaling=0.0, task=task, set=name) for task in ("a", "b")]

    def both(table: str, **key: object) -> None:
        for method, rights in (("task_arithmetic", (28, 14)), ("do_merging", (26, 32))):
            for scaling, right in zip((0.3, 1.0), rights, strict=True):
                tables[table] += measured(right, method, scaling, **key)

    for name in ("default", "full"):
        both("methods", set=name, rank=0)
    for rank in (2, 8):
        both("ranks", rank=rank)
        both("truncation", rank=rank)
        tables["truncation"] += measured(30, ALONE, 0.0, rank=rank)
    for epochs in (1, 2):
        both("epochs", epochs=epochs)
    lie = {"cosine": 0.2, "overlap_A": 0.3, "overlap_B": 0.3, "moved": 0.0}
    for penalty, steps in ((0.0, 0), (0.1, 5), (1.0, 5)):
        key = {"pool": "papers", "penalty": penalty, "steps": steps}
        both("descent", **key)
        tables["descent"] += measured(36, ALONE, 0.0, **key)
        tables["descent_geometry"].append(key | lie | {"cosine": 0.2 / (1 + steps)})
    for strength in (0.0, 1.0):
        key = {"pool": "papers", "side": "A", "strength": strength}
        both("directions", **key)
        tables["directions"] += measured(36, ALONE, 0.0, **key)
        tables["directions_geometry"].append(key | lie)
    for scaled, factor in (("none", 1.0), ("a", 4.0)):
        key = {"pool": "default", "scaled": scaled, "factor": factor}
        both("imbalance", **key, variant="task_arithmetic")
        tables["imbalance_geometry"].append(key | {"variance": factor, "norm_ratio": 1.0})
    for component in ("none", "both"):
        both("components", pool="papers", component=component)
    tables["variance"] = [
        {"source": source, "module": module, "variance": value, "norm_ratio": 1.0}
        for source, value in (("default", 0.4), ("full", 0.1), ("default, decoupled", 0.0))
        for module in ("m", "n")
    ]
    tables["truncation_energy"] = [{"rank": rank, "task": "a", "energy": rank / 10} for rank in (2, 8)]
    for name, rows in tables.items():
        Ledger(tmp_path, "do").append(name, pd.DataFrame(rows))
    return tmp_path


def opened(text: str) -> dict:
    values = json.loads(text)
    go.Figure(values["figure"])
    return values


@pytest.mark.parametrize("figure", list(NEEDS))
def test_every_figure_is_drawn_with_claim_outcome_and_table(figure: str, folder: Path) -> None:
    values = opened(DoViews(folder).show(figure))
    assert values["figure"]["data"]
    assert values["caption"].startswith("Claim: ")
    assert values["table"]["rows"]
    assert values["filename"] == f"mergescope_do_{figure}"


@pytest.mark.parametrize("figure", list(NEEDS))
def test_a_figure_without_tables_says_what_makes_them(figure: str, tmp_path: Path) -> None:
    values = opened(DoViews(tmp_path).show(figure))
    assert values["figure"]["data"] == []
    assert "mergescope experiment do" in values["caption"]


def test_an_unknown_choice_shows_the_first_figure_that_there_is(folder: Path) -> None:
    views = DoViews(folder)
    assert views.first == "1a"
    assert views.show(None) == views.show("1a")
    (folder / "do_methods.csv").unlink()
    assert views.first == "1b"


def test_figure_1a_draws_the_gap_at_each_scaling(folder: Path) -> None:
    figure = json.loads(DoViews(folder).show("1a"))["figure"]
    drawn = {(trace["name"], trace["marker"]["symbol"]): trace["x"] for trace in figure["data"]}
    # (28 - 10) / 26 at λ 0.3, (14 - 10) / 26 at λ 1, the first of them is best; DO-Merging: 16 / 26, 22 / 26
    assert drawn["LoRA", "circle-open"] == pytest.approx([18 / 26, 16 / 26])
    assert drawn["full fine-tunes", "circle"] == pytest.approx([4 / 26, 22 / 26])
    assert drawn["LoRA", "diamond"] == pytest.approx([18 / 26, 22 / 26])


def test_the_descent_goes_on_along_a_line_of_figure_3b(folder: Path) -> None:
    figure = json.loads(DoViews(folder).show("3b"))["figure"]
    assert all(trace["x"] == pytest.approx([0.2, 0.2 / 6]) for trace in figure["data"])
    assert {tuple(trace["y"]) for trace in figure["data"]} == {(0.7, 0.7), (0.35, 0.35)}


def test_truncations_stand_in_order_with_the_energy_they_keep(folder: Path) -> None:
    x = json.loads(DoViews(folder).show("5"))["figure"]["layout"]["xaxis"]
    assert x["ticktext"] == ["2 (20%)", "8 (80%)", "all"]


def test_base_and_own_adapters_look_different(folder: Path) -> None:
    figure = json.loads(DoViews(folder).show("4c"))["figure"]
    marks = {trace["name"]: trace["marker"]["symbol"] for trace in figure["data"]}
    assert (marks["each alone"], marks["base with the tasks' heads"]) == ("circle", "circle-open")


def test_a_figure_follows_its_table(folder: Path) -> None:
    views = DoViews(folder)
    before = views.show("1b")
    Ledger(folder, "do").append(
        "variance", pd.DataFrame([{"source": "full", "module": "o", "variance": 9.0, "norm_ratio": 1.0}])
    )
    assert views.show("1b") != before


def test_sources_of_variance_are_named_full_fine_tunes_first() -> None:
    sources = ["osrm", "osrm, decoupled", "full, lr 0.1, 9 rows", "full"]
    assert list(titles_of(sources, {"osrm": "OSRM's init"}).items()) == [
        ("full", "full fine-tunes"),
        ("full, lr 0.1, 9 rows", "full fine-tunes, lr 0.1, 9 rows"),
        ("osrm", "OSRM's init"),
        ("osrm, decoupled", "OSRM's init, decoupled"),
    ]
