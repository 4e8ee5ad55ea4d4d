"""The panel's handlers as plain functions, on a synthetic workbench."""

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pandas as pd
import pytest
from fake_workbench import METHODS, TITLES, FakeWorkbench, drawn

from merging.errors import MergeError
from merging.plugins import PLUGINS
from merging.plugins.decouple import Decouple
from merging.services.settings import Settings
from viz.panels.merge import views
from viz.panels.merge.controls import choose, controls, form_of, read
from viz.panels.merge.handlers import ACCURACY, OUTPUTS, MergeHandlers
from viz.panels.merge.session import Run, Score, Session, summarise
from viz.panels.merge.verdict import verdict_html
from viz.panels.merge.views import layer_of, parts, pick, sweep_view

EVERYWHERE = ("A", "all", "all")


def form(workbench: FakeWorkbench, pool: str = "default", method: str = "do_merging", **changes: Any) -> dict[str, Any]:
    """The values of a freshly opened page."""
    values = {name: options.get("value") for name, options in choose(workbench, METHODS, pool, method).items()}
    return values | {"pool": pool, "method": method, "k": 100, "seed": 0} | changes


def panel(workbench: FakeWorkbench) -> MergeHandlers:
    return MergeHandlers(
        workbench, METHODS, lambda settings, limit: workbench.evaluate(Settings.from_dict(settings), limit)
    )


@pytest.fixture
def workbench() -> FakeWorkbench:
    return FakeWorkbench()


def scaling_marked(values: dict[str, str]) -> float:
    return json.loads(values["sweep"])["figure"]["layout"]["shapes"][0]["x0"]


def test_opening_fills_every_output(workbench: FakeWorkbench) -> None:
    values = panel(workbench).redraw(Session(), form(workbench), 200, EVERYWHERE)
    assert set(values) == set(OUTPUTS)
    assert scaling_marked(values) == 0.5


