"""The search's figures and ranking show what was found, a candidate sets the controls to its very merge, and λ alone
can be tuned.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from merging import MergeError, evaluate
from merging.engine import merge_spec
from merging.experiments.sweep import SCALINGS
from merging.methods import METHODS
from merging.recipes.spec import MergeSpec
from merging.services.tuning import TunePlan, sweep_scaling, tune
from merging.services.workbench import Workbench
from merging.tuning.importance import choices
from merging.tuning.search import Candidate, ranked
from viz.figures.tuning import NONE, average_against_worst, candidates_tried, choices_made, choices_that_mattered
from viz.panels.merge.controls import opening, read, restored
from viz.panels.merge.handlers import MergeHandlers
from viz.panels.merge.scaling import SweepScaling, tune_scaling
from viz.panels.merge.session import Session
from viz.panels.merge.tune import ranking
from viz.panels.merge.views import EVERY

FOUND = [
    Candidate(0, MergeSpec.of("task_arithmetic"), "measured", 0.6, 0.6, 0.4, 200, 1.0),
    Candidate(1, MergeSpec.of("ties", {"scaling": 0.5}), "measured", 0.8, 0.8, 0.5, 200, 2.0),
    Candidate(2, MergeSpec.of("tsv"), "stopped", 0.3, 0.3, 0.2, 80, 0.5),
    Candidate(3, MergeSpec.of("svd"), "measured", 0.7, 0.7, 0.6, 200, 1.5),
]


def test_the_figures_show_every_candidate_and_the_front() -> None:
    table = ranked(FOUND)
    assert table.trial.tolist() == [1, 3, 0, 2]
    best, measured, stopped = candidates_tried(table)["data"]
    assert best["y"] == [0.6, 0.8, 0.8]
    assert (measured["x"], stopped["x"]) == ([0, 1, 3], [2])
    dots, front = average_against_worst(table)["data"]
    assert len(dots["x"]) == 3
    assert list(zip(front["x"], front["y"], strict=True)) == [(0.7, 0.6), (0.8, 0.5)]


def test_a_line_is_a_candidate_and_ends_at_its_value() -> None:
    dense = Candidate(4, MergeSpec.of("ties", {"scaling": 0.5, "density": 0.5}), "measured", 0.65, 0.65, 0.6, 200, 1.0)
    tried = [*FOUND, dense]
    table = choices(tried)
    names = ["density", "method", "λ"]
    figure = choices_made(table, pd.DataFrame({"choice": names, "importance": 0.5, "spread": 0.1}))
    axes = len(names) + 1
    assert figure["layout"]["xaxis"]["ticktext"] == [*names, "value"]
    lines = {}
    for trace in figure["data"]:
        for start in range(0, len(trace["y"]), axes + 1):
            *heights, gap = trace["y"][start : start + axes + 1]
            assert gap is None
            lines[trace["text"][start].partition("<br>")[0]] = heights
    assert lines.keys() == {one.spec.words() for one in tried}
    # from the worst value to the best, .3 to .8
    for one in tried:
        assert lines[one.spec.words()][-1] == pytest.approx((one.value - 0.3) / 0.5)
    # TSV-M has no density; of the methods TIES was the best
    assert lines[FOUND[2].spec.words()][0] == NONE
    assert lines[FOUND[1].spec.words()][1] == 1.0


def test_what_mattered_most_is_at_the_top() -> None:
    rows = pd.DataFrame({"choice": ["λ", "method"], "importance": [0.7, 0.3], "spread": [0.1, 0.05]})
    [bars] = choices_that_mattered(rows)["data"]
    assert (bars["y"], bars["x"], bars["error_x"]["array"]) == (["method", "λ"], [0.3, 0.7], [0.05, 0.1])


def test_only_what_was_measured_can_be_used() -> None:
    html = ranking(ranked(FOUND))
    assert [f"use:{number}" in html for number in range(4)] == [True, True, False, True]
    assert html.index("use:1") < html.index("use:3") < html.index("use:0")


def test_the_workbench_searches_a_pool() -> None:
    bench = Workbench()
    plan = TunePlan("default", MergeSpec.of("task_arithmetic"), "average", 0.01, 8, ("params",))
    steps = [*tune(bench, plan)]
    [found] = steps
    assert isinstance(found, Candidate)
    assert found.spec.canonical() == plan.start.canonical()
    with pytest.raises(MergeError, match="No method is left"):
        next(tune(bench, TunePlan("default", MergeSpec.of("emr"), groups=())))


def tuning(bench: Workbench, method: str = "ties") -> tuple[MergeHandlers, Session, dict[str, Any]]:
    """The Merge tab with a merge on it, and its button pressed."""
    panel, session = MergeHandlers(bench, METHODS, lambda *_: iter(())), Session()
    settings = opening(bench, METHODS).changed(method=method)
    form = {name: option.get("value") for name, option in restored(bench, METHODS, settings).items()}
    panel.redraw(session, form, 50, ("A", EVERY, EVERY))
    session.presses += 1
    return panel, session, form


def few(bench: Workbench) -> SweepScaling:
    return lambda settings, rows: sweep_scaling(bench, settings, 4)


def test_lambda_is_tuned_for_the_merge_as_it_stands_and_drawn() -> None:
    bench = Workbench()
    panel, session, form = tuning(bench)
    steps = [*tune_scaling(panel, few(bench), session, form)]
    assert session.presses % 2 == 0
    _, rows = session.curve
    assert rows.groupby("scaling").total.sum().to_dict() == dict.fromkeys(SCALINGS, 4 * 8)
    *_, (_, options), (last, _) = steps
    best = rows.groupby("scaling").correct.sum().idxmax()
    assert options["slider_0"]["value"] == best
    assert last == {"notes": ""}
    # the line of this merge in the figure is what was measured, not what ships
    drawn = json.loads(panel.accuracy(session, session.run)["sweep"])
    mine = next(trace for trace in drawn["figure"]["data"] if trace.get("name") == "TIES")
    assert mine["x"] == list(SCALINGS)
    assert mine["y"] == pytest.approx([rows[rows.scaling == s].correct.sum() / 32 for s in SCALINGS])
    # one row of it, measured in another way
    settings = read(bench, METHODS, form).changed(scaling=0.7)
    merged = merge_spec(bench.adapters(settings.pool), settings.spec)
    task = bench.encoded(settings.pool, "trec", "validation").first(4)
    [*_, last] = evaluate(*bench.base(*bench.base_of(settings.pool)), merged, [task])
    right = rows[(rows.scaling == 0.7) & (rows.task == "trec")].correct.item()
    assert last.accuracy == right / 4
    # another merge has no such line
    other = read(bench, METHODS, form).changed(density=0.5)
    assert session.curve_of(other) is None


def test_tuning_lambda_stops_at_a_second_press_and_leaves_another_merge_alone() -> None:
    bench = Workbench()
    panel, session, form = tuning(bench)
    steps = tune_scaling(panel, few(bench), session, form)
    next(steps)
    session.presses += 1
    assert [*steps] == [({"notes": ""}, {})]
    assert [*tune_scaling(panel, few(bench), session, form)] == []
    panel, session, form = tuning(bench)
    steps = tune_scaling(panel, few(bench), session, form)
    next(steps)
    panel.redraw(session, form | {"choice_0": None, "method": "average"}, 50, ("A", EVERY, EVERY))
    assert [options for _, options in steps if options] == []
    with pytest.raises(MergeError, match="no scaling"):
        [*sweep_scaling(bench, opening(bench, METHODS).changed(method="average"), 4)]
