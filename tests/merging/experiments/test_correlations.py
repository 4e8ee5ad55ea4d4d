"""What goes with what a merge recovers: the statistics are the textbook's, and no forecast is flattered."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from merging import MergeError
from merging.cli.main import cli
from merging.experiments.bank import ON_DATA, SIZE, WEIGHTS_ONLY
from merging.experiments.correlations import (
    correlations,
    forecast_error,
    markdown_bank,
    read_bank,
    statement,
    write_correlations,
)


def made_up_bank(noise: float = 0.01, rows: int = 120) -> pd.DataFrame:
    """Return a bank in which the gap recovered falls with `distance` and nothing else matters."""
    random = np.random.default_rng(0)
    bank = pd.DataFrame({name: random.normal(size=rows) for name in (*WEIGHTS_ONLY, *ON_DATA)})
    subsets = ["+".join(f"task-{(i + j) % 6}" for j in range(2 + i // 6)) for i in range(12)]
    bank["tasks_merged"] = [subsets[i % 12] for i in range(rows)]
    return bank.assign(
        number=range(rows),
        pool="default",
        method=random.choice(["ties", "svd", "task_arithmetic"], rows),
        orthogonalize="off",
        decouple=0.0,
        granularity="column",
        max_up=math.inf,
        renormalise=False,
        mu=0.0,
        scaling=random.choice([0.3, 1.0], rows),
        tasks=[2.0 + i % 12 // 6 for i in range(rows)],
        rows=80,
        gap_recovered=0.9 - 0.05 * bank.distance + noise * random.normal(size=rows),
        accuracy_kept=random.uniform(0.9, 1.0, rows),
    )


def shuffled(bank: pd.DataFrame) -> pd.DataFrame:
    """Return the bank with its outcomes dealt out anew, so that nothing predicts them."""
    return bank.assign(gap_recovered=np.random.default_rng(1).permutation(bank.gap_recovered))


def test_what_decides_comes_first_and_what_does_not_is_not_said_to_predict() -> None:
    table = correlations(made_up_bank(), samples=150)
    assert table.diagnostic[0] == "distance"
    assert table.rho[0] < -0.9
    assert table.within[0] < -0.9
    assert table.predicts[0]
    assert table.predicts_within[0]
    assert table.predicts.sum() <= 4  # of 16 that have no effect, an interval of 95 % may miss 0 now and then
    assert table.predicts_within.sum() <= 4
    for value, low, high in (("rho", "low", "high"), ("within", "within_low", "within_high")):
        known = table.dropna(subset=value)
        assert (known[low] <= known[value]).all()
        assert (known[value] <= known[high]).all()


def test_nothing_comes_first_where_nothing_decides() -> None:
    table = correlations(shuffled(made_up_bank()), samples=150)
    assert table.predicts.sum() + table.predicts_within.sum() <= 6
    assert not table.set_index("diagnostic").predicts["distance"]


def test_rho_is_scipys_spearman_with_ties_too() -> None:
    bank = made_up_bank(noise=0.1).round(1)
    table = correlations(bank, samples=5).set_index("diagnostic")
    for name in (*WEIGHTS_ONLY, *ON_DATA):
        assert table.rho[name] == pytest.approx(stats.spearmanr(bank[name], bank.gap_recovered).statistic, abs=1e-12)


def partial(bank: pd.DataFrame, name: str) -> float:
    """Return the correlation of what a regression of the ranks on all dummies leaves."""
    dummies = [pd.get_dummies(bank.method + bank.scaling.astype(str)), pd.get_dummies(bank.tasks)]
    Z = np.hstack([frame.to_numpy(float) for frame in dummies])
    left = [
        ranks - Z @ np.linalg.lstsq(Z, ranks, rcond=None)[0]
        for ranks in map(stats.rankdata, (bank[name], bank.gap_recovered))
    ]
    return float(stats.pearsonr(*left).statistic)


def test_within_is_the_partial_correlation_of_the_ranks() -> None:
    bank = made_up_bank(noise=0.1).round(1)
    table = correlations(bank, samples=5).set_index("diagnostic")
    assert table.within[["scaling", "tasks"]].isna().all()
    for name in ("distance", "cosine", "interference"):
        assert table.within[name] == pytest.approx(partial(bank, name), abs=1e-9)


def test_a_sample_of_the_bootstrap_is_the_table_of_the_subsets_drawn() -> None:
    bank = made_up_bank(noise=0.1).round(1)
    groups = [group for _, group in bank.groupby("tasks_merged")]
    times = np.random.default_rng(4).multinomial(12, [1 / 12] * 12)
    drawn = pd.concat([group for group, count in zip(groups, times, strict=True) for _ in range(count)])
    table = correlations(bank, samples=1, seed=4).set_index("diagnostic")
    for name in ("distance", "cosine"):
        assert table.low[name] == pytest.approx(stats.spearmanr(drawn[name], drawn.gap_recovered).statistic, abs=1e-12)
        assert table.within_low[name] == pytest.approx(partial(drawn, name), abs=1e-9)


@pytest.mark.parametrize("confounder", ["scaling", "tasks", "method"])
def test_the_control_removes_what_the_settings_explain(confounder: str) -> None:
    bank = made_up_bank()
    random, level = np.random.default_rng(2), bank[confounder].factorize()[0]
    bank = bank.assign(
        gap_recovered=level + 0.3 * random.normal(size=120), overlap_A=level + 0.3 * random.normal(size=120)
    )
    row = correlations(bank, samples=150).set_index("diagnostic").loc["overlap_A"]
    assert row.rho > 0.6
    assert row.predicts
    assert abs(row.within) < 0.25
    assert not row.predicts_within


def test_the_control_finds_what_the_settings_hide() -> None:
    bank = made_up_bank()
    bank = bank.assign(gap_recovered=-bank.distance + 20 * bank.scaling)
    row = correlations(bank, samples=150).set_index("diagnostic").loc["distance"]
    assert row.within < -0.4
    assert row.within < row.rho
    assert row.predicts_within


def test_the_table_is_sorted_and_says_how_much_it_rests_on() -> None:
    bank = made_up_bank()
    bank.loc[:9, "gap_recovered"] = np.nan
    table = correlations(bank, samples=20)
    assert table.rho.abs().is_monotonic_decreasing
    assert set(table.merges) == {110}
    assert set(table.subsets) == {12}
    assert set(correlations(bank, "accuracy_kept", samples=20).merges) == {120}


# -- a forecast that nobody makes
# ----------------------------------------------------------------------------------------


def test_ridge_is_far_better_than_the_mean_where_there_is_something_to_know_and_only_there() -> None:
    ridge, mean = forecast_error(made_up_bank())
    assert ridge < mean / 2
    ridge, mean = forecast_error(shuffled(made_up_bank()))
    assert ridge > 0.8 * mean


def test_no_subset_is_both_learned_from_and_predicted() -> None:
    # each subset has its own level that no diagnostic tells: who peeks would predict it
    bank = shuffled(made_up_bank())
    levels = dict(zip(sorted(set(bank.tasks_merged)), np.random.default_rng(0).normal(size=12), strict=True))
    bank = bank.assign(**{name: bank.tasks_merged.map(levels) for name in WEIGHTS_ONLY[:3]})
    bank["gap_recovered"] = bank.tasks_merged.map(lambda name: levels[name] ** 2 % 1)
    ridge, mean = forecast_error(bank)
    assert ridge > 0.5 * mean


def test_a_bank_of_one_subset_is_refused() -> None:
    bank = made_up_bank().assign(tasks_merged="movie+bbc")
    for analysis in (correlations, forecast_error):
        with pytest.raises(MergeError, match="one task subset"):
            analysis(bank)


def test_the_sentence_keeps_or_refuses_the_forecast_by_half_the_means_error() -> None:
    table = correlations(made_up_bank(), samples=20)
    assert "off by 0.100 on average" in statement(table, (0.1, 0.2))
    assert "at most half, so a forecast would be worth having" in statement(table, (0.1, 0.2))
    assert "more than half, so there is no forecast here" in statement(table, (0.101, 0.2))


# -- tables
# --------------------------------------------------------------------------------------------------------------


def test_the_readmes_text_has_every_diagnostic_and_an_empty_state(tmp_path: Path) -> None:
    assert markdown_bank(tmp_path).startswith("Not measured yet: “mergescope experiment bank”")
    made_up_bank().iloc[:60].to_csv(tmp_path / "bank_merges.csv", index=False)  # a bank that is not full yet
    assert markdown_bank(tmp_path).startswith("Not measured yet")
    write_correlations(tmp_path / "bank_merges.csv", samples=20)
    text = markdown_bank(tmp_path)
    assert "60 merges of 12 task subsets" in text
    assert all(f"| {name} |" in text for name in (*WEIGHTS_ONLY, *ON_DATA))
    assert "nan" not in text


def test_only_a_bank_is_read_as_one(tmp_path: Path) -> None:
    bank, path = made_up_bank(), tmp_path / "bank.csv"
    with pytest.raises(MergeError, match="experiment bank” makes it"):
        read_bank(path)
    bank.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_bank(path), bank)
    bank.drop(columns=["mu"]).assign(distance=np.nan).to_csv(path, index=False)
    with pytest.raises(MergeError, match="lacks values for mu, distance"):
        read_bank(path)
    for content in (b"", b"\x89PNG\r\n\x1a\n\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(MergeError, match="no table"):
            read_bank(path)


def test_the_command_needs_the_table_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr("merging.models.load.load_base", refuse)
    monkeypatch.setattr("merging.experiments.correlations.SAMPLES", 20)
    for rows, path in ((120, tmp_path / "other"), (SIZE, tmp_path)):
        path.mkdir(exist_ok=True)
        made_up_bank(rows=rows).to_csv(path / "bank_merges.csv", index=False)
    lines = ["correlations", str(tmp_path / "other" / "bank_merges.csv")], ["experiment", "bank", "-o", str(tmp_path)]
    for words, folder in zip(lines, (tmp_path / "other", tmp_path), strict=True):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        assert done.stdout == markdown_bank(folder) + "\n"
    assert f"{SIZE} merges of" in done.stdout
    assert isinstance(CliRunner().invoke(cli, ["correlations", str(tmp_path / "none.csv")]).exception, MergeError)
