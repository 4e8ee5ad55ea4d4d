"""What goes with the gap recovered: what is drawn is what was measured, and the captions say no more than that."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from merging.experiments.bank import ON_DATA, WEIGHTS_ONLY
from merging.experiments.correlations import markdown_bank, write_correlations
from viz.figures.theme import ACCENT, MUTED, OKABE_ITO
from viz.figures.validation import TITLES, correlation_forest, diagnostic_against_gap
from viz.panels.diagnose.bank import EXPECTED, BankViews

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
    """Merges that recover less the larger their magnitude variance is, and otherwise at random."""
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
        granularity="column",
        max_up=np.inf,
        renormalise=False,
        accuracy_kept=0.9,
        mu=random.choice([0.0, 0.3], rows),
        gap_recovered=1.0 - 0.2 * bank.magnitude_variance + 0.005 * random.normal(size=rows),
    )


def written(bank: pd.DataFrame, folder: Path) -> Path:
    bank.to_csv(folder / "bank_merges.csv", index=False)
    return folder / "bank_merges.csv"


@pytest.fixture(scope="module")
def bank() -> pd.DataFrame:
    return bank_table()


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory, bank: pd.DataFrame) -> BankViews:
    tables = tmp_path_factory.mktemp("tables")
    write_correlations(written(bank, tables), samples=150)
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
    figure = diagnostic_against_gap(with_titles(bank), "cosine")
    go.Figure(figure)
    assert [trace["name"] for trace in figure["data"]] == ["default", "osrm"]
    assert [trace["marker"]["color"] for trace in figure["data"]] == list(OKABE_ITO[:2])
    for trace in figure["data"]:
        mine = bank[bank.pool == trace["name"]]
        assert (trace["x"], trace["y"]) == (mine.cosine.tolist(), mine.gap_recovered.tolist())
    assert figure["layout"]["xaxis"]["title"]["text"] == "cosine of updates (−1 to 1)"


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0.1, 10.0, "log"), (0.1, 1.0, None), (-1.0, 30.0, None), (0.0, 1.0, None), (1e-17, 1.0, None)],
)
def test_an_axis_is_logarithmic_only_where_values_are_positive_and_far_apart(
    low: float, high: float, kind: str | None
) -> None:
    bank = bank_table()
    figure = diagnostic_against_gap(with_titles(bank.assign(distance=np.linspace(low, high, len(bank)))), "distance")
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


def test_all_views_come_from_the_table(views: BankViews, bank: pd.DataFrame) -> None:
    assert views.available
    forest = opened(views.forest())
    assert [row[2] for row in forest["table"]["rows"]] == [name for _, name in views.diagnostics]
    for title, name in views.diagnostics:
        shown = opened(views.scatter(name))
        assert TITLES[name].name == title
        assert sum(len(trace["x"]) for trace in shown["figure"]["data"]) == len(bank)
        assert len(set(shown["table"]["columns"])) == len(shown["table"]["columns"])
        assert "n = 96 merges of 8 task subsets" in shown["caption"]


def test_the_hover_names_the_merge(views: BankViews, bank: pd.DataFrame) -> None:
    row = views.bank[(bank.orthogonalize == "balanced") & (bank.decouple > 0) & (bank.mu > 0)].iloc[0]
    settings, tasks = row["merge"].split("<br>")
    title, rest = {
        "ties": ("TIES", " · density 0.2 · trim module · election unweighted"),
        "svd": ("Truncated SVD", ""),
    }[row.method]
    assert settings == f"{title} · λ {row.scaling:g}{rest} · orthogonalize balanced · γ 0.5 · μ 0.3, k 100"
    assert len(tasks.split(", ")) == row.tasks
    plain = views.bank[(bank.orthogonalize == "off") & (bank.decouple == 0) & (bank.mu == 0)].iloc[0]
    assert plain["merge"].count(",") == plain.tasks_merged.count("+")


def test_figure_1c_says_what_the_paper_claims_and_what_was_measured(views: BankViews) -> None:
    caption = opened(views.scatter("magnitude_variance"))["caption"]
    rho = views.correlations.set_index("diagnostic").rho["magnitude_variance"]
    assert f"ρ = {rho:+.2f}" in caption
    assert "DO-Merging's figure 1c" in caption
    assert "Over all merges this is seen here; at the same method and λ this is seen here." in caption


def test_a_claim_is_said_to_be_reversed_or_not_seen_where_it_is(tmp_path: Path) -> None:
    bank = bank_table()
    write_correlations(written(bank.assign(gap_recovered=2.0 - bank.gap_recovered), tmp_path), samples=150)
    views = BankViews(tmp_path)
    assert "this is reversed here" in opened(views.scatter("magnitude_variance"))["caption"]
    quiet = views.correlations.set_index("diagnostic")
    [name] = [name for name in EXPECTED if not quiet.predicts[name] and not quiet.predicts_within[name]][:1]
    assert opened(views.scatter(name))["caption"].count("this is not seen here") == 2


def test_the_sentence_is_what_the_command_prints_with_names_for_people(views: BankViews, bank: pd.DataFrame) -> None:
    printed = markdown_bank(views.path.parent).rpartition("\n")[2]
    assert views.sentence.startswith("96 merges of 8 task subsets.")
    assert "magnitude variance (" in views.sentence
    for name, title in TITLES.items():
        printed = printed.replace(f" {name} (", f" {title.name} (")
    assert views.sentence.startswith(printed)


def test_a_bank_that_is_not_full_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    bank = bank_table().iloc[:40]
    bank.loc[:3, "gap_recovered"] = np.nan
    write_correlations(written(bank, tmp_path), samples=20)
    views = BankViews(tmp_path)
    assert "n = 36 merges of 8 task subsets" in opened(views.forest())["caption"]
    assert sum(len(trace["x"]) for trace in opened(views.scatter("distance"))["figure"]["data"]) == 36
    assert views.sentence.startswith("36 merges of 8 task subsets.")


def test_a_bank_without_its_correlations_says_how_to_make_them(tmp_path: Path) -> None:
    written(bank_table(), tmp_path)
    assert "mergescope correlations" in BankViews(tmp_path).sentence
    assert BankViews(tmp_path).diagnostics == []


def test_without_a_table_every_view_says_how_to_make_it(tmp_path: Path) -> None:
    views = BankViews(tmp_path)
    assert not views.available
    assert views.diagnostics == []
    assert "mergescope experiment bank" in views.sentence
    for text in (views.forest(), views.scatter("distance")):
        assert "mergescope experiment bank" in opened(text)["caption"]
