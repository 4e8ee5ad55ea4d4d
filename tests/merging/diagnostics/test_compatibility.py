"""compatibility() says what blocks a merge and what will hurt it, and merge() refuses what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import (
    MODULES,
    QUERY,
    edit_config,
    equal_pool,
    mixed_pool,
    one_sentence,
    peft_folder,
    random_adapter,
    tiny_model,
)
from builders import with_deltas as changed

from merging import Adapter, LowRank, MergeError, compatibility, merge
from merging.adapters.metadata import AdapterMetadata


def blocked(adapters: list[Adapter], *words: str) -> bool:
    """Tell whether one of the problems names every word, each is a sentence, and the merge is refused with the
    first."""
    report = compatibility(adapters)
    assert not report.ok
    assert any(all(word in problem for word in words) for problem in report.problems), report.problems
    with pytest.raises(MergeError) as caught:
        merge(adapters, "task_arithmetic")
    return str(caught.value) == report.problems[0] and one_sentence(caught.value)


# -- one base ----------------------------------------------------------------------------------------------------------


def test_adapters_of_one_base_can_be_merged(pool: list[Adapter]) -> None:
    report = compatibility(pool)
    assert report.ok
    assert report.problems == []


def test_two_bases_are_refused_by_their_names() -> None:
    a, b = equal_pool(2)
    assert blocked([a, replace(b, base="roberta-base")], "task-0", "task-1", "tiny-bert", "roberta-base")


@pytest.mark.parametrize("spelling", ["somebody/Tiny-BERT", "/models/tiny-bert/", r"C:\models\tiny-bert"])
def test_spellings_of_one_base_are_one_base(spelling: str) -> None:
    a, b = equal_pool(2)
    assert compatibility([a, replace(b, base=spelling)]).ok


def test_fingerprints_decide_over_names() -> None:
    a, b = equal_pool(2)
    assert compatibility([replace(a, base_fingerprint="1"), replace(b, base_fingerprint="1", base="renamed")]).ok
    assert blocked([replace(a, base_fingerprint="1"), replace(b, base_fingerprint="2")], "task-0", "task-1")


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
def test_two_fingerprints_are_refused_wherever_they_stand(order: tuple[int, ...]) -> None:
    a, b, c = equal_pool(3)
    adapters = [a, replace(b, base_fingerprint="1"), replace(c, base_fingerprint="2")]
    assert blocked([adapters[i] for i in order], "task-1", "task-2")


def test_the_caller_can_vouch_for_a_base(tmp_path: Path) -> None:
    for i, base in enumerate(["tiny-bert", "a-copy-of-it"]):
        peft_folder(tmp_path / f"task-{i}", tiny_model(), seed=i)
        edit_config(tmp_path / f"task-{i}", base_model_name_or_path=base)
    (tmp_path / "task-1" / "mergescope.json").write_text('{"base_fingerprint": "of the copy"}')
    a, b = (Adapter.load(tmp_path / f"task-{i}") for i in (0, 1))
    assert blocked([a, b], "a-copy-of-it", "base=")
    assert compatibility([a, Adapter.load(tmp_path / "task-1", base="tiny-bert")]).ok


# -- shapes and names --------------------------------------------------------------------------------------------------


def test_other_shapes_are_refused_with_the_module_and_both_shapes() -> None:
    a, b = equal_pool(2)
    wide = changed(b, lambda m, u: LowRank(u.B, torch.cat([u.A, u.A], 1)) if m == QUERY else u)
    assert blocked([a, wide], QUERY, "(32, 32)", "(32, 64)")


def test_a_wrong_prefix_is_noticed() -> None:
    a, b = equal_pool(2)
    b = replace(b, deltas={f"encoder.{module}": update for module, update in b.deltas.items()})
    assert blocked([a, b], "prefix", QUERY)
    assert blocked([b, a], "prefix", QUERY)


def test_partly_different_modules_of_one_model_are_no_problem_and_none_in_common_are() -> None:
    names = list(MODULES)
    first, last, middle = (random_adapter(i, modules=part) for i, part in enumerate([names[:2], names[2:], names[1:3]]))
    assert compatibility([first, last, middle]).ok
    assert blocked([first, last], "task-0", "no module in common", names[0])


def test_no_adapters_are_a_problem() -> None:
    report = compatibility([])
    assert not report.ok
    assert len(report.problems) == 1


# -- warnings ----------------------------------------------------------------------------------------------------------


def warned(adapters: list[Adapter], *words: str) -> bool:
    report = compatibility(adapters)
    assert report.ok
    return any(all(word in warning for word in words) for warning in report.warnings)


def test_similar_adapters_cause_no_warning() -> None:
    assert compatibility([random_adapter(i) for i in range(3)]).warnings == []


def test_a_norm_ten_times_as_large_as_another_is_a_warning() -> None:
    small, large = random_adapter(0), random_adapter(1)
    norms = [sum(u.norm() ** 2 for u in a.deltas.values()) ** 0.5 for a in (small, large)]
    times = [changed(large, lambda _, u, f=f: u * (f * norms[0] / norms[1])) for f in (9.5, 10.5)]
    assert not warned([small, times[0]], "task-1", "large")
    assert warned([small, times[1]], "task-1", "task-0", "large")
    assert warned([times[1], small], "task-1", "task-0", "large")


def test_a_zero_update_is_a_warning() -> None:
    zero = changed(random_adapter(1), lambda _, u: u * 0.0)
    assert warned([random_adapter(0), zero], "task-1", "zero")


def test_one_start_for_all_is_a_warning() -> None:
    a, b, c = (random_adapter(i) for i in range(3))
    same_start = changed(b, lambda m, u: LowRank(u.B, a.deltas[m].A + 0.1 * u.A))
    assert warned([a, same_start, c], "task-0", "task-1", "seed")
    assert not warned([a, b, c], "seed")


def test_partial_coverage_is_a_warning_that_counts() -> None:
    partial = random_adapter(1, modules=list(MODULES)[:3])
    assert warned([random_adapter(0), partial], "task-1", "1 of 4", list(MODULES)[3])
    assert not warned([random_adapter(0), random_adapter(1)], "zero")


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_per_adapter_and_module() -> None:
    adapters = mixed_pool()
    table = compatibility(adapters).modules
    assert list(table.columns) == [
        "adapter",
        "module",
        "rank",
        "alpha",
        "scaling",
        "out",
        "in",
        "norm",
        "relative_norm",
    ]
    assert len(table) == len(adapters) * len(MODULES)
    for adapter in adapters:
        for module, shape in MODULES.items():
            row = table[(table.adapter == adapter.name) & (table.module == module)].iloc[0]
            update = adapter.deltas.get(module)
            assert (row["out"], row["in"]) == shape
            assert row["rank"] == (update.rank if update else 0)
            assert row["norm"] == pytest.approx(float(update.dense().norm()) if update else 0.0, rel=1e-5)


def test_the_tables_tell_the_recorded_size_of_an_update() -> None:
    first, second = mixed_pool()[:2]
    module = next(iter(first.deltas))
    report = compatibility([replace(first, metadata=AdapterMetadata(relative_norms={module: 0.25})), second])
    sizes = report.modules.set_index(["adapter", "module"]).relative_norm
    assert sizes[first.name, module] == 0.25
    assert math.isnan(sizes[second.name, next(iter(second.deltas))])
    assert report.adapters.relative_norm.tolist()[0] == 0.25


@pytest.mark.parametrize("rslora", [False, True])
def test_the_table_gives_back_alpha_and_scaling_of_the_file(tmp_path: Path, rslora: bool) -> None:
    patterns = {"rank_pattern": {QUERY: 2}, "alpha_pattern": {QUERY: 10}}
    peft_folder(tmp_path / "a", tiny_model(), r=4, lora_alpha=6, use_rslora=rslora, **patterns)
    table = compatibility([Adapter.load(tmp_path / "a")]).modules.set_index("module")
    assert table.loc[QUERY, "alpha"] == pytest.approx(10)
    assert table.loc[QUERY, "scaling"] == pytest.approx(10 / (2**0.5 if rslora else 2))
    others = table.drop(index=QUERY)
    assert others.alpha.tolist() == pytest.approx([6] * len(others))


def test_the_table_of_adapters_sums_each_up() -> None:
    adapters = mixed_pool()
    table = compatibility(adapters).adapters.set_index("adapter")
    for adapter in adapters:
        row = table.loc[adapter.name]
        ranks = [update.rank for update in adapter.deltas.values()]
        assert row["rank"] == (str(ranks[0]) if len(set(ranks)) == 1 else f"{min(ranks)} to {max(ranks)}")
        assert (row["modules"], row["missing"]) == (len(adapter.deltas), len(MODULES) - len(adapter.deltas))
        assert row["norm"] == pytest.approx(
            sum(float(u.dense().norm()) ** 2 for u in adapter.deltas.values()) ** 0.5, rel=1e-5
        )


def test_adapters_of_one_name_are_told_apart() -> None:
    a, b = equal_pool(2)
    report = compatibility([a, replace(b, name="task-0", base="other")])
    assert "task-0-2" in report.problems[0]
    assert set(report.modules.adapter) == {"task-0", "task-0-2"}
