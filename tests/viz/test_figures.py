"""The figures, as numbers: what is drawn is what was given."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from fake_workbench import FakeWorkbench

from viz.figures.accuracy import accuracy_per_task
from viz.figures.experiment import accuracy_per_variant, averages_per_variant, forest, spread_per_variant
from viz.figures.magnitude import magnitude_distribution, magnitude_quantiles
from viz.figures.overlap import overlap_matrix, subspace_overlap
from viz.figures.quantisation import surviving_update
from viz.figures.rank import rank_against_k
from viz.figures.spectrum import seen_by_A, spectrum
from viz.figures.sweep import average_against_scaling
from viz.figures.theme import OKABE_ITO, PINS, axis, faint, task_colours
from viz.figures.training import drift_curve, loss_curve, validation_curve

TASKS = ["question type", "SMS spam", "news topic"]
TITLES = {"do_merging": "DO-Merging", "task_arithmetic": "Task Arithmetic", "average": "Average", "ties": "TIES"}


def accuracy_table() -> pd.DataFrame:
    """The last task has not been evaluated yet."""
    return pd.DataFrame(
        {
            "task": TASKS,
            "base": [0.6, 0.9, 0.8],
            "single": [0.9, 0.98, 0.97],
            "accuracy": [0.8, 0.97, np.nan],
            "low": [0.75, 0.93, np.nan],
            "high": [0.84, 0.99, np.nan],
            "rows": [200, 64, 0],
        }
    )


def sweep_table() -> pd.DataFrame:
    return FakeWorkbench().sweep("default")


def quantised_rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "module": ["layer.0.query", "layer.1.query"],
            "size": [0.01, 0.0],
            "nf4_error": [1.5, 0.0],
            "nf4_unchanged": [0.9, 1.0],
            "int8_error": [0.2, 0.0],
            "int8_unchanged": [0.4, 1.0],
        }
    )


def figures() -> dict[str, dict]:
    columns = pd.DataFrame({"task": np.repeat(TASKS, 50), "log10_norm": np.linspace(-2, 0, 150)})
    pairs = pd.DataFrame({"adapter_a": [TASKS[0]], "adapter_b": [TASKS[1]], "overlap": [0.25]})
    curve = pd.DataFrame({"k": [5, 50, 100], "rank": [5, 50, 90], "energy_rank": [4, 20, 30]})
    pins = pd.DataFrame({"name": ["A"], "run": ["one"], "colour": [PINS[0]], "task": [TASKS[0]], "accuracy": [0.7]})
    columns_of_pins = ["run", "colour", "scaling", "average", "low", "high"]
    pinned = pd.DataFrame([("one", PINS[0], 0.3, 0.7, 0.68, 0.72)], columns=columns_of_pins)
    return {
        "accuracy": accuracy_per_task(accuracy_table(), pd.Series({TASKS[2]: 0.9}), pins),
        "sweep": average_against_scaling(
            sweep_table(), "do_merging", TITLES, scaling=0.5, current=(0.8, 0.78, 0.82), pins=pinned
        ),
        "magnitude": magnitude_distribution(*[magnitude_quantiles(columns, TASKS)] * 2, TASKS),
        "overlap": subspace_overlap(overlap_matrix(pairs, TASKS)),
        "quantisation": surviving_update(quantised_rows()),
        "rank": rank_against_k(curve, TASKS[0], OKABE_ITO[0]),
        **osrm_figures(),
    }


def osrm_figures() -> dict[str, dict]:
    colours, variants = task_colours(TASKS), {"gaussian_shared": "PEFT gaussian", "osrm": "OSRM"}
    steps = pd.DataFrame({"task": TASKS[0], "step": [1, 2], "loss": [0.7, 0.5]})
    epochs = pd.DataFrame(
        {"task": TASKS[0], "step": [2], "validation": [0.8], "frobenius": [0.1], "procrustes": [0.05]}
    )
    curve = pd.DataFrame(
        {"variant": ["osrm", "osrm", "gaussian_shared"], "scaling": [1.0, 0.5, 0.5], "average": [0.7, 0.8, 0.6]}
    )
    runs = pd.DataFrame(
        {"variant": ["osrm", "gaussian_shared"], "run": ["a", "b"], "drift": [0.1, 0.2], "rotated": [0.1, 0.15]}
    )
    return {
        "spectrum": spectrum(eigenvalues(), 2, "inputs of the others"),
        "seen": seen_by_A(seen_table(), colours),
        "loss": loss_curve(steps, colours, 4),
        "validation": validation_curve(epochs, colours, 4),
        "drift": drift_curve(epochs, colours, 4),
        "per variant": accuracy_per_variant(curve, "scaling", variants, "scaling λ"),
        "spread": spread_per_variant(
            runs, {"drift": "as it is", "rotated": "rotation taken out"}, variants, axis("drift")
        ),
        "per series": accuracy_per_variant(series_table(), "k", variants, "texts", "average accuracy (test)"),
        "averages": averages_per_variant(gap_table(), variants, axis("gap recovered")),
        "forest": forest(effects_table(), {"ties": "TIES", "emr": "EMR"}),
    }


def series_table() -> pd.DataFrame:
    rows = [
        ("osrm", "best λ", 10, 0.8),
        ("osrm", "best λ", 500, 0.82),
        ("osrm", "λ 1", 10, 0.6),
        ("osrm", "λ 1", 500, 0.7),
    ]
    return pd.DataFrame(rows, columns=["variant", "series", "k", "average"])


def gap_table() -> pd.DataFrame:
    rows = [
        ("osrm", "λ 1", 0.5, 0.4, 0.6, 2),
        ("osrm", "best λ", 0.7, 0.6, 0.8, 2),
        ("gaussian_shared", "λ 1", -0.2, -0.4, 0.1, 1),
    ]
    return pd.DataFrame(rows, columns=["variant", "series", "value", "low", "high", "n"])


def eigenvalues() -> pd.DataFrame:
    return pd.DataFrame(
        {"index": [1, 2, 3, 4], "eigenvalue": [0.0, 0.0, 1e-3, 1.0], "chosen": [True, True, True, False]}
    )


def seen_table() -> pd.DataFrame:
    return pd.DataFrame({"task": TASKS, "own": [True, False, False], "share": [0.1, 0.02, 0.01], "random": 0.144})


def effects_table() -> pd.DataFrame:
    rows = [
        (effect, method, 2, 0.02, -0.01, 0.05)
        for effect in ("one thing", "another " * 10)
        for method in ("ties", "emr")
    ]
    return pd.DataFrame(rows, columns=["effect", "series", "n", "difference", "low", "high"])


@pytest.fixture(params=sorted(figures()))
def figure(request: pytest.FixtureRequest) -> dict:
    return figures()[request.param]


def test_every_figure_is_one_that_plotly_accepts(figure: dict) -> None:
    go.Figure(figure)


def test_no_figure_holds_nan(figure: dict) -> None:
    json.dumps(figure, allow_nan=False)


def test_no_text_is_below_12_px(figure: dict) -> None:
    def sizes(node: object, path: str = "") -> list[float]:
        if isinstance(node, dict):
            found = [size for key, value in node.items() for size in sizes(value, f"{path}.{key}")]
            return found + ([node["size"]] if "font" in path.rsplit(".", 1)[-1] and "size" in node else [])
        return [size for item in node for size in sizes(item, path)] if isinstance(node, list) else []

    assert min(sizes(figure)) >= 12


def test_colours_of_the_page_come_from_its_theme(figure: dict) -> None:
    layout = figure["layout"]
    assert layout["font"]["color"].startswith("var(--")
    assert layout["xaxis"]["gridcolor"].startswith("var(--")
    assert layout["paper_bgcolor"] == "rgba(0,0,0,0)"


def test_axes_name_their_quantity() -> None:
    drawn = figures()
    titles = {
        name: (drawn[name]["layout"]["xaxis"]["title"] or {}).get("text")
        for name in drawn
        if name not in osrm_figures()
    }
    assert titles == {
        "accuracy": "accuracy on the test split",
        "sweep": "scaling λ",
        "magnitude": "log₁₀ column norm of B·A",
        "overlap": None,
        "quantisation": "size of the update, ‖ΔW‖ / ‖W₀‖",
        "rank": "texts k",
    }
    assert all(drawn[name]["layout"]["xaxis"]["title"]["text"] for name in osrm_figures())
    assert drawn["sweep"]["layout"]["yaxis"]["title"]["text"] == "average accuracy"
    assert drawn["rank"]["layout"]["yaxis"]["title"]["text"] == "rank of the features"


def test_accuracy_shows_the_merge_with_its_interval_where_there_is_one() -> None:
    merge = accuracy_per_task(accuracy_table())["data"][-1]
    assert merge["x"] == [0.8, 0.97]
    assert merge["y"] == TASKS[:2]
    assert merge["marker"]["color"] == list(OKABE_ITO[:2])
    np.testing.assert_allclose(merge["error_x"]["array"], [0.04, 0.02])
    np.testing.assert_allclose(merge["error_x"]["arrayminus"], [0.05, 0.04])


def test_accuracy_shows_the_settings_before_only_until_a_task_has_a_new_estimate() -> None:
    before = pd.Series({TASKS[0]: 0.5, TASKS[2]: 0.9})
    traces = {trace.get("name"): trace for trace in accuracy_per_task(accuracy_table(), before)["data"]}
    assert traces["settings before"]["y"] == [TASKS[2]]
    assert traces["settings before"]["x"] == [0.9]


def test_accuracy_axis_stands_still_while_estimates_come_in() -> None:
    table = accuracy_table()
    empty = table.assign(accuracy=np.nan, low=np.nan, high=np.nan, rows=0)
    limits = [accuracy_per_task(rows)["layout"]["xaxis"]["range"] for rows in (table, empty)]
    assert limits[0] == limits[1]
    sunk = table.assign(accuracy=[0.25, 0.93, np.nan])
    assert accuracy_per_task(sunk)["layout"]["xaxis"]["range"][0] == pytest.approx(0.1)


def test_sweep_marks_lambda_and_highlights_one_method() -> None:
    figure = average_against_scaling(sweep_table(), "do_merging", TITLES, scaling=0.45)
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [0.45]
    curves = {trace["name"]: trace for trace in figure["data"] if trace.get("name")}
    assert set(curves) == set(TITLES.values())
    widths = {name: trace["line"]["width"] for name, trace in curves.items()}
    assert max(widths, key=widths.__getitem__) == "DO-Merging"
    own = sweep_table().query("method == 'do_merging'")
    assert curves["DO-Merging"]["y"] == own["average"].tolist()


def test_many_methods_share_one_line_of_the_legend() -> None:
    rows = [(f"m{n}", scaling, 0.7, 0.68, 0.72) for n in range(12) for scaling in (0.2, 0.4)]
    sweep = pd.DataFrame(rows, columns=["method", "scaling", "average", "low", "high"])
    traces = average_against_scaling(sweep, "m3", {})["data"]
    named = [trace["name"] for trace in traces if trace.get("name") and trace.get("showlegend", True)]
    assert named == ["other methods", "m3"]
    assert sum(trace.get("name") == "other methods" for trace in traces) == 11
    assert "m7" in "".join(trace.get("hovertemplate", "") for trace in traces)


def test_sweep_draws_a_method_without_lambda_as_a_level() -> None:
    sweep = sweep_table()
    level = next(
        trace for trace in average_against_scaling(sweep, "average", TITLES)["data"] if trace.get("name") == "Average"
    )
    assert level["x"] == sorted(sweep["scaling"].dropna().unique())
    assert len(set(level["y"])) == 1
    assert "no λ" in level["hovertemplate"]
    assert any(trace.get("fill") for trace in average_against_scaling(sweep, "average", TITLES)["data"])
    assert average_against_scaling(sweep, "average", TITLES)["layout"]["shapes"] == []


def test_a_sweep_beyond_the_slider_squeezes_only_its_own_figure() -> None:
    rows = [(name, scaling, 0.7, 0.68, 0.72) for name in ("a", "b") for scaling in (0.5, 1.5)] + [
        ("b", 6.0, 0.7, 0.68, 0.72)
    ]
    sweep = pd.DataFrame(rows, columns=["method", "scaling", "average", "low", "high"])
    assert average_against_scaling(sweep, "a", {})["layout"]["xaxis"]["range"][1] < 3
    assert "range" not in average_against_scaling(sweep, "b", {})["layout"]["xaxis"]


def test_sweep_keeps_pinned_runs_and_shows_the_merge_itself() -> None:
    pins = pd.DataFrame(
        [("a", PINS[0], 0.2, 0.7, 0.69, 0.71), ("b", PINS[1], 0.6, 0.75, 0.73, 0.77)],
        columns=["run", "colour", "scaling", "average", "low", "high"],
    )
    traces = average_against_scaling(sweep_table(), "ties", TITLES, scaling=1.0, current=(0.8, 0.77, 0.82), pins=pins)[
        "data"
    ]
    assert [(trace["name"], trace["x"]) for trace in traces[-3:-1]] == [("a", [0.2]), ("b", [0.6])]
    assert [trace["marker"]["color"] for trace in traces[-3:-1]] == [*PINS[:2]]
    assert traces[-1]["x"] == [1.0]
    assert traces[-1]["y"] == [0.8]
    np.testing.assert_allclose(traces[-1]["error_y"]["arrayminus"], [0.03])


def test_magnitude_reduces_columns_to_percentiles_and_leaves_dead_columns_out() -> None:
    columns = pd.DataFrame({"task": ["b"] * 101 + ["a"] * 2, "log10_norm": [*np.linspace(-1, 1, 101), -np.inf, 0.5]})
    quantiles = magnitude_quantiles(columns, ["a", "b", "missing"])
    assert list(quantiles.columns) == ["quantile", "a", "b"]
    np.testing.assert_allclose(quantiles["b"], np.linspace(-1, 1, 101), atol=1e-12)
    assert (quantiles["a"] == 0.5).all()
    traces = magnitude_distribution(quantiles, quantiles[["quantile", "b"]], ["a", "b", "missing"])["data"]
    assert [(trace["name"], trace["side"]) for trace in traces] == [
        ("a, merged", "negative"),
        ("b, merged", "negative"),
        ("b, as trained", "positive"),
    ]
    assert traces[1]["line"]["color"] == OKABE_ITO[1]


def test_overlap_is_symmetric_without_its_diagonal_on_a_fixed_scale() -> None:
    pairs = pd.DataFrame({"adapter_a": ["a", "c", "b"], "adapter_b": ["b", "a", "b"], "overlap": [0.1, 0.3, 1.0]})
    matrix = overlap_matrix(pairs, ["a", "b", "c"])
    assert matrix.loc["a", "b"] == matrix.loc["b", "a"] == 0.1
    assert matrix.loc["a", "c"] == 0.3
    assert np.isnan(np.diag(matrix)).all()
    heat = subspace_overlap(matrix)["data"][0]
    assert (heat["zmin"], heat["zmax"]) == (0, 1)
    assert heat["z"][0] == [None, 0.1, 0.3]
    assert heat["text"][0] == ["", ".10", ".30"]


def test_rank_shows_both_ranks_and_the_diagonal() -> None:
    curve = pd.DataFrame({"k": [5, 400], "rank": [5, 384], "energy_rank": [4, 120]})
    diagonal, rank, energy = rank_against_k(curve, "question type", OKABE_ITO[0])["data"]
    assert diagonal["x"] == diagonal["y"] == [0, 400]
    assert rank["y"] == [5, 384]
    assert energy["y"] == [4, 120]
    assert energy["line"]["dash"] != rank["line"]["dash"]


def test_a_task_keeps_its_colour() -> None:
    assert task_colours(TASKS) == dict(zip(TASKS, OKABE_ITO, strict=False))
    assert len(task_colours([str(n) for n in range(20)])) == 20
    assert faint("#0072B2", 0.4) == "rgba(0,114,178,0.4)"


def test_the_spectrum_marks_the_rows_of_A_and_the_end_of_the_null_space() -> None:
    figure = spectrum(eigenvalues(), 2, "inputs")
    every, rows = figure["data"]
    assert rows["x"] == [1, 2, 3]
    assert min(every["y"]) > 0  # a log axis has no zero
    assert figure["layout"]["shapes"][0]["x0"] == 2.5
    assert len(spectrum(eigenvalues().assign(chosen=False), 0, "inputs")["data"]) == 1


def test_what_A_sees_is_held_against_the_level_of_a_random_A() -> None:
    figure = seen_by_A(seen_table(), task_colours(TASKS))
    assert figure["data"][0]["y"][0] == f"{TASKS[0]} (own)"
    assert figure["layout"]["shapes"][0]["x0"] == 0.144
    assert figure["layout"]["xaxis"]["range"][1] > 0.144


def test_training_curves_stand_still_while_they_fill() -> None:
    none = pd.DataFrame(columns=["task", "step", "loss"])
    assert loss_curve(none, task_colours(TASKS), 40)["layout"]["xaxis"]["range"] == [0, 1.03 * 40]
    assert [trace["x"] for trace in loss_curve(none, task_colours(TASKS), 40)["data"]] == [[], [], []]


def test_a_shared_seed_is_dashed() -> None:
    lines = {trace["name"]: trace["line"]["dash"] for trace in osrm_figures()["per variant"]["data"]}
    assert lines == {"PEFT gaussian": "dash", "OSRM": "solid"}


def test_a_series_has_one_dash_and_one_line_of_the_legend_per_initialisation() -> None:
    lines = [(trace["y"], trace["line"]["dash"], trace["showlegend"]) for trace in osrm_figures()["per series"]["data"]]
    assert lines == [([0.8, 0.82], "solid", True), ([0.6, 0.7], "dash", False)]


def test_averages_stand_in_the_row_of_their_initialisation_with_their_interval() -> None:
    figure = averages_per_variant(
        gap_table(), {"gaussian_shared": "baseline", "osrm": "OSRM", "none": "not measured"}, axis("gap")
    )
    assert figure["layout"]["yaxis"]["ticktext"] == ["baseline", "OSRM"]
    first, second = figure["data"]
    assert [round(y) for y in first["y"]] == [1, 0]
    assert [round(y) for y in second["y"]] == [1]
    np.testing.assert_allclose(first["error_x"]["array"], [0.1, 0.3])
    np.testing.assert_allclose(first["error_x"]["arrayminus"], [0.1, 0.2])


def test_effects_are_points_of_accuracy_with_a_row_each() -> None:
    figure = forest(effects_table(), {"ties": "TIES", "emr": "EMR", "none": "not measured"})
    assert [trace["name"] for trace in figure["data"]] == ["TIES", "EMR"]
    assert figure["data"][0]["x"] == [2, 2]
    rows = [y for trace in figure["data"] for y in trace["y"]]
    assert len(set(rows)) == len(rows)
    labels = [note["y"] for note in figure["layout"]["annotations"]]
    assert all(label < row for label, row in zip(labels, sorted(rows)[::2], strict=True))


def test_every_module_is_a_point_per_format_and_one_is_the_line_of_no_use():
    figure = surviving_update(quantised_rows())
    nf4, int8 = figure["data"]
    assert nf4["y"][0] == 1.5
    assert int8["y"][0] == 0.2
    assert min(nf4["y"] + nf4["x"]) > 0, "a zero update has a place on a logarithmic axis"
    assert nf4["customdata"][1] == ["layer.1.query", 1.0]
    assert figure["layout"]["shapes"][0]["y0"] == 1
