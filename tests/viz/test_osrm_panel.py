"""The OSRM panel's handlers as plain functions, on a synthetic lab."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_lab import TEXTS, FakeLab, FakePools, merge, train
from fake_workbench import TITLES

from merging.errors import MergeError
from merging.services.limits import Limits
from merging.training.variants import VARIANTS
from viz.panels.osrm.found import AXES, FOUND, Found
from viz.panels.osrm.handlers import SUBSPACE, OsrmHandlers
from viz.panels.osrm.plan import HELP, read_plan
from viz.panels.osrm.session import SETS, OsrmSession
from viz.panels.osrm.training import CURVES
from viz.panels.osrm.upload import read_task

NO_PART = ("", "", "")


def form(**changes: Any) -> dict[str, Any]:
    """The values of a freshly opened page."""
    values = {
        "base": "minilm",
        "tasks": ["trec", "sms_spam", "movie"],
        "variant": "osrm",
        "freeze_A": "trained",
        "k": 100,
        "modules": ["query", "value"],
    }
    return values | {"rank": 8, "epochs": 2, "rows": 500, "learning_rate": 2e-3, "seed": 0} | changes


@pytest.fixture
def lab() -> FakeLab:
    return FakeLab()


@pytest.fixture
def panel(lab: FakeLab) -> OsrmHandlers:
    return OsrmHandlers(lab, FakePools(lab), train, merge)


@pytest.fixture
def session(panel: OsrmHandlers) -> Any:
    session = OsrmSession()
    session.visitor.take([session])
    yield session
    session.visitor.leave(panel.pools)


def caption(values: dict[str, Any], name: str) -> str:
    return json.loads(values[name])["caption"]


def drawn(values: dict[str, Any], name: str) -> list[dict]:
    return json.loads(values[name])["figure"]["data"]


def opened(panel: OsrmHandlers, session: OsrmSession, **changes: Any) -> dict[str, Any]:
    """Take a plan up and read its texts; gives all that was sent."""
    values = panel.redraw(session, form(**changes), NO_PART)
    for news in panel.look(session):
        values |= news
    return values


def trained(panel: OsrmHandlers, session: OsrmSession, **changes: Any) -> dict[str, Any]:
    values = panel.start(session, form(**changes))
    for work in (panel.train(session), panel.measure(session)):
        for news in work:
            values |= news
    return values


def test_every_initialisation_is_explained() -> None:
    assert set(HELP) == set(VARIANTS)


def test_the_plan_is_what_the_form_says() -> None:
    plan = read_plan(form(freeze_A="frozen", k=45, modules=["dense"]))
    assert (plan.tasks, plan.freeze_A, plan.k, plan.modules) == (("trec", "sms_spam", "movie"), True, 45, ("dense",))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tasks": []}, "Choose at least one task"),
        ({"tasks": [f"t{n}" for n in range(9)]}, "at most 8"),
        ({"tasks": ["trec"]}, "at least two tasks"),
        ({"modules": []}, "kind of module"),
        ({"rank": None}, "Rank is empty"),
        ({"rank": 500}, "between 1 and 384"),
        ({"k": 0}, "k is 0"),
        ({"epochs": 0}, "from 1 to 20"),
        ({"learning_rate": 0}, "above 0"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_in_place(
    panel: OsrmHandlers, session: OsrmSession, changes: dict[str, Any], why: str
) -> None:
    for values in (
        panel.redraw(session, form(**changes), NO_PART),
        OsrmHandlers(panel.lab, panel.pools, train, merge).start(OsrmSession(), form(**changes)),
    ):
        assert 'role="alert"' in values["note"]
        assert why in values["note"]
    assert session.training is None
    assert list(panel.look(session)) == []


def test_texts_are_read_once_and_then_everything_is_drawn(
    panel: OsrmHandlers, lab: FakeLab, session: OsrmSession
) -> None:
    first = panel.redraw(session, form(), NO_PART)
    assert "Reading" in caption(first, "spectrum")
    values = opened(panel, session)
    assert all(drawn(values, name) for name in SUBSPACE)
    assert len(drawn(values, "spectrum")[1]["x"]) == 8
    again = panel.redraw(session, form(k=200), session.part)
    assert "turn this subspace by 30%" in caption(again, "spectrum")
    assert list(panel.look(session)) == []
    assert lab.readings == 1


def test_a_solution_that_is_not_unique_is_said_to_be(panel: OsrmHandlers, session: OsrmSession) -> None:
    assert "not unique" in opened(panel, session, k=5)["note"]
    assert "not unique" not in panel.redraw(session, form(k=100), session.part)["note"]
    assert f"SMS spam has {TEXTS}" in panel.redraw(session, form(k=600), session.part)["note"]


def test_reading_can_be_stopped_and_taken_up_again(panel: OsrmHandlers, lab: FakeLab, session: OsrmSession) -> None:
    panel.redraw(session, form(), NO_PART)
    reading = panel.look(session)
    assert "100 of 300" in next(reading)["note"]
    assert "Read texts" in caption(panel.stop_reading(session), "rank")
    assert list(reading) == [{}]
    assert list(panel.look(session)) == []
    panel.read_again(session)
    values = opened(panel, session)
    assert all(drawn(values, name) for name in SUBSPACE)


def test_a_move_to_other_tasks_stops_the_reading_for_the_old_ones(panel: OsrmHandlers, session: OsrmSession) -> None:
    panel.redraw(session, form(), NO_PART)
    reading = panel.look(session)
    next(reading)
    panel.redraw(session, form(tasks=["bbc", "movie"]), NO_PART)
    assert list(reading) == [{}]
    assert "bbc" in [value for _, value in session_choices(panel, session)]


def session_choices(panel: OsrmHandlers, session: OsrmSession) -> list[tuple[str, str]]:
    return panel._choices(session, session.plan)[0]


def test_the_parts_on_offer_are_those_of_the_plan(panel: OsrmHandlers, session: OsrmSession) -> None:
    values = panel.redraw(
        session, form(modules=["query", "dense"], tasks=["bbc", "movie"]), ("trec", "3", "attention.self.value")
    )
    task, layer, part = values["parts"]
    assert [value for _, value in task] == ["bbc", "movie"]
    assert ("3", "3") in layer
    assert session.part[:2] == ("bbc", "3")
    assert [name for name, _ in part] == [
        "query",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ]
    again = panel.redraw(
        session, form(modules=["query", "dense"], tasks=["bbc", "movie"]), ("bbc", "2", session.part[2])
    )
    assert "parts" not in again  # what was picked is not sent back, where it would undo a newer pick
    assert session.part[1] == "2"


def test_one_task_alone_has_a_rank_but_no_others(panel: OsrmHandlers, session: OsrmSession) -> None:
    values = opened(panel, session, tasks=["trec"], variant="default_own")
    assert "one task alone" in caption(values, "spectrum")
    assert drawn(values, "rank")


def test_a_training_runs_to_its_end_is_kept_and_offered(panel: OsrmHandlers, session: OsrmSession) -> None:
    values = trained(panel, session)
    assert 'data-state="done"' in values["training"]
    assert "3 adapters trained" in values["training"]
    for name in CURVES:
        assert any(trace["x"] for trace in drawn(values, name))
    assert "0.810" in values["sets"]
    assert "0.705 ± " in values["sets"]
    [(title, key)] = values["pools"]
    assert "OSRM, full second moment" in title
    assert panel.pools.pools[key][2].tasks == ("trec", "sms_spam", "movie")


def test_a_cancelled_training_keeps_what_is_done(panel: OsrmHandlers, session: OsrmSession) -> None:
    panel.start(session, form(variant="default_own"))
    running = panel.train(session)
    while len(session.training.epochs) < 2:
        next(running)
    assert "Stopping" in panel.cancel(session)["training"]
    *_, last = running
    assert 'data-state="stopped"' in last["training"]
    assert "2 of 3" in last["training"] + last["sets"]
    [(_, key)] = last["pools"]
    assert list(panel.pools.pools[key][1]) == ["trec", "sms_spam"]


def test_one_adapter_alone_is_no_pool(panel: OsrmHandlers, session: OsrmSession) -> None:
    values = trained(panel, session, tasks=["trec"], variant="default_own")
    assert values["pools"] == []
    assert len(values["choice"]) == 1


def test_a_failing_training_says_why_in_place(panel: OsrmHandlers, session: OsrmSession) -> None:
    def fail(*_: Any) -> Any:
        raise MergeError("label <x> is missing from train")
        yield

    panel.train_set = fail
    values = trained(panel, session)
    assert 'role="alert"' in values["training"]
    assert "label &lt;x&gt; is missing" in values["training"]
    panel.train_set = train
    assert 'data-state="done"' in trained(panel, session)["training"]


def test_a_page_that_is_gone_stops_its_training(panel: OsrmHandlers, session: OsrmSession) -> None:
    panel.start(session, form(variant="default_own"))
    running = panel.train(session)
    next(running)
    running.close()
    assert session.training.state == "stopped"
    assert session.training.cancelled


def test_lambda_merges_the_sets_again_and_remembers(panel: OsrmHandlers, session: OsrmSession) -> None:
    trained(panel, session)
    assert "measuring" in panel.rescale(session, 1.0)["sets"]
    *_, last = panel.measure(session)
    assert "0.710 ± " in last["sets"]
    assert "0.705 ± " in panel.rescale(session, 0.5)["sets"]
    assert list(panel.measure(session)) == [{}]


def test_an_outdated_measurement_stops(panel: OsrmHandlers, session: OsrmSession) -> None:
    trained(panel, session)
    panel.rescale(session, 1.0)
    running = panel.measure(session)
    next(running)
    panel.rescale(session, 1.5)
    assert list(running) == [{}]


def test_a_set_is_one_zip_of_peft_folders(panel: OsrmHandlers, session: OsrmSession) -> None:
    values = trained(panel, session)
    path = panel.archive(session, values["choice"][0][1])
    with zipfile.ZipFile(path) as packed:
        assert packed.namelist() == [
            f"mergescope_set1_osrm/{task}/adapter_config.json" for task in ("trec", "sms_spam", "movie")
        ]
    assert panel.archive(session, "somebody else's") is None


def test_only_the_latest_sets_are_kept(panel: OsrmHandlers, session: OsrmSession) -> None:
    for _ in range(SETS + 1):
        trained(panel, session, variant="default_own", tasks=["trec", "bbc"])
    assert [one.number for one in session.sets] == list(range(2, SETS + 2))
    assert len(panel.pools.pools) == SETS


def test_a_visitor_who_leaves_leaves_nothing(
    panel: OsrmHandlers, lab: FakeLab, session: OsrmSession, tmp_path: Path
) -> None:
    trained(panel, session)
    panel.add_task(session, write(tmp_path, "text,label\n" + rows()))
    folder = session.visitor.folder("osrm")
    session.visitor.leave(panel.pools)
    assert not folder.exists()
    assert panel.pools.pools == {}
    assert lab.own == {}


def rows(count: int = 12) -> str:
    return "\n".join(f"text number {n},{'ab'[n % 2]}" for n in range(count))


def write(folder: Path, content: str | bytes, name: str = "mine.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_an_own_task_is_added_for_its_visitor_only(panel: OsrmHandlers, session: OsrmSession, tmp_path: Path) -> None:
    path = write(tmp_path, "﻿text,label\n" + rows())
    first, second = panel.add_task(session, path), panel.add_task(session, path)
    assert [title for title, _ in second["tasks"]] == [*TITLES.values(), "mine", "mine 2"]
    assert first["added"] != second["added"]
    assert panel.titles(OsrmSession()) == TITLES


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"body,label\na,b\n", "no column text"),
        (b"a,b\n1,2\n", "no column text and no column label"),
        ("text,label\ncafé,a\n".encode("utf-16"), "not UTF-8"),
        (b"text,label\n\xff\xfe,a\n", "not UTF-8"),
        (b"", "no CSV table"),
        (b'text,label\n"open,a\n', "no"),
        (b"text,label\n" + rows().encode() + b"\n,a\n", "has no text"),
        (b"text,label\n" + rows().encode() + b"\nsome text,\n", "has no label"),
        (b"text,label\nx,a\ny,a\nz,a\n", "at least two"),
        (b"text,label\n" + b"x" * 2000, "at most 0.002 MB"),
        (b"text,label\n" + rows(21).encode(), "21 rows: at most 20"),
    ],
)
def test_a_bad_file_is_refused_with_a_sentence(tmp_path: Path, monkeypatch, content: bytes, why: str) -> None:
    monkeypatch.setattr("viz.panels.osrm.upload.LIMITS", Limits(table_bytes=2000, table_rows=20))
    with pytest.raises(MergeError, match=why):
        read_task(Path(write(tmp_path, content)))


def test_labels_stay_texts(tmp_path: Path) -> None:
    content = "text,label\n" + "\n".join(f"text {n},{('NA', '01')[n % 2]}" for n in range(12))
    assert read_task(Path(write(tmp_path, content))).labels == ("01", "NA")


# -- what was found


ARM = ("arm", 0.0)


def tables(folder: Path) -> Found:
    """A small experiment of two repetitions; the second lacks a task at one point."""
    sweep, runs, pairs, effects, summary = [], [], [], [], []
    for variant in VARIANTS:
        for repetition in (0, 1):
            for task in ("trec", "movie"):
                runs.append((variant, *ARM, repetition, task, 0.1, 0.08, 1.0, 0.2))
                for scaling in (0.4, 1.0):
                    if (repetition, task, scaling) != (1, "movie", 1.0):
                        sweep.append((variant, *ARM, repetition, "ties", scaling, task, 60 + 10 * repetition, 100))
            pairs += [
                (variant, *ARM, repetition, "trec", "movie", 0.5),
                (variant, *ARM, repetition, "trec", "trec", 1.0),
            ]
        summary += [(*ARM, variant, "ties", at, 2, 0.8, 0.7, 0.9, 0.5, 0.4, 0.6) for at in ("λ 0.3", "λ 1", "best λ")]
        summary += [(*ARM, variant, "alone", "best λ", 2, 0.9, 0.8, 0.95, None, None, None)]
    # an axis is another part of the tables, which the arms' figures must not take up
    sweep.append(("osrm", "k", 10.0, 0, "ties", 0.4, "trec", 0, 100))
    runs.append(("osrm", "k", 10.0, 0, "trec", 9.0, 9.0, 1.0, 0.2))
    for name, values in (
        ("tasks", (2, 3)),
        ("k", (10, 100)),
        ("rank", (4, 8)),
        ("epochs", (1, 3)),
        ("freeze_A", (0, 1)),
    ):
        for value in values:
            for at in ("λ 0.3", "λ 1", "best λ"):
                summary.append(
                    (name, float(value), "osrm", "task_arithmetic", at, 1, 0.7 + value / 1000, 0.6, 0.8, 0.3, 0.2, 0.4)
                )
    for effect in ("own A", "the data"):
        for method, at in (("alone", "best λ"), ("ties", "λ 1"), ("ties", "best λ"), ("emr", "best λ")):
            effects.append((effect, "osrm", "default_own", method, at, 2, 0.02, -0.01, 0.05))
    key = "variant axis value repetition"
    for name, made, columns in (
        ("sweep", sweep, f"{key} method scaling task correct total"),
        ("runs", runs, f"{key} task drift_frobenius drift_procrustes row_norm relative_norm"),
        ("interference", pairs, f"{key} source target ratio"),
        ("effects", effects, "effect variant reference method at n difference low high"),
        ("summary", summary, "axis value variant method at n average low high gap gap_low gap_high"),
        ("answers", [("task_arithmetic", "The data bring nothing.")], "method answer"),
    ):
        pd.DataFrame(made, columns=columns.split()).to_csv(folder / f"osrm_{name}.csv", index=False)
    return Found(folder, {"ties": "TIES", "task_arithmetic": "Task Arithmetic"})


def test_what_was_found_is_drawn_with_its_repetitions(tmp_path: Path) -> None:
    found = tables(tmp_path)
    values = found.views("ties")
    assert set(values) == set(FOUND)
    assert found.methods == [("TIES", "ties")]
    assert found.sentence.startswith("The data bring nothing. 2 tasks, 8 of 8 starts of A, n = 2 repetitions")
    for name in FOUND:
        assert ("one repetition" if name in AXES else "2 repetitions") in caption(values, name)
    first = drawn(values, "found_scaling")[0]
    assert first["x"] == [0.4, 1.0]
    assert first["y"] == pytest.approx([0.65, 0.6])  # the unfinished second repetition is left out at 1
    assert len(drawn(values, "found_scaling")) == len(VARIANTS)
    assert [trace["name"] for trace in drawn(values, "found_arms")] == ["λ 0.3", "λ 1", "best λ"]
    assert [trace["name"] for trace in drawn(values, "found_effects")] == ["adapters alone", "best λ", "λ 1"]
    assert max(drawn(values, "found_drift")[0]["x"]) < 1
    assert set(drawn(values, "found_interference")[0]["x"]) == {0.5}


def test_an_axis_shows_the_simplest_method_where_the_chosen_one_was_not_measured(tmp_path: Path) -> None:
    values = tables(tmp_path).views("ties")
    for name, (first, second) in {"found_k": (10, 100), "found_frozen": (0, 1), "found_tasks": (2, 3)}.items():
        best, large = drawn(values, name)
        assert caption(values, name).startswith("Task Arithmetic on test")
        assert (best["x"], best["line"]["dash"], large["line"]["dash"]) == ([first, second], "solid", "dash")
        assert best["y"] == pytest.approx([0.7 + first / 1000, 0.7 + second / 1000])


@pytest.mark.parametrize("missing", ["sweep", "runs", "interference", "effects", "summary", "answers"])
def test_an_unfinished_experiment_shows_what_there_is(tmp_path: Path, missing: str) -> None:
    found = tables(tmp_path)
    (tmp_path / f"osrm_{missing}.csv").unlink()
    values = found.views("ties")
    empty = {name for name in FOUND if not drawn(values, name)}
    belongs = {
        "sweep": {"found_scaling"},
        "runs": {"found_drift"},
        "interference": {"found_interference"},
        "effects": {"found_effects"},
    }
    assert empty == belongs.get(missing, {"found_arms", *AXES} if missing == "summary" else set())
    assert all("Not measured yet" in caption(values, name) for name in empty)


def test_missing_tables_name_the_command_that_makes_them(tmp_path: Path) -> None:
    found = Found(tmp_path, {})
    assert "mergescope experiment osrm" in found.sentence
    for name, value in found.views(None).items():
        assert "mergescope experiment osrm" in json.loads(value)["caption"], name


def test_another_base_has_other_modules_and_its_texts_are_read_anew(panel: OsrmHandlers, session: OsrmSession) -> None:
    assert panel.modules("smollm2") == {"choices": ["q_proj", "v_proj", "o_proj"], "value": ["q_proj", "v_proj"]}
    assert read_plan(form(base="smollm2", modules=["q_proj"])).base == "smollm2"
    panel.redraw(session, form(), NO_PART)
    session.stopped = True
    panel.redraw(session, form(k=50), NO_PART)
    session.stopped = True
    panel.redraw(session, form(k=50, base="smollm2"), NO_PART)
    assert not session.stopped
