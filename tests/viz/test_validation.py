"""What predicts accuracy: what is drawn is what was measured, and the captions say no more than that."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from merging.bank import ON_DATA, WEIGHTS_ONLY
from merging.prediction import correlations, cross_validated, markdown

from viz.figures.theme import ACCENT, MUTED, OKABE_ITO
from viz.figures.validation import TITLES, correlation_forest, diagnostic_against_accuracy, predicted_against_measured
from viz.panels.bank_views import EXPECTED, BankViews

SUBSETS = (
    "trec+movie",
    "movie+bbc",
    "trec+bbc",
    "trec+movie+bbc",
    "sms_spam+trec",
    "sms_spam+bbc",
    "sms_spam+movie",
    "trec+sms_spam+bbc",
)


def bank_table(rows: int = 96) -> pd.DataFrame:
    """Merges that keep less the larger their magnitude variance is, and otherwise at random."""
    random = np.random.default_rng(0)
    bank = pd.DataFrame({name: random.uniform(0.2, 1.0, rows) for name in (*WEIGHTS_ONLY, *ON_DATA)})
    return bank.assign(
        number=range(rows),
        pool=[("osrm", "default")[i % 2] for i in range(rows)],
        tasks_merged=[SUBSETS[i % len(SUBSETS)] for i in range(rows)],
        tasks=[1.0 + SUBSETS[i % len(SUBSETS)].count("+") for i in range(rows)],
        method=random.choice(["ties", "svd"], rows),
        scaling=random.choice([0.3, 1.0], rows),
        orthogonalize=random.choice(["off", "balanced"], rows),
        decouple=random.choice([0.0, 0.5], rows),
        mu=random.choice([0.0, 0.3], rows),
        normalised=1.0 - 0.2 * bank.magnitude_variance + 0.005 * random.normal(size=rows),
    )


@pytest.fixture(scope="module")
def bank() -> pd.DataFrame:
    return bank_table()


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory, bank: pd.DataFrame) -> BankViews:
    tables = tmp_path_factory.mktemp("tables")
    bank.to_csv(tables / "bank.csv", index=False)
    return BankViews(tables)


def opened(text: str) -> dict:
    """Unpack a payload, having checked that Plotly accepts the figure."""
    values = json.loads(text)
    go.Figure(values["figure"])
    return values


def with_titles(bank: pd.DataFrame) -> pd.DataFrame:
    return bank.assign(group=bank.pool, merge="a merge")


def correlation_table() -> pd.DataFrame:
    rows = [
        ("distance", False, -0.8, -0.9, -0.6, True, -0.3, -0.5, -0.1, True),
        ("interference", True, -0.3, -0.5, -0.1, True, -0.1, -0.3, 0.1, False),
        ("scaling", False, 0.1, -0.1, 0.2, False, np.nan, np.nan, np.nan, False),
    ]
    columns = [
        "diagnostic",
        "needs_data",
        "rho",
        "low",
        "high",
        "predicts",
        "within",
        "within_low",
        "within_high",
        "predicts_within",
    ]
    return pd.DataFrame(rows, columns=columns)


def test_every_diagnostic_of_the_bank_has_a_name_a_unit_and_a_meaning() -> None:
    assert set(TITLES) == {*WEIGHTS_ONLY, *ON_DATA}
    assert len({title.name for title in TITLES.values()}) == len(TITLES)
    assert all(title.unit and title.meaning.endswith(".") for title in TITLES.values())


def test_every_merge_is_a_point_in_the_colour_of_its_group(bank: pd.DataFrame) -> None:
    figure = diagnostic_against_accuracy(with_titles(bank), "cosine")
    go.Figure(figure)
    assert [trace["name"] for trace in figure["data"]] == ["default", "osrm"]
    assert [trace["marker"]["color"] for trace in figure["data"]] == list(OKABE_ITO[:2])
    for trace in figure["data"]:
        mine = bank[bank.pool == trace["name"]]
        assert (trace["x"], trace["y"]) == (mine.cosine.tolist(), mine.normalised.tolist())
    assert figure["layout"]["xaxis"]["title"]["text"] == "cosine of updates (−1 to 1)"


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0.1, 10.0, "log"), (0.1, 1.0, None), (-1.0, 30.0, None), (0.0, 1.0, None), (1e-17, 1.0, None)]
)
def test_an_axis_is_logarithmic_only_where_values_are_positive_and_far_apart(low: float, high: float, kind: str | None) -> None:
    bank = bank_table()
    figure = diagnostic_against_accuracy(with_titles(bank.assign(distance=np.linspace(low, high, len(bank)))), "distance")
    assert figure["layout"]["xaxis"].get("type") == kind


def test_the_forest_draws_both_correlations_and_colours_those_that_exclude_0() -> None:
    figure = correlation_forest(correlation_table())
    go.Figure(figure)
    json.dumps(figure, allow_nan=False)
    drawn = [(trace["name"], trace["marker"]["color"], trace["x"], trace["showlegend"]) for trace in figure["data"]]
    assert drawn == [
        ("all merges", ACCENT, [-0.8, -0.3], True),
        ("all merges", MUTED, [0.1], False),
        ("same method and λ", ACCENT, [-0.3], True),
        ("same method and λ", MUTED, [-0.1], False),
    ]
    np.testing.assert_allclose(figure["data"][0]["error_x"]["array"], [0.2, 0.2])
    np.testing.assert_allclose(figure["data"][0]["error_x"]["arrayminus"], [0.1, 0.2])
    labels = [note["text"] for note in figure["layout"]["annotations"]]
    assert labels == ["distance to the adapters", "interference, needs texts", "scaling λ"]


def test_a_diagnostic_stands_below_its_label_and_above_the_next() -> None:
    figure = correlation_forest(correlation_table())
    labels = [note["y"] for note in figure["layout"]["annotations"]]
    rows = [figure["data"][0]["y"][0], figure["data"][0]["y"][1], figure["data"][1]["y"][0]]
    assert all(label <= y < label + 46 for label, y in zip(labels, rows, strict=True))
    assert figure["layout"]["yaxis"]["range"][0] > max(rows) > figure["layout"]["yaxis"]["range"][1]


def test_the_band_lies_around_the_diagonal(bank: pd.DataFrame) -> None:
    predicted = bank.normalised + 0.01
    figure = predicted_against_measured(with_titles(bank), predicted, 0.02)
    go.Figure(figure)
    band, *points = figure["data"]
    np.testing.assert_allclose(np.abs(np.array(band["y"]) - np.array(band["x"])), 0.02)
    [diagonal] = figure["layout"]["shapes"]
    assert (diagonal["x0"], diagonal["x1"]) == (diagonal["y0"], diagonal["y1"]) == (predicted.min(), predicted.max())
    np.testing.assert_allclose(np.concatenate([np.array(p["x"]) - np.array(p["y"]) for p in points]), 0.01)


def test_all_views_come_from_the_table(views: BankViews, bank: pd.DataFrame) -> None:
    assert views.available
    forest, predictor = opened(views.forest()), opened(views.predictor())
    assert [row[0] for row in forest["table"]["rows"]] == [name for _, name in views.diagnostics]
    assert len(predictor["table"]["rows"]) == len(bank)
    for title, name in views.diagnostics:
        shown = opened(views.scatter(name))
        assert TITLES[name].name == title
        assert sum(len(trace["x"]) for trace in shown["figure"]["data"]) == len(bank)
        assert len(set(shown["table"]["columns"])) == len(shown["table"]["columns"])
        assert "n = 96 merges of 8 task subsets" in shown["caption"]


def test_the_hover_names_the_merge(views: BankViews, bank: pd.DataFrame) -> None:
    row = views.bank[(bank.orthogonalize == "balanced") & (bank.decouple > 0) & (bank.mu > 0)].iloc[0]
    settings, tasks = row["merge"].split("<br>")
    title = {"ties": "TIES", "svd": "Truncated SVD"}[row.method]
    assert settings == f"{title}, λ {row.scaling:g}, orthogonalized (balanced), decoupled 0.5, soft OSRM μ 0.3"
    assert len(tasks.split(", ")) == row.tasks
    plain = views.bank[(bank.orthogonalize == "off") & (bank.decouple == 0) & (bank.mu == 0)].iloc[0]
    assert plain["merge"].count(",") == 1 + plain.tasks_merged.count("+")


def test_figure_1c_says_what_the_paper_claims_and_what_was_measured(views: BankViews) -> None:
    caption = opened(views.scatter("magnitude_variance"))["caption"]
    rho = correlations(views.bank).set_index("diagnostic").rho["magnitude_variance"]
    assert f"ρ = {rho:+.2f}" in caption
    assert "DO-Merging's figure 1c" in caption
    assert "Over all merges this is seen here; at the same method and λ this is seen here." in caption


def test_a_claim_is_said_to_be_reversed_or_not_seen_where_it_is(tmp_path: Path) -> None:
    bank = bank_table()
    bank.assign(normalised=2.0 - bank.normalised).to_csv(tmp_path / "bank.csv", index=False)
    views = BankViews(tmp_path)
    assert "this is reversed here" in opened(views.scatter("magnitude_variance"))["caption"]
    quiet = views.correlations.set_index("diagnostic")
    [name] = [name for name in EXPECTED if not quiet.predicts[name] and not quiet.predicts_within[name]][:1]
    assert opened(views.scatter(name))["caption"].count("this is not seen here") == 2


def test_the_sentence_is_what_the_command_prints_with_names_for_people(views: BankViews, bank: pd.DataFrame) -> None:
    printed = markdown(bank).rpartition("\n")[2]
    assert views.sentence.startswith("96 merges of 8 task subsets.")
    assert "magnitude variance (" in views.sentence
    for name, title in TITLES.items():
        printed = printed.replace(f" {name} (", f" {title.name} (")
    assert views.sentence.startswith(printed)


def test_a_predictor_that_is_no_better_than_the_mean_is_not_praised(views: BankViews, tmp_path: Path) -> None:
    assert "The predictor is better." in opened(views.predictor())["caption"]
    bank = bank_table()
    shuffled = bank.assign(normalised=np.random.default_rng(3).permutation(bank.normalised))
    shuffled.to_csv(tmp_path / "bank.csv", index=False)
    assert not cross_validated(shuffled).useful
    other = BankViews(tmp_path)
    assert "no better than the mean" in opened(other.predictor())["caption"]
    assert "no better than the mean" in other.sentence


def test_without_a_table_every_view_says_how_to_make_it(tmp_path: Path) -> None:
    views = BankViews(tmp_path)
    assert not views.available
    assert views.diagnostics == []
    assert "mergescope experiment bank" in views.sentence
    for text in (views.forest(), views.predictor(), views.scatter("distance")):
        assert "mergescope experiment bank" in opened(text)["caption"]
