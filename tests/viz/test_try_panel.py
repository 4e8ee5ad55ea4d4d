"""The Try it panel's handlers on the shipped pool: answers, reasons, broken rows; text is text, visitors are apart."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

import pandas as pd
import pytest
from builders import made_up_task

from merging.adapters.metadata import AdapterMetadata, Rows
from merging.features.store import TextsOf
from merging.methods import METHODS
from merging.playground.rows import Outcome
from merging.recipes.spec import MergeSpec
from merging.services.limits import LIMITS
from merging.services.playground import Playground
from merging.services.settings import Settings
from merging.services.workbench import Workbench
from viz.panels.merge.controls import opening
from viz.panels.merge.session import Run, Session
from viz.panels.try_it.bars import answers_to, bars_html, flipped, summary, top
from viz.panels.try_it.broke import PAGE, BrokeHandlers
from viz.panels.try_it.handlers import EMPTY, FAST, SLOW, TryHandlers
from viz.panels.try_it.session import TrySession

TEXT, HTML = "What is a leaky heart valve ?", '<img src=x onerror="alert(1)"><b>Who</b> & why?'
LIMIT = 24


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


@pytest.fixture(scope="module")
def panel(bench: Workbench) -> TryHandlers:
    return TryHandlers(Playground(bench))


@pytest.fixture(scope="module")
def broke(panel: TryHandlers) -> BrokeHandlers:
    def stream(pool: str, settings: dict | None, task: str, limit: int) -> Iterator:
        return panel.playground.outcome(pool, Settings.from_dict(settings) if settings else None, task, limit)

    return BrokeHandlers(panel.playground, stream)


@pytest.fixture
def start(bench: Workbench) -> Settings:
    return opening(bench, METHODS, "task_arithmetic")


@pytest.fixture
def merging(bench: Workbench, start: Settings) -> Session:
    """The Merge tab, with its merge evaluated and another pinned."""
    session, tasks = Session(), tuple(bench.tasks(start.pool))
    for settings in (opening(bench, METHODS, "do_merging"), start):
        run = Run(settings, LIMIT, tasks, settings.spec.words(), state="done")
        for estimate in bench.shipped(settings, LIMIT):
            run.take(estimate)
        session.run = run
        session.pin()
    session.pins.pop()
    return session


@pytest.fixture
def session(panel: TryHandlers, start: Settings, merging: Session) -> TrySession:
    session = TrySession()
    panel.open(session, start, merging)
    return session


def figure(value: str) -> dict:
    return json.loads(value)["figure"]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_opening_takes_the_merge_and_the_pin_of_the_merge_tab(panel: TryHandlers, start, merging) -> None:
    session = TrySession()
    values, options = panel.open(session, start, merging)
    assert "Task Arithmetic" in values["about"]
    assert f"Pinned: {escape(merging.pins[0].called)}" in values["about"]
    assert EMPTY in values["summary"]
    assert options["scaling"] == {"value": 1.0, "visible": True}
    assert len(options["task"]["choices"]) == 8
    no_scaling, options = panel.open(session, opening(panel.workbench, METHODS, "average"), Session())
    assert options["scaling"] == {"visible": False}
    assert "Pinned" not in no_scaling["about"]


def test_a_text_is_answered_by_everybody_and_flips_are_marked(panel: TryHandlers, session: TrySession) -> None:
    values, options = panel.write(session, TEXT)
    assert set(values) <= {*FAST, *SLOW}
    said = session.said
    assert set(said.source) == {"base", "own", "merge", "pinned"}
    assert options["text"]["visible"] is False
    first = answers_to(said, 0)
    flips = flipped(first)
    assert flips
    assert values["bars"].count("flipped") == len(flips) + len(flipped(first, "pinned"))
    label, p = top(first["trec", "merge"])
    assert f"question type: merge says {label} {p:.2f}, own adapter says" in values["summary"]
    assert f"flips {len(flips)} of 8 answers" in values["summary"]


def test_a_moved_slider_asks_the_merge_alone(panel: TryHandlers, session: TrySession) -> None:
    panel.write(session, TEXT)
    before = session.said
    ends = session.ends
    values = panel.scale(session, 0.0)
    assert session.ends is ends
    after = session.said
    base, merge = (after[after.source == name].probability.to_numpy() for name in ("base", "merge"))
    assert merge == pytest.approx(base, abs=1e-6), "at λ = 0 the merge is the base"
    assert not before[before.source == "merge"].equals(after[after.source == "merge"])
    assert "bars" in values


def test_html_in_a_text_stays_text_everywhere(panel: TryHandlers, session: TrySession) -> None:
    values, _ = panel.write(session, HTML)
    every = [values, *panel.explain(session)]
    rendered = [v for each in every for name, v in each.items() if name in ("bars", "summary", "note", "work", "about")]
    assert not any("<img" in value or "<b>Who" in value for value in rendered)
    _, options = panel.write(session, f"{HTML}\nother")
    assert options["text"]["choices"][0][0].startswith("1: <img"), "a list of choices is no HTML"


@pytest.mark.parametrize("text", ["😀😀", "مرحبا بالعالم", "Где находится Лувр?", "ルーブルはどこ", "x " * 5000])
def test_any_script_is_answered(text: str, panel: TryHandlers, session: TrySession) -> None:
    values, _ = panel.write(session, text)
    assert "ms-says" in values["bars"]
    p = session.said.groupby(["task", "source"]).probability.sum().to_numpy()
    assert p == pytest.approx(1.0)
    assert ("5002 tokens" in values.get("note", "")) == (len(text) > 1000)


def test_too_much_and_nothing_are_sentences(panel: TryHandlers, session: TrySession) -> None:
    panel.write(session, TEXT)
    values, _ = panel.write(session, "x" * (LIMITS.text_characters + 1))
    assert 'role="alert"' in values["note"]
    assert values["bars"] == ""
    values, _ = panel.write(session, " \n ")
    assert session.texts == ()
    assert list(panel.explain(session))[-1] in ({}, {"work": ""})


def test_several_lines_are_several_texts_in_one_table(panel: TryHandlers, session: TrySession) -> None:
    values, options = panel.write(session, "one text\nanother text\n")
    assert options["text"]["visible"] is True
    values |= explained(panel, session)
    table = json.loads(values["labels"])["table"]
    frame = pd.DataFrame(table["rows"], columns=table["columns"])
    assert set(frame.text) == {"one text", "another text"}
    assert set(frame.task) == set(panel.titles_of(session.settings).values())
    assert panel.choose(session, text=1)["bars"] != values["bars"]


def test_an_earlier_question_answered_late_is_dropped(panel: TryHandlers, session: TrySession, monkeypatch) -> None:
    real = panel.playground.said

    def slow(*arguments):
        monkeypatch.setattr(panel.playground, "said", real)
        panel.write(session, "a later text")
        return real(*arguments)

    monkeypatch.setattr(panel.playground, "said", slow)
    values, _ = panel.write(session, "an earlier text")
    assert values == {}
    assert session.texts == ("a later text",)


def test_two_visitors_do_not_see_each_other(panel: TryHandlers, start: Settings, merging: Session) -> None:
    mine, yours = TrySession(), TrySession()
    for visitor in (mine, yours):
        panel.open(visitor, start, merging)
    a, _ = panel.write(mine, "Where is the Louvre?")
    b, _ = panel.write(yours, "free money, call now")
    assert "free money" not in json.dumps(a)
    assert "Louvre" not in json.dumps(b)
    mine.close()
    assert (mine.texts, mine.picture, mine.said, mine.ends) == ((), None, None, None)
    assert yours.texts == ("free money, call now",)


# -- why ---------------------------------------------------------------------------------------------------------------


def explained(panel: TryHandlers, session: TrySession) -> dict[str, str]:
    values: dict[str, str] = {}
    for step in panel.explain(session):
        values |= step
    return values


def test_the_reasons_follow_and_name_who_pulls(panel: TryHandlers, session: TrySession) -> None:
    panel.write(session, TEXT)
    values = explained(panel, session)
    assert {"story", "layers", "loudness", "blame"} <= set(values)
    blame = json.loads(values["blame"])
    titles = panel.titles_of(session.settings)
    table = pd.DataFrame(blame["table"]["rows"], columns=blame["table"]["columns"])
    assert set(table.left_out) == set(titles.values())
    label = top(answers_to(session.said, 0)["trec", "own"])[0]
    worst = table[table.label == label].sort_values("effect").iloc[0]
    assert f"“{worst.left_out}” pulls this away from “question type: {label}” most" in blame["caption"]
    story = json.loads(values["story"])
    assert story["figure"]["layout"]["shapes"][0]["x0"] == 1.0
    assert "flips at λ" in story["caption"]
    assert len(figure(values["layers"])["data"][0]["x"]) == 7
    assert list(panel.explain(session)) == [], "once is enough"


def test_a_new_text_ends_the_reasons_of_the_last(panel: TryHandlers, session: TrySession) -> None:
    panel.write(session, TEXT)
    steps = panel.explain(session)
    assert "story" in next(steps) | next(steps)
    panel.write(session, "something else")
    assert list(steps) == []


def test_a_merge_that_reads_texts_reads_them_before_it_answers(panel: TryHandlers, merging: Session) -> None:
    session = TrySession()
    settings = Settings("papers", replace(MergeSpec.of("regmean", k=5), weights=(1.0,) * 8))
    panel.open(session, settings, merging)
    values, _ = panel.write(session, TEXT)
    assert "merge" not in set(session.said.source)
    assert "read first" in values["note"]
    values = explained(panel, session)
    assert "merge" in set(session.said.source)
    assert "blame" in values


def test_a_method_without_lambda_says_so_in_the_story(panel: TryHandlers, merging: Session) -> None:
    session = TrySession()
    panel.open(session, opening(panel.workbench, METHODS, "average"), merging)
    panel.write(session, TEXT)
    assert "no λ" in json.loads(explained(panel, session)["story"])["caption"]


# -- tables ------------------------------------------------------------------------------------------------------------


def test_labels_and_titles_with_markup_are_escaped() -> None:
    labels = [("<b>a</b>", 0.7), ("c & d", 0.3)]
    said = {("t", "own"): labels, ("t", "merge"): labels}
    html = bars_html(said, ["t"], lambda _: "<i>T</i>", "t", ("t", "<u>x</u>"))
    assert not re.search(r"<(b>a|i>T|u>x)", html)
    assert "&lt;b&gt;a&lt;/b&gt;" in html
    assert "merge says <b>a</b> 0.70" in summary(said, ["t"], str, "t"), "plain text; who draws it escapes it"


# -- what broke --------------------------------------------------------------------------------------------------------


def looked(broke: BrokeHandlers, session: TrySession, merging: Session, task: str = "trec") -> dict[str, str]:
    values: dict[str, str] = {}
    for step in broke.look(session, merging, task):
        values |= step
    return values


def test_the_counts_are_those_of_the_evaluation(broke: BrokeHandlers, panel: TryHandlers, session, merging) -> None:
    html = broke.counts(session, merging)
    own = panel.workbench.references(session.settings.pool).set_index("task").single_marks["trec"][:LIMIT]
    mine = merging.run.scores["trec"].marks
    broken = sum(a == "1" and b == "0" for a, b in zip(own, mine, strict=True))
    assert f'question type</button></th><td data-label="broken">{broken}</td>' in html
    assert "only pin" in html
    panel.scale(session, 0.3)
    assert "has not evaluated this very merge" in broke.counts(session, merging)


def test_rows_are_a_page_sorted_and_one_can_be_tried(broke: BrokeHandlers, panel, session, merging) -> None:
    values = looked(broke, session, merging)
    rows = session.broke.rows
    own = panel.workbench.references(session.settings.pool).set_index("task").single_marks["trec"][:LIMIT]
    expected = {i for i, (a, b) in enumerate(zip(own, merging.run.scores["trec"].marks, strict=True)) if a + b == "10"}
    assert set(rows[rows.kind == "broken"].row) == expected
    assert values["rows"].count('data-pick="row:') == min(PAGE, len(expected))
    first = rows[rows.kind == "broken"].iloc[0]
    assert broke.pick(session, f"row:{first.row}") == ({}, (first.text, "trec", first.truth))
    text, values, _ = panel.put(session, first.text, "trec", first.truth)
    assert text == first.text
    assert f"truth: {first.truth}" in values["bars"]
    assert "✗ wrong" in values["bars"]


def test_pairs_search_pages_and_sides_choose_among_the_rows(broke: BrokeHandlers, session, merging) -> None:
    looked(broke, session, merging)
    state = session.broke
    everything = len(state.shown)
    labels = list(state.table.index)
    i, j = next((i, j) for i in range(6) for j in range(6) if i != j and state.table.iloc[i, j])
    html = broke.pick(session, f"pair:{i}:{j}")[0]["rows"]
    assert f'data-pick="pair:{i}:{j}" aria-pressed="true"' in html
    assert set(state.shown["first"]) <= {labels[i]}
    broke.pick(session, f"pair:{i}:{j}")
    assert len(state.shown) == everything
    word = state.shown.iloc[0].text.split()[-2]
    broke.show(session, search=word.upper())
    assert 0 < len(state.shown) <= everything
    assert all(word.lower() in text.lower() for text in state.shown.text)
    assert "No row" in broke.show(session, search="(((nothing")["rows"]
    broke.show(session, search="")
    broke.show(session, page=99)
    last = (everything - 1) // PAGE
    assert state.page == last
    broke.pick(session, "page:next")
    assert state.page == last
    html = broke.pick(session, "page:previous")[0]["rows"]
    assert state.page == last - 1
    assert 'data-pick="page:next">Next' in html
    broke.show(session, against="pinned")
    truth = broke.playground.rows("papers", "trec", LIMIT)[1]
    pin = state.known[merging.pins[0].settings.canonical(), "trec", LIMIT]
    assert isinstance(pin, Outcome)
    right = [a == b for a, b in zip(pin.predicted, truth, strict=True)]
    assert all(right[row] for row in state.shown.row)


@pytest.mark.parametrize("name", ["row:9999", "row:x", "pair:0", "pair:77:1", "pair:-1:0", "page:-1", "nonsense", ""])
def test_buttons_that_do_not_exist_do_nothing(name: str, broke: BrokeHandlers, session, merging) -> None:
    looked(broke, session, merging)
    assert broke.pick(session, name) == ({}, None)
    assert broke.pick(TrySession(), name) == ({}, None)
    assert list(broke.look(session, merging, name)) == []


def test_the_file_holds_every_row_and_goes_with_the_visitor(broke: BrokeHandlers, session, merging) -> None:
    assert broke.csv(TrySession()) is None
    looked(broke, session, merging)
    path = broke.csv(session)
    frame = pd.read_csv(path)
    assert set(frame.kind) <= {"broken", "mended"}
    assert len(frame) == len(session.broke.rows)
    session.visitor.leave(broke.workbench)
    assert not path.exists()


def test_a_task_that_a_visitor_brought_is_tried_and_broken_too(broke: BrokeHandlers, panel, tmp_path: Path) -> None:
    bench, owner = panel.workbench, "0123guest"
    folders = {}
    for name, source in (("cats", "movie"), ("tone", "newspaper")):
        task = bench.lab.add(replace(made_up_task(name, 80), title=f"{name} <own>"), owner)
        own = next(a for a in bench.adapters("papers") if a.task == source)
        head = replace(own.head, labels=("cat", "dog"))
        metadata = AdapterMetadata(rows=Rows(test=16), test_accuracy={"base": 0.5, "adapter": 0.5})
        saved = replace(own, head=head, name=name, task=task, metadata=metadata).save(tmp_path / name)
        folders[task] = str(saved)
    bench.add_pool(f"{owner}-pool", "Your own", folders, TextsOf(tuple(folders), ("query", "value")))
    session, task = TrySession(), next(iter(folders))
    settings = Settings(f"{owner}-pool", MergeSpec.of("task_arithmetic", weights=(1, 1)))
    panel.open(session, settings, Session())
    values, _ = panel.write(session, "the cat sleeps")
    assert "cats &lt;own&gt;" in values["bars"]
    assert owner not in re.sub(r'data-pick="[^"]*"', "", values["bars"])
    values = looked(broke, session, Session(), task)
    assert 'role="alert"' not in values["rows"]
    assert session.broke.rows is not None
    assert owner not in broke.csv(session).name
    bench.remove_pool(f"{owner}-pool")
    assert not any(owner in repr(key) for cache in bench._caches for key in cache._kept)
