"""The Diagnose panel's handlers as plain functions, what they send to the browser, and the figures without numbers."""

import json
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from fake_workbench import METHODS, SMALL_FEATURES, SMALL_IN, TEXTS, TITLES, FakeWorkbench, small_adapters
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from merging import merge
from merging.diagnostics.leave_out import Change, Step
from merging.diagnostics.linked import Diagnosis, diagnose
from merging.diagnostics.measures import magnitude_variance
from merging.errors import MergeError
from merging.methods import METHODS as REAL_METHODS
from merging.plugins.decouple import Decouple, decouple
from merging.plugins.orthogonalize import MODES
from merging.services.settings import Settings
from viz.figures.diagnose import skeletons
from viz.figures.leave_out import change_per_task
from viz.panels.diagnose.bundle import bundle
from viz.panels.diagnose.demand import LIMIT, Demand
from viz.panels.diagnose.handlers import DiagnoseHandlers, DiagnoseSession
from viz.panels.diagnose.layout import TITLES as FIGURES
from viz.panels.merge.controls import choose, form_of, read

NAMES = list(TITLES.values())


@pytest.fixture
def workbench() -> FakeWorkbench:
    return FakeWorkbench()


@pytest.fixture
def panel(workbench: FakeWorkbench) -> DiagnoseHandlers:
    return DiagnoseHandlers(workbench, METHODS)


def merging(
    workbench: FakeWorkbench, method: str = "task_arithmetic", pool: str = "default", **changes: Any
) -> Settings:
    """What the Merge tab shows when it is opened."""
    form = {name: options.get("value") for name, options in choose(workbench, METHODS, pool, method).items()}
    return read(workbench, METHODS, form | {"pool": pool, "method": method, "k": 100, "seed": 0}).changed(**changes)


def form(panel: DiagnoseHandlers, settings: Settings, **changes: Any) -> dict[str, Any]:
    """The panel's own controls after it has taken a merge over."""
    return {name: options.get("value") for name, options in panel.options(settings).items()} | changes


