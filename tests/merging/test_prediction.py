"""What predicts a merge's accuracy: the statistics are the textbook's, and the predictor is not flattered."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import called, equal_pool, random_adapter, task_features, tiny_model
from merging.bank import ON_DATA, WEIGHTS_ONLY
from merging.prediction import Predictor, correlations, cross_validated, markdown, read_bank, subset_folds
from scipy import stats
from typer.testing import CliRunner

from merging import MergeError, Orthogonalize, merge
from merging.cli import cli


def made_up_bank(noise: float = 0.01, rows: int = 120) -> pd.DataFrame:
    """Return a bank in which the accuracy falls with `distance` and nothing else matters."""
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
        mu=0.0,
        scaling=random.choice([0.3, 1.0], rows),
        tasks=[2.0 + i % 12 // 6 for i in range(rows)],
        rows=80,
        normalised=0.9 - 0.05 * bank.distance + noise * random.normal(size=rows),
    )


def shuffled(bank: pd.DataFrame) -> pd.DataFrame:
    """Return the bank with its accuracies dealt out anew, so that nothing predicts them."""
    return bank.assign(normalised=np.random.default_rng(1).permutation(bank.normalised))


def test_what_decides_comes_first_and_what_does_not_is_not_said_to_predict() -> None:
    table = correlations(made_up_bank(), samples=300)
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
    table = correlations(shuffled(made_up_bank()), samples=300)
    assert table.predicts.sum() + table.predicts_within.sum() <= 6
    assert not table.set_index("diagnostic").predicts["distance"]


def test_rho_is_scipys_spearman_with_ties_too() -> None:
    bank = made_up_bank(noise=0.1).round(1)
    table = correlations(bank, samples=5).set_index("diagnostic")
    for name in (*WEIGHTS_ONLY, *ON_DATA):
        assert table.rho[name] == pytest.approx(stats.spearmanr(bank[name], bank.normalised).statistic, abs=1e-12)


def partial(bank: pd.DataFrame, name: str) -> float:
    """Return the correlation of what a regression of the ranks on all dummies leaves."""
    dummies = [pd.get_dummies(bank.method + bank.scaling.astype(str)), pd.get_dummies(bank.tasks)]
    Z = np.hstack([frame.to_numpy(float) for frame in dummies])
    left = [ranks - Z @ np.linalg.lstsq(Z, ranks, rcond=None)[0] for ranks in map(stats.rankdata, (bank[name], bank.normalised))]
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
        assert table.low[name] == pytest.approx(stats.spearmanr(drawn[name], drawn.normalised).statistic, abs=1e-12)
        assert table.within_low[name] == pytest.approx(partial(drawn, name), abs=1e-9)


@pytest.mark.parametrize("confounder", ["scaling", "tasks", "method"])
def test_the_control_removes_what_the_settings_explain(confounder: str) -> None:
    bank = made_up_bank()
    random, level = np.random.default_rng(2), bank[confounder].factorize()[0]
    bank = bank.assign(normalised=level + 0.3 * random.normal(size=120), overlap_A=level + 0.3 * random.normal(size=120))
    row = correlations(bank, samples=300).set_index("diagnostic").loc["overlap_A"]
    assert row.rho > 0.6
    assert row.predicts
    assert abs(row.within) < 0.25
    assert not row.predicts_within


def test_the_control_finds_what_the_settings_hide() -> None:
    bank = made_up_bank()
    bank = bank.assign(normalised=-bank.distance + 20 * bank.scaling)
    row = correlations(bank, samples=300).set_index("diagnostic").loc["distance"]
    assert row.within < -0.4
    assert row.within < row.rho
    assert row.predicts_within


def test_the_predictor_beats_the_mean_where_there_is_something_to_know_and_only_there() -> None:
    assert cross_validated(made_up_bank()).useful
    assert not cross_validated(shuffled(made_up_bank())).useful


def test_a_gain_within_chance_is_not_called_useful() -> None:
    found = cross_validated(made_up_bank(noise=0.15))
    assert found.low < 0 < found.gain < found.high
    assert not found.useful


def test_the_interval_of_the_gain_is_that_of_subsets_drawn_one_by_one() -> None:
    bank = made_up_bank(noise=0.05)
    found = cross_validated(bank)
    mean = pd.Series(0.0, index=bank.index)
    for train, test in subset_folds(bank):
        mean.iloc[test] = bank.normalised.iloc[train].mean()
    gains = ((mean - bank.normalised).abs() - (found.predicted - bank.normalised).abs()).groupby(bank.tasks_merged)
    per = [gain.to_numpy() for _, gain in gains]
    random = np.random.default_rng(7)
    drawn = [np.concatenate([per[i] for i in random.integers(12, size=12)]).mean() for _ in range(2000)]
    assert found.gain == pytest.approx(np.concatenate(per).mean())
    spread = found.high - found.low
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.1 * spread)


def test_folds_leave_whole_subsets_out_and_predict_every_row_once() -> None:
    bank = made_up_bank()
    folds = subset_folds(bank)
    assert len(folds) == 5
    for train, test in folds:
        assert not set(bank.tasks_merged.iloc[train]) & set(bank.tasks_merged.iloc[test])
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(bank)))


def test_a_bank_of_one_subset_is_refused() -> None:
    bank = made_up_bank().assign(tasks_merged="movie+bbc")
    for analysis in (correlations, cross_validated):
        with pytest.raises(MergeError, match="one task subset"):
            analysis(bank)


def test_no_subset_is_both_learned_from_and_predicted() -> None:
    # each subset has its own level that no diagnostic tells: who peeks would predict it
    bank = made_up_bank(noise=0.0)
    levels = dict(
        zip(sorted(set(bank.tasks_merged)), torch.randn(12, generator=torch.Generator().manual_seed(0)).tolist(), strict=True)
    )
    bank = bank.assign(scaling=bank.tasks_merged.map(levels), normalised=bank.tasks_merged.map(lambda s: levels[s] ** 2 % 1))
    found = cross_validated(bank)
    assert found.error > 0.5 * found.mean_error


def test_the_table_states_which_predict_and_how_far_off_the_predictor_is() -> None:
    text = markdown(made_up_bank())
    assert "which is better than the mean" in text
    assert "no better than the mean" in markdown(shuffled(made_up_bank()))
    assert "120 merges of 12 task subsets" in text
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

    monkeypatch.setattr("merging.models.load_base", refuse)
    bank = made_up_bank()
    bank.to_csv(tmp_path / "other.csv", index=False)
    pd.concat([bank] * 3).assign(number=range(360)).to_csv(tmp_path / "bank.csv", index=False)
    done = [
        CliRunner().invoke(cli, words)
        for words in (["correlations", str(tmp_path / "other.csv")], ["experiment", "bank", "-o", str(tmp_path)])
    ]
    assert [result.exit_code for result in done] == [0, 0]
    assert done[0].stdout == markdown(bank) + "\n"
    assert "360 merges" in done[1].stdout
    assert isinstance(CliRunner().invoke(cli, ["correlations", str(tmp_path / "none.csv")]).exception, MergeError)


@pytest.fixture(scope="module")
def fitted() -> Predictor:
    """A predictor of merges of six adapters like those of `equal_pool`, three of them at most in one merge."""
    bank = made_up_bank()
    return Predictor.fit(bank.assign(magnitude_variance=bank.magnitude_variance.abs()), equal_pool(3))


def test_the_fitted_predictor_knows_the_planted_relation_and_how_far_off_it_is(fitted: Predictor) -> None:
    row = dict.fromkeys(fitted.diagnostics, 0.5) | {"tasks": 2.0}
    for distance in (-1.0, 0.0, 1.0):
        kept, error = fitted.predict(row | {"distance": distance})
        assert kept == pytest.approx(0.9 - 0.05 * distance, abs=0.02)
        assert (fitted.validation.errors <= error).mean() == pytest.approx(0.8, abs=0.01)


def test_the_predictor_does_not_extrapolate(fitted: Predictor) -> None:
    row = dict.fromkeys(fitted.diagnostics, 0.5) | {"tasks": 2.0}
    for changed, said in (
        ({"tasks": 4.0}, "tasks is 4, there 2 to 3"),
        ({"distance": 99.0}, "distance"),
        ({"cosine": math.nan}, "cosine"),
    ):
        with pytest.raises(MergeError, match=said):
            fitted.predict(row | changed)
    with pytest.raises(MergeError, match=r"needs scaling .*weights_only"):
        fitted.predict({name: value for name, value in row.items() if name != "scaling"})


def test_a_merge_like_those_of_the_bank_has_nothing_unseen(fitted: Predictor) -> None:
    assert fitted.unseen(merge(equal_pool(3), "ties", scaling=0.4)) == []
    assert fitted.unseen(merge(equal_pool(2), "svd")) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "iso_c"}, "no merge by Iso-C"),
        ({"method": "emr"}, "no merge by EMR"),
        ({"density": 0.9}, "default: Density"),
        ({"weights": [1.0, 1.0, 0.5]}, "weight 1"),
        ({"orthogonalize": "raw"}, "orthogonalize"),
        ({"orthogonalize": Orthogonalize("balanced", penalty=0.5)}, "orthogonalize"),
        ({"decouple": 0.5}, "decoupled by up to 0"),
    ],
)
def test_a_setting_that_the_bank_never_had_is_named(fitted: Predictor, arguments: dict, said: str) -> None:
    [sentence] = fitted.unseen(merge(equal_pool(3), **{"method": "ties"} | arguments))
    assert said in sentence


def test_adapters_that_the_bank_never_had_are_named(fitted: Predictor) -> None:
    pool = equal_pool(6)
    assert "2 to 3 tasks, this one has 6" in fitted.unseen(merge(pool, "ties"))[0]
    stranger = [pool[0], called(pool[1], "mine")]
    assert fitted.unseen(merge(stranger, "ties")) == ["The bank holds no merge with the task mine."]
    wider = [pool[0], random_adapter(1, 8)]
    assert "another rank" in " ".join(fitted.unseen(merge(wider, "ties")))
    elsewhere = [replace(adapter, base="other-bert") for adapter in pool[:2]]
    assert all("another base model" in sentence for sentence in fitted.unseen(merge(elsewhere, "ties")))


def test_soft_osrm_beyond_the_bank_is_named(fitted: Predictor) -> None:
    result = merge(equal_pool(3), "ties", soft_osrm=0.5, features=task_features(tiny_model(), 3))
    assert fitted.unseen(result) == ["The bank's merges have soft OSRM up to μ 0."]