def test_a_move_of_lambda_sends_only_what_depends_on_it(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    merge.redraw(session, form(workbench), 200, EVERYWHERE)
    values = merge.redraw(session, form(workbench, slider_0=0.8), 200, EVERYWHERE)
    assert set(values) == {*ACCURACY, "recipe"} - {"compare"}, "nothing is pinned"
    assert scaling_marked(values) == 0.8
    assert merge.redraw(session, form(workbench, slider_0=0.8), 200, EVERYWHERE) == {}


def test_evaluation_runs_to_its_end_and_says_so(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    merge.redraw(session, form(workbench), 100, EVERYWHERE)
    last = list(merge.evaluate(session))[-1]
    assert 'data-state="done"' in last["verdict"]
    assert "<b>600 of 600</b>" in last["verdict"]
    assert json.loads(last["accuracy"])["figure"]["data"][-1]["y"] == list(TITLES.values())


def test_a_move_stops_the_running_evaluation_at_its_next_estimate(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    merge.redraw(session, form(workbench), 200, EVERYWHERE)
    running = merge.evaluate(session)
    next(running)
    merge.redraw(session, form(workbench, slider_0=0.9), 200, EVERYWHERE)
    assert list(running) == [{}]
    assert 'data-state="done"' in list(merge.evaluate(session))[-1]["verdict"]
    assert [dict(settings.spec.params)["scaling"] for settings in workbench.started] == [0.5, 0.9]


def test_a_late_redraw_does_not_overwrite_a_newer_one(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()

    def update(settings: Settings) -> Any:
        workbench.update = FakeWorkbench.update.__get__(workbench)
        merge.redraw(session, form(workbench, slider_0=0.9), 200, EVERYWHERE)
        return workbench.update(settings)

    workbench.update = update
    assert merge.redraw(session, form(workbench, slider_0=0.2), 200, EVERYWHERE) == {}
    assert session.run.scaling == 0.9


def test_the_view_or_an_idle_control_does_not_restart_the_evaluation(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    merge.redraw(session, form(workbench), 200, EVERYWHERE)
    list(merge.evaluate(session))
    for changes, part in (({}, ("B", "3", "query")), ({"k": 300}, EVERYWHERE), ({"seed": 5}, EVERYWHERE)):
        merge.redraw(session, form(workbench, **changes), 200, part)
        list(merge.evaluate(session))
    assert len(workbench.started) == 1
    merge.redraw(session, form(workbench, k=300, mu=0.3), 200, EVERYWHERE)
    list(merge.evaluate(session))
    assert len(workbench.started) == 2


def test_settings_evaluated_before_are_shown_at_once(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    for scaling in (0.5, 0.8, 0.5):
        values = merge.redraw(session, form(workbench, slider_0=scaling), 100, EVERYWHERE)
        list(merge.evaluate(session))
    assert 'data-state="done"' in values["verdict"]
    assert len(workbench.started) == 2


def test_pinned_runs_stay_in_the_figures_of_their_pool(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    merge.redraw(session, form(workbench), 100, EVERYWHERE)
    list(merge.evaluate(session))
    assert '"A: DO-Merging' in merge.pin(session)["sweep"]
    values = merge.redraw(session, form(workbench, slider_0=0.9), 100, EVERYWHERE)
    assert '"A: DO-Merging' in values["sweep"]
    assert '"A: DO-Merging' not in merge.redraw(session, form(workbench, pool="osrm"), 100, EVERYWHERE)["sweep"]
    merge.redraw(session, form(workbench), 100, EVERYWHERE)
    assert '"A: DO-Merging' not in merge.unpin(session)["sweep"]


def test_a_refused_merge_says_why_and_is_not_evaluated(workbench: FakeWorkbench) -> None:
    def refuse(settings: Settings) -> Any:
        raise MergeError("the weights sum to <zero>")

    merge, session = panel(workbench), Session()
    workbench.update = refuse
    values = merge.redraw(session, form(workbench), 100, EVERYWHERE)
    assert "the weights sum to &lt;zero&gt;" in values["notes"]
    assert 'data-state="refused"' in values["verdict"]
    assert list(merge.evaluate(session)) == []


def test_what_the_library_refuses_while_it_measures_stays_in_the_verdict(workbench: FakeWorkbench) -> None:
    def refuse(settings: dict[str, Any], limit: int) -> Iterator[Any]:
        raise MergeError("The task films has <no> training texts.")
        yield

    merge, session = panel(workbench), Session()
    merge.stream = refuse
    merge.redraw(session, form(workbench), 100, EVERYWHERE)
    verdict = list(merge.evaluate(session))[-1]["verdict"]
    assert 'data-state="failed"' in verdict
    assert 'role="alert">The task films has &lt;no&gt; training texts.' in verdict


def test_a_failing_evaluation_is_said_and_can_be_started_again(workbench: FakeWorkbench) -> None:
    def fail(settings: dict[str, Any], limit: int) -> Iterator[Any]:
        yield SimpleNamespace(task="trec", accuracy=0.8, interval=(0.7, 0.9), done=10, total=100, marks="")
        raise OSError("no space left")

    merge, session = panel(workbench), Session()
    good, merge.stream = merge.stream, fail
    merge.redraw(session, form(workbench), 100, EVERYWHERE)
    running = merge.evaluate(session)
    values = []
    with pytest.raises(OSError, match="no space"):
        values.extend(running)
    assert session.run.state == "failed"
    merge.stream = good
    merge.redraw(session, form(workbench), 100, EVERYWHERE)
    assert 'data-state="done"' in list(merge.evaluate(session))[-1]["verdict"]


def test_an_evaluation_stopped_from_outside_can_go_on_later(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    merge.redraw(session, form(workbench), 200, EVERYWHERE)
    running = merge.evaluate(session)
    next(running)
    running.close()
    assert session.run.state == "stopped"
    merge.redraw(session, form(workbench), 200, EVERYWHERE)
    assert 'data-state="done"' in list(merge.evaluate(session))[-1]["verdict"]


def stages(steps: list[dict[str, str]]) -> list[str]:
    """What the verdicts say is being done, without repetition."""
    found = [
        re.search(r'data-state="(\w+)" data-stage="(\w+)"', step["verdict"]).groups()
        for step in steps
        if "verdict" in step
    ]
    return list(dict.fromkeys(stage for state, stage in found if state == "running"))


def test_a_run_says_whether_it_reads_merges_or_evaluates(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    assert set(merge.redraw(session, form(workbench, method="regmean"), 100, EVERYWHERE)) == set(OUTPUTS)
    steps = list(merge.evaluate(session))
    assert stages(steps) == ["reading", "merging", "evaluating"]
    assert "reading texts</span> · <b>32 of 96" in steps[0]["verdict"]
    merge.redraw(session, form(workbench, method="regmean", slider_0=0.9), 100, EVERYWHERE)
    assert stages(list(merge.evaluate(session))) == ["merging", "evaluating"]


def test_what_depends_on_texts_is_drawn_once_they_are_read(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    assert "magnitude" in merge.redraw(session, form(workbench), 100, EVERYWHERE)
    values = merge.redraw(session, form(workbench, mu=0.3, weight_0=0.1), 100, EVERYWHERE)
    assert "magnitude" not in values
    assert "texts first" in values["notes"]
    steps = list(merge.evaluate(session))
    assert [step["notes"] for step in steps if "notes" in step] == ["", ""]
    assert "magnitude" in steps[-1]


@pytest.mark.parametrize("stage", ["reading", "merging", "evaluating"])
def test_cancel_stops_a_run_at_its_next_step_and_leaves_what_is_there(workbench: FakeWorkbench, stage: str) -> None:
    merge, session = panel(workbench), Session()
    merge.redraw(session, form(workbench, method="regmean"), 200, EVERYWHERE)
    running = merge.evaluate(session)
    while f'data-stage="{stage}"' not in next(running).get("verdict", ""):
        pass
    known = dict(session.run.scores)
    assert 'data-state="stopped"' in merge.cancel(session)["verdict"]
    assert 'data-state="stopped"' in list(running)[-1]["verdict"]
    assert session.run.scores == known


def test_after_a_cancel_only_another_merge_or_the_wish_for_it_goes_on(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    merge.redraw(session, form(workbench), 200, EVERYWHERE)
    merge.cancel(session)
    assert list(merge.evaluate(session)) == []
    merge.redraw(session, form(workbench), 200, ("B", "all", "all"))
    assert list(merge.evaluate(session)) == []
    assert session.run.state == "stopped"
    merge.redraw(session, form(workbench, slider_0=0.9), 200, EVERYWHERE)
    assert 'data-state="done"' in list(merge.evaluate(session))[-1]["verdict"]
    merge.redraw(session, form(workbench, slider_0=0.7), 200, EVERYWHERE)
    merge.cancel(session)
    session.again()
    merge.redraw(session, form(workbench, slider_0=0.7), 200, EVERYWHERE)
    assert 'data-state="done"' in list(merge.evaluate(session))[-1]["verdict"]


def test_a_finished_run_cannot_be_cancelled(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    merge.redraw(session, form(workbench), 100, EVERYWHERE)
    list(merge.evaluate(session))
    merge.cancel(session)
    assert session.run.state == "done"


def test_methods_that_know_more_are_named_below_the_sweep(workbench: FakeWorkbench) -> None:
    run = Run(read(workbench, METHODS, form(workbench)), 100, tuple(TITLES), "now")
    sweep = pd.DataFrame(
        {"method": ["average", "regmean", "emr"], "scaling": [1, 0.5, 1], "average": 0.7, "low": 0.6, "high": 0.8}
    )
    shown = json.loads(sweep_view(METHODS, workbench.references("default"), sweep, run, []))
    assert shown["caption"].endswith("RegMean sees training texts; EMR (task known) is told the task of each text.")
    few = json.loads(sweep_view(METHODS, workbench.references("default"), sweep[:1], run, []))
    assert "told" not in few["caption"]


def test_names_are_escaped(workbench: FakeWorkbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "title", lambda task: f"<img src=x>{task}")
    merge, session = panel(workbench), Session()
    values = merge.redraw(session, form(workbench), 100, EVERYWHERE)
    list(merge.evaluate(session))
    run = session.run
    assert "<img" not in verdict_html(run, None, workbench.references("default"), workbench.title)
    assert "<img" not in "".join(values.values())


def test_a_run_is_named_after_what_makes_it_different(workbench: FakeWorkbench) -> None:
    def label(**changes: Any) -> str:
        return panel(workbench).label(read(workbench, METHODS, form(workbench, **changes)))

    assert label() == "DO-Merging (reconstruction) · λ 0.5"
    assert label(orthogonalize="off", decouple=0.5, weight_1=0.2).endswith(
        "λ 0.5 · orthogonalize off · γ 0.5 · own weights"
    )
    assert label(granularity="module", max_up=2.0).endswith("λ 0.5 · decouple 1, per module, amplified at most 2 times")
    assert label(decouple=0.0, granularity="module").endswith("λ 0.5 · γ 0")
    assert label(orthogonalize="raw", penalty=1.0).endswith("λ 0.5 · orthogonalize raw")
    assert label(orthogonalize="raw", penalty=0.3).endswith("orthogonalize raw · g 0.3")
    assert (
        label(method="ties", mu=0.3) == "TIES · λ 0.7 · density 0.2 · trim module · election unweighted · μ 0.3, k 100"
    )


def test_two_sessions_do_not_see_each_other(workbench: FakeWorkbench) -> None:
    merge, one, two = panel(workbench), Session(), Session()
    merge.redraw(one, form(workbench), 100, EVERYWHERE)
    running = merge.evaluate(one)
    next(running)
    merge.redraw(two, form(workbench, slider_0=1.2), 100, EVERYWHERE)
    assert 'data-state="done"' in list(running)[-1]["verdict"]


# -- verdict -----------------------------------------------------------------------------------------------------------


def marks(right: int, rows: int = 100) -> str:
    return "1" * right + "0" * (rows - right)


def test_the_verdict_is_the_mean_gap_recovered_with_a_joint_interval() -> None:
    ends = {"base_marks": [marks(50), marks(60), marks(10)], "single_marks": [marks(80), marks(90), marks(20)]}
    references = pd.DataFrame({"task": ["a", "b", "c"], "base": [0.5, 0.6, 0.1], "single": [0.8, 0.9, 0.2]} | ends)
    scores = {"a": Score(0.6, 0.5, 0.7, 100, 100, marks(60)), "b": Score(0.9, 0.86, 0.93, 100, 100, marks(90))}
    result = summarise(scores, references)
    assert result.recovered == pytest.approx((1 / 3 + 1) / 2)
    assert result.recovered_low < result.recovered < result.recovered_high
    assert (result.counted, result.certain) == (2, False)
    assert result.average == pytest.approx(0.75)
    assert result.low == pytest.approx(0.75 - (0.1**2 + 0.04**2) ** 0.5 / 2)
    assert result.high == pytest.approx(0.75 + (0.1**2 + 0.03**2) ** 0.5 / 2)
    assert (result.worst, result.tasks) == ("a", 2)
    assert result.worst_points == pytest.approx(-20)
    assert summarise({}, references) is None


def test_base_and_own_adapter_are_measured_on_the_rows_of_the_merge() -> None:
    # of the four rows that the merge has seen the base gets one right and the adapter three
    references = pd.DataFrame(
        {"task": ["a"], "base": [0.9], "single": [0.9], "base_marks": ["10001111"], "single_marks": ["11100000"]}
    )
    scores = {"a": Score(0.5, 0.1, 0.9, 4, 8, "1100....")}
    result = summarise(scores, references)
    assert (result.base, result.single, result.average) == (0.25, 0.75, 0.5)
    assert result.worst_points == pytest.approx(-25)


@pytest.mark.parametrize(("right", "tone"), [(60, "ms-bad"), (75, "ms-warn"), (95, "ms-good")])
def test_near_the_base_is_red_whatever_the_average(workbench: FakeWorkbench, right: int, tone: str) -> None:
    tasks = list(TITLES)
    ends = {"base_marks": [marks(600, 1000)] * 6, "single_marks": [marks(1000, 1000)] * 6}
    references = pd.DataFrame({"task": tasks, "base": 0.6, "single": 1.0} | ends)
    p = right / 100
    scores = {task: Score(p, p - 0.02, p + 0.02, 1000, 1000, marks(10 * right, 1000)) for task in tasks}
    run = Run(read(workbench, METHODS, form(workbench)), 1000, tuple(tasks), "now", "done", scores)
    html = verdict_html(run, None, references, workbench.title)
    assert f'class="ms-big {tone}" data-value="recovered"' in html
    early = {task: Score(p, p - 0.1, p + 0.1, 1000, 1000, marks(10 * right, 1000)) for task in tasks}
    run = Run(run.settings, 1000, tuple(tasks), "now", "running", early)
    assert f"{tone} ms-unsure" in verdict_html(run, None, references, workbench.title)


def shipped_run(p: float) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(task=task, accuracy=p, interval=(p - 0.05, p + 0.05), done=200, total=200, marks=drawn(p, 200))
        for task in TITLES
    ]


def test_the_page_opens_finished_with_the_plain_sum_pinned(
    workbench: FakeWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {("do_merging", 1.0): shipped_run(0.8), ("task_arithmetic", 1.0): shipped_run(0.5)}
    monkeypatch.setattr(workbench, "measured_before", known)
    merge, session = panel(workbench), Session()
    opened = {
        name: options.get("value") for name, options in choose(workbench, METHODS, "papers", "do_merging").items()
    }
    opened |= {"pool": "papers", "method": "do_merging", "k": 100, "seed": 0, "slider_0": 1.0}
    values, _, _ = merge.open(session, opened, 200, EVERYWHERE, "")
    assert 'data-state="done"' in values["verdict"] and "measured before" in values["verdict"]
    assert [pin.settings.spec.method for pin in session.pins] == ["task_arithmetic"]
    assert list(merge.evaluate(session)) and workbench.started == []
    assert "<b>50%</b>" in merge.story() and "<b>80%</b>" in merge.story()
    # what the visitor wants to see measured is measured
    session.again()
    merge.redraw(session, opened, 200, EVERYWHERE)
    assert "measured before" not in list(merge.evaluate(session))[-1]["verdict"]
    assert len(workbench.started) == 1


def test_what_was_to_be_measured_here_is_so_after_a_cancel_too(
    workbench: FakeWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "measured_before", {("do_merging", 0.7): shipped_run(0.8)})
    merge, session = panel(workbench), Session()
    assert "measured before" in merge.redraw(session, form(workbench, slider_0=0.7), 200, EVERYWHERE)["verdict"]
    for _ in range(2):
        session.again()
        assert 'data-known="false"' in merge.redraw(session, form(workbench, slider_0=0.7), 200, EVERYWHERE)["verdict"]
        running = merge.evaluate(session)
        next(running)
        merge.cancel(session)
        assert 'data-state="stopped"' in list(running)[-1]["verdict"]
    session.again()
    merge.redraw(session, form(workbench, slider_0=0.7), 200, EVERYWHERE)
    assert (
        'data-state="done" data-stage="evaluating" data-known="false"' in list(merge.evaluate(session))[-1]["verdict"]
    )


def test_without_shipped_results_the_opening_is_measured_and_tells_no_story(workbench: FakeWorkbench) -> None:
    merge, session = panel(workbench), Session()
    merge.open(session, form(workbench), 100, EVERYWHERE, "")
    assert session.pins == [] and merge.story() == ""
    assert 'data-state="done"' in list(merge.evaluate(session))[-1]["verdict"]


@pytest.mark.parametrize(
    ("pool", "said"), [("osrm", "harmless"), ("papers", "one seed"), ("default", "share hardly any")]
)
def test_the_overlap_figure_says_when_overlap_hurts(workbench: FakeWorkbench, pool: str, said: str) -> None:
    values = panel(workbench).redraw(Session(), form(workbench, pool=pool), 100, EVERYWHERE)
    assert said in json.loads(values["overlap"])["caption"]


def test_base_and_adapters_alone_are_level_lines_in_the_sweep(workbench: FakeWorkbench) -> None:
    run = Run(read(workbench, METHODS, form(workbench)), 100, tuple(TITLES), "now")
    sweep = pd.DataFrame(
        {"method": ["ties", "base", "alone"], "scaling": [1, 0, 0], "average": [0.7, 0.5, 0.9], "low": 0.4, "high": 1.0}
    )
    shown = json.loads(sweep_view(METHODS, workbench.references("default"), sweep, run, []))
    lines = {trace["name"]: trace["y"] for trace in shown["figure"]["data"] if trace["name"] in views.ENDS.values()}
    assert lines == {"base with the tasks' heads": [0.5, 0.5], "each adapter alone": [0.9, 0.9]}


def test_a_run_without_estimates_shows_the_one_before_as_stale(workbench: FakeWorkbench) -> None:
    settings = read(workbench, METHODS, form(workbench))
    scores = {task: Score(0.8, 0.75, 0.85, 100, 100) for task in TITLES}
    before = Run(settings, 100, tuple(TITLES), "before", "done", scores)
    run = Run(settings, 100, tuple(TITLES), "now")
    html = verdict_html(run, before, workbench.references("default"), workbench.title)
    assert "ms-stale" in html
    assert ">0.800<" in html
    assert "0 of 600" in html


# -- controls ----------------------------------------------------------------------------------------------------------


def test_settings_are_read_off_the_form(workbench: FakeWorkbench) -> None:
    settings = read(workbench, METHODS, form(workbench, method="ties", weight_2=0.5, mu=0.3))
    assert settings.spec.params == (("scaling", 0.7), ("density", 0.2), ("trim", "module"), ("election", "unweighted"))
    assert settings.spec.weights == (1, 1, 0.5, 1, 1, 1)
    assert (settings.spec.orthogonalize.mode, settings.spec.decouple.strength, settings.spec.mu) == ("off", 0.0, 0.3)


def test_what_does_not_change_the_merge_does_not_change_its_key(workbench: FakeWorkbench) -> None:
    def key(**changes: Any) -> Settings:
        return read(workbench, METHODS, form(workbench, **changes)).canonical()

    assert key(k=300) == key(seed=3) == key()
    assert key(method="dare", seed=3) != key(method="dare")
    assert key(penalty=0.5) != key()
    assert key(penalty=0.5, orthogonalize="off") == key(orthogonalize="off")
    assert key(mu=0.3, k=300) != key(mu=0.3)


def test_slots_without_a_parameter_are_hidden(workbench: FakeWorkbench) -> None:
    options = choose(workbench, METHODS, "default", "average")
    assert not any(options[slot]["visible"] for slot in ("slider_0", "slider_1", "choice_0"))
    options = choose(workbench, METHODS, "default", "ties")
    assert options["slider_1"]["label"] == "Density"
    assert options["choice_0"]["choices"] == ["module", "model"]


def test_optional_and_yes_no_parameters_have_controls_too(workbench: FakeWorkbench) -> None:
    options = choose(workbench, METHODS, "default", "svd")
    assert (options["slider_1"]["minimum"], options["slider_1"]["value"]) == (0, 0)
    given = read(workbench, METHODS, form(workbench, method="svd"))
    assert given.spec.values == {"scaling": 0.4, "rank": None}
    given = read(workbench, METHODS, form(workbench, method="svd", slider_1=4))
    assert given.spec.values == {"scaling": 0.4, "rank": 4}
    options = choose(workbench, METHODS, "default", "core_space")
    assert options["choice_1"]["choices"] == ["no", "yes"]
    given = read(workbench, METHODS, form(workbench, method="core_space", choice_1="yes"))
    assert given.spec.values["isotropic"] is True


def test_a_method_that_takes_no_plug_ins_hides_them(workbench: FakeWorkbench) -> None:
    hidden = choose(workbench, METHODS, "default", "peft_linear")
    assert not any(hidden[name]["visible"] for name in ("orthogonalize", "penalty", "decouple", "mu"))
    assert choose(workbench, METHODS, "default", "dare")["seed"]["visible"]


def test_every_control_has_a_label(workbench: FakeWorkbench) -> None:
    with gr.Blocks():
        laid_out = controls(workbench, METHODS, PLUGINS)
    assert all(component.label for component in laid_out.form.values() if component.visible)


def test_modules_are_picked_by_layer_and_kind(workbench: FakeWorkbench) -> None:
    modules = workbench.modules("default")
    assert parts(modules) == (["0", "1", "2", "3", "4", "5"], ["query", "value"])
    assert pick(modules, "3", "query") == ["encoder.layer.3.attention.self.query"]
    assert len(pick(modules, "all", "value")) == 6
    assert pick(modules, "all", "all") == modules
    assert layer_of("pooler") == "pooler"


def test_pico_and_the_norm_cap_are_controls_that_open_off(workbench: FakeWorkbench) -> None:
    start = read(workbench, METHODS, form(workbench))
    assert (start.spec.pico, start.spec.norm_cap) == (False, None)
    for changes in ({"norm_cap": 0.0}, {"norm_cap": 3.0}, {"pico": True}):
        settings = start.changed(**changes)
        shown = {name: option["value"] for name, option in form_of(METHODS, settings).items()}
        assert read(workbench, METHODS, form(workbench) | shown) == settings
    with gr.Blocks():
        form_ = controls(workbench, METHODS, PLUGINS).form
    cap, pico = form_["norm_cap"], form_["pico"]
    assert (cap.label, cap.value) == ("Norm cap in MADs (-0.5 = no limit)", -0.5)
    assert (pico.label, pico.value) == ("Pico", "no")


def test_decouples_options_are_controls_like_the_others(workbench: FakeWorkbench) -> None:
    start = read(workbench, METHODS, form(workbench))
    assert start.spec.decouple == Decouple(1.0)
    for options in ({"granularity": "module"}, {"max_up": 2.5}, {"max_up": 1.0}, {"renormalise": True}):
        settings = start.changed(**options)
        shown = {name: option["value"] for name, option in form_of(METHODS, settings).items()}
        assert read(workbench, METHODS, form(workbench) | shown) == settings
    with gr.Blocks():
        components = controls(workbench, METHODS, PLUGINS).form
    assert components["max_up"].label == "Amplify at most (0.5 = no limit)"
    assert (components["max_up"].value, components["granularity"].value, components["renormalise"].value) == (
        0.5,
        "column",
        "no",
    )
    # without decouple they change nothing
    off = [
        start.changed(decouple=0.0, **options).canonical() for options in ({}, {"granularity": "module", "max_up": 2.0})
    ]
    assert off[0] == off[1]