def sent(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(values["linked"])


# -- handlers
# --------------------------------------------------------------------------------------------------------------


def test_taking_a_merge_over_sets_the_controls_and_draws(workbench: FakeWorkbench, panel: DiagnoseHandlers) -> None:
    weights = (1.0, 0.5, 0.0, 1.5, 2.0, 1.0)
    settings = merging(workbench, "do_merging", weights=weights, decouple=0.4, k=55)
    values = panel.take(DiagnoseSession(), settings)
    assert set(values) == {"controls", "linked", "about", "note"}
    controls = values["controls"]
    assert controls["scaling"] == {"value": 0.5, "visible": True}
    assert {name: controls[name]["value"] for name in ("orthogonalize", "penalty", "decouple", "mu", "k")} == {
        "orthogonalize": "balanced",
        "penalty": 0.1,
        "decouple": 0.4,
        "mu": 0.0,
        "k": 55,
    }
    assert [controls[f"weight_{i}"]["value"] for i in range(6)] == list(weights)
    assert [controls[f"weight_{i}"]["label"] for i in range(6)] == NAMES
    assert controls["weight_6"] == controls["weight_7"] == {"visible": False}
    news = sent(values)
    assert news["fresh"]
    assert news["at"] == {"scaling": 0.5, "decouple": 0.4} | {f"weight_{i}": weight for i, weight in enumerate(weights)}
    assert "DO-Merging" in values["about"]


def test_a_method_without_lambda_or_plugins_hides_their_controls(
    workbench: FakeWorkbench, panel: DiagnoseHandlers
) -> None:
    assert not panel.take(DiagnoseSession(), merging(workbench, "average"))["controls"]["scaling"]["visible"]
    controls = panel.options(merging(workbench, "peft_linear"))
    assert not any(controls[name]["visible"] for name in ("orthogonalize", "penalty", "decouple", "mu"))


def test_coming_back_to_the_tab_keeps_the_visitors_what_ifs(workbench: FakeWorkbench, panel: DiagnoseHandlers) -> None:
    session, settings = DiagnoseSession(), merging(workbench)
    panel.take(session, settings)
    panel.move(session, form(panel, settings, weight_2=0.25))
    values = panel.take(session, settings)
    assert values["controls"] == {}
    assert session.settings.spec.weights[2] == 0.25
    assert not sent(values)["fresh"]
    other = settings.changed(scaling=0.9)
    values = panel.take(session, other)
    assert values["controls"]["weight_2"]["value"] == 1
    assert session.settings == other


def test_a_move_draws_once(workbench: FakeWorkbench, panel: DiagnoseHandlers) -> None:
    session, settings = DiagnoseSession(), merging(workbench, "ties")
    first = sent(panel.take(session, settings))
    moved = form(panel, settings, weight_0=0.0, decouple=0.7, orthogonalize="raw", scaling=1.2, k=30)
    values = panel.move(session, moved)
    assert set(values) == {"linked"}
    assert sent(values)["lost"] != first["lost"]
    expected = {"weights": [0.0, 1.0, 1.0, 1.0, 1.0, 1.0], "decouple": 0.7, "orthogonalize": "raw", "k": 30}
    assert {name: session.settings.to_dict()[name] for name in expected} == expected
    assert dict(session.settings.spec.params) == dict(settings.spec.params) | {"scaling": 1.2}
    # asked again: an older answer has overtaken this one
    assert panel.move(session, moved) == values


def test_before_the_tab_is_opened_there_is_nothing_to_move(panel: DiagnoseHandlers) -> None:
    session = DiagnoseSession()
    assert panel.move(session, {}) == panel.given_back(session, {}) == {}
    panel.keep(session, {})
    assert list(panel.look(session)) == []
    assert session.settings is None


def test_looking_reads_the_texts_and_draws_what_is_measured_on_them(
    workbench: FakeWorkbench, panel: DiagnoseHandlers
) -> None:
    session = DiagnoseSession()
    values = panel.take(session, merging(workbench))
    assert sent(values)["grams"]["data"] is None
    assert "follows" in values["note"]
    steps = list(panel.look(session))
    assert f"32 of {TEXTS}" in steps[0]["note"]
    assert steps[-1]["note"] == ""
    assert np.shape(sent(steps[-1])["grams"]["data"]) == (12, 6, 6, 6)
    assert list(panel.look(session)) == []


@pytest.mark.parametrize("change", ["k", "pool"])
def test_another_pool_or_k_stops_the_reading(workbench: FakeWorkbench, panel: DiagnoseHandlers, change: str) -> None:
    session, settings = DiagnoseSession(), merging(workbench)
    panel.take(session, settings)
    reading = panel.look(session)
    next(reading)
    if change == "k":
        panel.move(session, form(panel, settings, k=200))
    else:
        panel.take(session, merging(workbench, pool="osrm"))
    assert list(reading) == []
    assert workbench.steps == 2
    assert sent(list(panel.look(session))[-1])["grams"]["data"] is not None
    assert workbench.steps == 3


def test_a_weight_that_moves_meanwhile_is_in_what_is_drawn_at_the_end(
    workbench: FakeWorkbench, panel: DiagnoseHandlers
) -> None:
    session, settings = DiagnoseSession(), merging(workbench)
    panel.take(session, settings)
    reading = panel.look(session)
    next(reading)
    panel.move(session, form(panel, settings, weight_1=0.3))
    last = sent(list(reading)[-1])
    assert last["at"]["weight_1"] == 0.3
    assert last["grams"]["data"] is not None


def test_a_merge_that_needs_texts_waits_for_them_and_then_tells_the_browser_its_values(
    workbench: FakeWorkbench, panel: DiagnoseHandlers
) -> None:
    session = DiagnoseSession()
    panel.take(session, merging(workbench))
    values = panel.take(session, merging(workbench, "regmean", mu=0.3))
    assert "linked" not in values
    assert "read first" in values["note"]
    last = sent(list(panel.look(session))[-1])
    assert last["fresh"]
    assert last["at"]["scaling"] == 0.6


def test_a_refused_merge_is_said_in_place(
    workbench: FakeWorkbench, panel: DiagnoseHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(settings: Settings) -> Diagnosis:
        raise MergeError("the weights sum to <zero>")

    monkeypatch.setattr(workbench, "diagnosis", refuse)
    values = panel.take(DiagnoseSession(), merging(workbench))
    assert "the weights sum to &lt;zero&gt;" in values["note"]
    assert 'role="alert"' in values["note"]


def test_what_the_merge_tab_takes_back_is_not_taken_over_again(
    workbench: FakeWorkbench, panel: DiagnoseHandlers
) -> None:
    session, settings = DiagnoseSession(), merging(workbench, "ties", seed=4)
    panel.take(session, settings)
    options = panel.given_back(session, form(panel, settings, scaling=0.325, weight_5=0.5, decouple=0.2, k=60))
    shown = {name: option["value"] for name, option in options.items()}
    back = read(workbench, METHODS, shown | {"pool": "default", "method": "ties"})
    weights = [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    assert back == settings.changed(scaling=0.325, weights=weights, decouple=0.2, k=60)
    assert panel.take(session, back)["controls"] == {}


def on_grid(param: Any) -> st.SearchStrategy:
    """Every value that a parameter's control can have."""
    if param.choices:
        return st.sampled_from(param.choices)
    if isinstance(param.default, bool):
        return st.booleans()
    steps = st.integers(0, round((param.maximum - param.minimum) / param.step))
    values = steps.map(lambda n: round(param.minimum + n * param.step, 6))
    values = values.filter(lambda value: not param.above_minimum or value > param.minimum)
    return st.none() | values if param.optional else values


@pytest.mark.parametrize("method", REAL_METHODS)
@examples(max_examples=15, deadline=None)
@given(data=st.data())
def test_form_of_is_read_backwards(method: str, data: st.DataObject) -> None:
    share = st.integers(0, 40).map(lambda n: n * 0.05)
    plugs = {
        "orthogonalize": data.draw(st.sampled_from(list(MODES))),
        "penalty": data.draw(share.filter(bool)),
        "decouple": data.draw(share.filter(lambda value: value <= 1)),
        "mu": data.draw(share),
    }
    values = {
        "pool": "default",
        "method": method,
        **{param.name: data.draw(on_grid(param), param.name) for param in REAL_METHODS[method].params},
        **(plugs if REAL_METHODS[method].plugins else {"penalty": plugs["penalty"]}),
        "weights": data.draw(st.lists(share, min_size=6, max_size=6)),
        "k": data.draw(st.integers(1, 120)) * 5,
        "seed": data.draw(st.integers(0, 99)),
    }
    settings = Settings.from_dict(values)
    shown = {name: option["value"] for name, option in form_of(REAL_METHODS, settings).items()}
    assert read(FakeWorkbench(), REAL_METHODS, shown | {"pool": "default", "method": method}) == settings


# -- what the browser gets
# -------------------------------------------------------------------------------------------------


def small_diagnosis(strength: float = 0.0, drop: str = "") -> Diagnosis:
    """Diagnose a sum of small adapters, of which one may lack a module."""
    adapters = small_adapters("default")
    if drop:
        adapters[0] = replace(adapters[0], deltas={m: u for m, u in adapters[0].deltas.items() if m != drop})
    merged = merge(adapters, "task_arithmetic", decouple=strength)
    return diagnose(adapters, merged, [dict(adapter.deltas) for adapter in adapters], SMALL_FEATURES)


def packed(diagnosis: Diagnosis, **options: Any) -> dict[str, Any]:
    settings = merging(FakeWorkbench(), scaling=0.5)
    return json.loads(bundle(diagnosis, settings, NAMES, "Task Arithmetic", **options))


def unpacked(news: dict[str, Any], which: str) -> list[np.ndarray]:
    """Read the column norms as the browser does: per adapter, log10 with -inf for a column that is zero."""
    values = np.frombuffer(b64decode(news["norms"][which]), dtype="<i2").astype(float)
    values = np.where(values == -32768, -np.inf, values / 1000)
    return list(values.reshape(len(news["tasks"]), -1))


def test_column_norms_survive_the_packing() -> None:
    diagnosis = small_diagnosis()
    news = packed(diagnosis)
    found = unpacked(news, "trained")
    assert news["offsets"] == [SMALL_IN * m for m in range(13)]
    for i, values in enumerate(found):
        for m, (first, last) in enumerate(zip(news["offsets"], news["offsets"][1:], strict=False)):
            norms = diagnosis.norms[m][i]
            alive = norms > 0
            assert np.isneginf(values[first:last][~alive]).all()
            np.testing.assert_allclose(values[first:last][alive], np.log10(norms[alive]), rtol=0, atol=0.5e-3 + 1e-9)
    assert [np.isneginf(values).sum() for values in found] == [1] * 6  # the one column that is zero in all of them


def test_an_adapter_that_lacks_a_module_has_zero_columns_and_no_pairs_there() -> None:
    gone = "encoder.layer.2.attention.self.value"
    diagnosis = small_diagnosis(drop=gone)
    news = packed(diagnosis)
    m = news["modules"].index(gone)
    assert np.isneginf(unpacked(news, "trained")[0][news["offsets"][m] : news["offsets"][m + 1]]).all()
    for measure in ("overlap_A", "overlap_B", "cosine"):
        table = news["before"][measure][m]
        assert table[0] == [row[0] for row in table] == [None] * 6
        assert all(table[i][j] is not None for i in range(1, 6) for j in range(1, 6) if i != j)
    assert news["values"][m][0] == []


def test_the_norms_that_the_browser_decouples_are_those_before_decouple() -> None:
    """With γ applied as the browser does it, column by column, they are the norms that enter the merge."""
    news = packed(small_diagnosis(strength=0.6))
    logs = np.array(unpacked(news, "separated"))
    alive = np.isfinite(logs)
    norms = np.where(alive, 10**logs, 0)
    mean = norms.sum(0) / np.maximum(alive.sum(0), 1)
    entering = np.where(alive, norms**0.4 * mean**0.6, 0)
    adapters = small_adapters("default")
    updates = decouple([dict(adapter.deltas) for adapter in adapters], Decouple(0.6))
    for i, deltas in enumerate(updates):
        direct = np.concatenate([deltas[module].column_norms().numpy() for module in news["modules"]])
        np.testing.assert_allclose(entering[i], direct, rtol=2e-3, atol=1e-12)


NODE = shutil.which("node")
SCRIPT = """
globalThis.window = {};
require("vm").runInThisContext(require("fs").readFileSync(process.argv[1], "utf8"));
const { columnNorms, living, decoupled } = window.mergescopeNorms;
const news = JSON.parse(require("fs").readFileSync(0, "utf8"));
const all = columnNorms(news.norms.separated), width = all.length / news.tasks.length;
const columns = news.tasks.map((_, i) => all.subarray(i * width, (i + 1) * width));
console.log(JSON.stringify(decoupled(columns, living(columns, news.dead), news.at.decouple).map((row) => [...row])));
"""


@pytest.mark.skipif(NODE is None, reason="there is no node, which runs the browser's arithmetic here")
@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
def test_the_browsers_arithmetic_leaves_the_same_columns_alone_as_python(strength: float) -> None:
    """Columns at round-off of their adapter are no zeros, and yet have no direction: both sides must take the same for
    dead.
    """
    adapters = small_adapters("default")
    faint = torch.ones(SMALL_IN).index_fill(0, torch.tensor([0, 3, 4]), 1e-8)
    adapters[0] = replace(
        adapters[0], deltas={module: u.scale_columns(faint) for module, u in adapters[0].deltas.items()}
    )
    before = [dict(adapter.deltas) for adapter in adapters]
    news = packed(diagnose(adapters, merge(adapters, "task_arithmetic", decouple=strength), before, SMALL_FEATURES))
    assert len(news["dead"][0]) >= 2 * len(news["modules"])
    assert not any(news["dead"][1:])
    news["at"]["decouple"] = strength
    script = Path(__file__).parents[2] / "assets" / "js" / "norms.js"
    done = subprocess.run(
        [NODE, "-e", SCRIPT, str(script)], input=json.dumps(news), capture_output=True, text=True, check=True
    )
    for found, deltas in zip(json.loads(done.stdout), decouple(before, Decouple(strength)), strict=True):
        direct = np.concatenate([deltas[module].column_norms().numpy() for module in news["modules"]])
        np.testing.assert_allclose(found, direct, rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"granularity": "module"}, {"max_up": 1.5}, {"renormalise": True}],
    ids=lambda options: next(iter(options)),
)
def test_what_column_norms_do_not_tell_arrives_as_it_enters_the_merge(
    workbench: FakeWorkbench, options: dict[str, Any]
) -> None:
    settings = merging(workbench, "do_merging", decouple=0.7, **options)
    session, panel = DiagnoseSession(), DiagnoseHandlers(workbench, METHODS)
    news = panel.take(session, settings)
    linked = json.loads(news["linked"])
    assert not linked["follows_gamma"]
    assert "when its slider rests" in news["about"]
    updates = merge(
        small_adapters("default"), "task_arithmetic", orthogonalize="balanced", decouple=settings.spec.decouple
    ).updates
    for values, deltas in zip(unpacked(linked, "separated"), updates, strict=True):
        direct = np.concatenate([deltas[module].column_norms().numpy() for module in linked["modules"]])
        np.testing.assert_allclose(np.where(np.isfinite(values), 10**values, 0), direct, rtol=2e-3, atol=1e-12)


def test_the_browser_follows_gamma_alone(workbench: FakeWorkbench) -> None:
    news = DiagnoseHandlers(workbench, METHODS).take(DiagnoseSession(), merging(workbench, "do_merging", decouple=0.7))
    assert json.loads(news["linked"])["follows_gamma"]
    assert "when its slider rests" not in news["about"]


def test_the_variance_as_trained_is_the_diagnostic() -> None:
    direct = magnitude_variance(small_adapters("default")).set_index("module").variance
    news = packed(small_diagnosis())
    assert news["variance"]["trained"] == pytest.approx(list(direct[news["modules"]]), rel=1e-6)


def test_every_module_has_its_place_on_the_map() -> None:
    news = packed(small_diagnosis())
    named = [f"encoder.layer.{news['layers'][a]}.attention.self.{news['kinds'][b]}" for a, b in news["place"]]
    assert named == news["modules"]
    assert news["linear"] == "sum"
    assert news["names"] == NAMES


def full_tables(tasks: list[str], modules: list[str]) -> dict[str, pd.DataFrame]:
    quantiles = np.linspace(0, 1, 5)
    columns = [(task, q, q - 2.0, module) for task in tasks for module in modules for q in quantiles]
    return {
        "columns": pd.DataFrame(columns, columns=["task", "quantile", "log10_norm", "module"]),
        "variance": pd.DataFrame({"source": "full", "module": modules, "variance": np.arange(len(modules)) / 10}),
    }


def test_full_fine_tunes_are_shown_only_of_the_same_tasks_and_modules() -> None:
    diagnosis = small_diagnosis()
    modules = list(diagnosis.grams.modules)
    news = packed(diagnosis, full=full_tables(list(TITLES), modules[::-1]))
    assert news["full"]["values"] == [[[-2.0, -1.75, -1.5, -1.25, -1.0]] * 6] * 12
    assert news["variance"]["full"] == pytest.approx([(11 - m) / 10 for m in range(12)])
    for tables in (full_tables(list(TITLES)[1:], modules), full_tables(list(TITLES), modules[1:])):
        other = packed(diagnosis, full=tables)
        assert other["full"] is other["variance"]["full"] is None


def test_titles_are_escaped_where_plotly_reads_html_and_nowhere_else() -> None:
    settings = merging(FakeWorkbench(), scaling=0.5)
    news = json.loads(bundle(small_diagnosis(), settings, ["a <b>", *NAMES[1:]], "Task Arithmetic"))
    assert news["tasks"][0] == news["figures"]["pairs"]["data"][0]["x"][0] == "a &lt;b&gt;"
    assert news["names"][0] == "a <b>"


# -- figures
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_every_linked_figure_is_one_that_plotly_accepts(name: str) -> None:
    figure = skeletons(NAMES, ["0", "1"], ["query", "value"], ["a", "b", "c", "d"])[name]
    go.Figure(figure)
    json.dumps(figure, allow_nan=False)
    assert figure["layout"]["uirevision"] == "keep"


def changes(*rows: tuple[str, str, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["left_out", "task", "difference", "low", "high"])


def test_exactly_the_cells_whose_interval_excludes_zero_are_outlined() -> None:
    table = changes(
        ("x", "a", 3.0, 0.5, 5.5),
        ("x", "b", -3.0, -5.5, -0.5),
        ("y", "a", 3.0, -0.1, 6.1),
        ("y", "b", 0.0, 0.0, 0.0),
        ("z", "b", -0.5, -1.0, 0.0),
    )
    figure = change_per_task(table, ["x", "y", "z"], ["a", "b"])
    go.Figure(figure)
    outlined = {((s["x0"] + s["x1"]) / 2, (s["y0"] + s["y1"]) / 2) for s in figure["layout"]["shapes"]}
    assert outlined == {(0.0, 0.0), (1.0, 0.0)}
    trace = figure["data"][0]
    assert trace["z"] == [[3.0, -3.0], [3.0, 0.0], [None, -0.5]]
    assert trace["zmax"] == -trace["zmin"] == 3.0
    assert trace["text"][2] == ["", "-0.5"]


def test_nothing_measured_is_an_empty_figure() -> None:
    figure = change_per_task(changes(), [], [])
    go.Figure(figure)
    assert figure["layout"]["shapes"] == figure["data"][0]["z"] == []


# -- on demand
# -------------------------------------------------------------------------------------------------------------


def steps_of(settings: dict[str, Any], part: str, limit: int) -> Iterator[Step]:
    """A leave-one-out of two parts; trec is better off without the first by more than chance."""
    left_out = ["sms_spam", "movie"] if part == "adapter" else ["0", "1"]
    yield Step("", 1, 3)
    for place, name in enumerate(left_out):
        yield Step(name, place + 2, 3, (Change(name, "trec", 4.0 - 4 * place, 1.0 - 4 * place, 7.0, limit, 9, 1),))


def looking(workbench: FakeWorkbench, **changed: Any) -> DiagnoseSession:
    """A visitor who looks at a merge."""
    session = DiagnoseSession()
    DiagnoseHandlers(workbench, METHODS).take(session, merging(workbench, **changed))
    return session


def demand(workbench: FakeWorkbench, leave_out: Any = steps_of) -> Demand:
    return Demand(workbench, leave_out)


def test_what_is_measured_on_demand_is_what_the_sliders_say(workbench: FakeWorkbench) -> None:
    """λ moves in the browser alone, so it is read off when something is asked for."""
    asked: list[dict[str, Any]] = []

    def noted(settings: dict[str, Any], part: str, limit: int) -> Iterator[Step]:
        asked.append(settings)
        yield from steps_of(settings, part, limit)

    panel, session = DiagnoseHandlers(workbench, METHODS), looking(workbench)
    panel.keep(session, form(panel, session.settings, scaling=1.75))
    list(demand(workbench, noted).leave_out(session, "adapter"))
    assert asked[-1]["scaling"] == 1.75


def test_cancelling_stops_at_the_next_step(workbench: FakeWorkbench) -> None:
    session, asked = looking(workbench), demand(workbench)
    running = asked.leave_out(session, "adapter")
    assert next(running)["busy"]
    next(running)
    assert asked.cancel(session) == {"busy": False}
    assert list(running) == []
    again = list(asked.leave_out(session, "adapter"))
    assert len(again) > 1  # a run that was stopped is not remembered as one


def test_cancelling_while_texts_are_read_starts_nothing(workbench: FakeWorkbench) -> None:
    def never(*arguments: Any) -> Iterator[Any]:
        raise AssertionError("started")
        yield

    session = looking(workbench, method="regmean")
    asked = demand(workbench, leave_out=never)
    running = asked.leave_out(session, "layer")
    next(running)
    assert "Reading texts: 32" in str(next(running))
    asked.cancel(session)
    assert list(running) == []


def test_what_was_left_out_once_is_shown_at_once_the_second_time(workbench: FakeWorkbench) -> None:
    calls: list[tuple[str, int]] = []

    def counted(settings: dict[str, Any], part: str, limit: int) -> Iterator[Step]:
        calls.append((part, limit))
        yield from steps_of(settings, part, limit)

    asked = demand(workbench, leave_out=counted)
    session = looking(workbench)
    first = list(asked.leave_out(session, "adapter"))
    [second] = list(asked.leave_out(looking(workbench), "adapter"))  # another visitor with the same merge
    assert second == first[-1]
    assert second["busy"] is False
    list(asked.leave_out(session, "layer"))
    list(asked.leave_out(looking(workbench, weights=(1.0, 1.0, 1.0, 1.0, 1.0, 0.5)), "adapter"))
    assert calls == [("adapter", LIMIT), ("layer", LIMIT), ("adapter", LIMIT)]


def test_the_matrix_grows_with_what_is_measured_and_names_what_is_left_out(workbench: FakeWorkbench) -> None:
    asked = demand(workbench)
    views = [json.loads(news["left_out"]) for news in asked.leave_out(looking(workbench), "adapter")]
    assert views[0]["figure"]["data"] == []
    assert views[-1]["figure"]["data"][0]["y"] == ["SMS spam", "movie sentiment"]
    assert len(views[-1]["figure"]["layout"]["shapes"]) == 1
    assert any("2 of 3 rows measured" in view["caption"] for view in views)
    assert "measured" not in views[-1]["caption"]
    assert views[-1]["table"]["columns"] == list(asdict(Change("", "", 0, 0, 0, 0, 0, 0)))
    layers = json.loads(list(asked.leave_out(looking(workbench), "layer"))[-1]["left_out"])
    assert layers["figure"]["data"][0]["y"] == ["layer 0", "layer 1"]


def test_a_refusal_becomes_the_captions_sentence(workbench: FakeWorkbench) -> None:
    def refuse(settings: dict[str, Any], part: str, limit: int) -> Iterator[Step]:
        raise MergeError("Leaving one adapter out needs two or more.")
        yield

    last = list(demand(workbench, leave_out=refuse).leave_out(looking(workbench), "adapter"))[-1]
    assert json.loads(last["left_out"])["caption"].startswith("Leaving one adapter out needs two or more.")
    assert last["busy"] is False


def test_before_the_tab_is_opened_there_is_nothing_to_measure(workbench: FakeWorkbench) -> None:
    asked = demand(workbench)
    assert list(asked.leave_out(DiagnoseSession(), "layer")) == []
