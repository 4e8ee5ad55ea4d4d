"""The recipe card and what restores the controls: a link in the address, a recipe in the box."""

import json
from typing import Any

import pytest
from fake_workbench import FakeWorkbench

from merging.features.store import TextsOf
from merging.methods import METHODS
from merging.recipes.spec import MergeSpec
from merging.services.link import from_query, settings_of_recipe, to_query
from merging.services.settings import LIMIT, Settings
from merging.services.workbench import Workbench
from viz.panels.merge.controls import choose, opening, read, restored
from viz.panels.merge.handlers import OUTPUTS, MergeHandlers
from viz.panels.merge.recipe import TEMPLATE, outer_address, recipe_payload
from viz.panels.merge.session import Session

BENCH = Workbench()
START = opening(BENCH, METHODS)
EVERYWHERE = ("A", "all", "all")


def panel() -> MergeHandlers:
    return MergeHandlers(BENCH, METHODS, lambda settings, limit: iter(()))


def form(settings: Settings = START) -> dict[str, Any]:
    """What Gradio sends of a page that shows these settings; a hidden control still has a value."""
    hidden = dict.fromkeys(choose(BENCH, METHODS, "default", "knots"), 0)
    return hidden | {
        name: options["value"] for name, options in restored(BENCH, METHODS, settings).items() if "value" in options
    }


def tuned(method: str, pool: str = "default", **changes: Any) -> Settings:
    ones = [1.0] * len(BENCH.tasks(pool))
    return Settings(pool, BENCH.defaults(pool, method)).changed(**{"weights": ones} | changes)


def card(values: dict[str, str]) -> dict[str, Any]:
    return json.loads(values["recipe"])


@pytest.mark.parametrize("method", METHODS)
def test_the_controls_give_back_the_settings_that_they_were_restored_from(method: str) -> None:
    written = tuned(method, "osrm", weights=(1.0, 0.5, 0.25, 0.0, 2.0, 1.0, 0.75, 1.5), k=305, seed=7)
    assert read(BENCH, METHODS, form(written)) == written


def test_an_automatic_rank_is_restored_too() -> None:
    written = tuned("svd", scaling=0.4, rank=None)
    assert read(BENCH, METHODS, form(written)) == written


def test_a_link_opens_on_its_merge() -> None:
    session, written = Session(), tuned("ties", "osrm", weights=(1.0, 1.0, 0.5, *(1.0,) * 5), k=30)
    values, options, _ = panel().open(session, form(), 200, EVERYWHERE, f"__theme=dark&{to_query(written, 350)}")
    assert set(values) == set(OUTPUTS)
    assert (session.run.settings, session.run.limit) == (written, 350)
    assert options["limit"]["value"] == 350
    assert read(BENCH, METHODS, {name: option.get("value") for name, option in options.items()}) == written
    assert from_query(card(values)["query"], BENCH) == (written, 350)
    assert "ms-error" not in values["notes"]


def test_an_address_without_a_link_leaves_the_controls() -> None:
    session = Session()
    _, options, _ = panel().open(session, form(), 200, EVERYWHERE, "__theme=dark")
    assert options == {}
    assert session.run.settings == START


def test_a_link_that_means_nothing_is_said_and_the_page_opens_as_usual() -> None:
    merge, session = panel(), Session()
    values, options, said = merge.open(session, form(), 200, EVERYWHERE, "pool=default&method=<b>")
    assert options == {}
    assert session.run.settings == START
    assert said.startswith(
        '<p class="ms-error" role="alert">The link&#x27;s method = &#x27;&lt;b&gt;&#x27; is not one of'
    )
    assert "ms-error" not in values["notes"]


def test_an_address_without_a_merge_brings_the_opening_back() -> None:
    options, said = panel().restore("utm_source=mail")
    assert (options, said) == (panel().restore(to_query(START, LIMIT))[0], "")
    assert panel().restore("pool=default&method=<b>")[0] == {}


def test_a_reloaded_page_is_sent_everything_again() -> None:
    merge, session = panel(), Session()
    merge.open(session, form(), 200, EVERYWHERE, "")
    values, _, _ = merge.open(session, form(), 200, EVERYWHERE, "")
    assert set(values) == set(OUTPUTS)


def test_the_card_shows_recipe_program_and_link_of_the_merge() -> None:
    written = tuned("ties", "osrm")
    shown = card(panel().redraw(Session(), form(written), 200, EVERYWHERE))
    assert settings_of_recipe(shown["yaml"], BENCH) == written
    assert 'load_pool("osrm")' in shown["python"]
    assert from_query(shown["query"], BENCH) == (written, 200)
    assert ["Rank 384" in hint for hint in shown["hints"]] == [True]


def test_every_move_changes_the_link_even_where_the_merge_stays() -> None:
    merge, session = panel(), Session()
    merge.redraw(session, form(), 200, EVERYWHERE)
    for k, limit in ((200, 200), (200, 250)):
        moved = START.changed(k=k)
        shown = card(merge.redraw(session, form(moved), limit, EVERYWHERE))
        assert from_query(shown["query"], BENCH) == (moved, limit)


@pytest.mark.parametrize("k", [30, 100])
def test_a_recipe_keeps_k_where_texts_decide_the_merge(k: int) -> None:
    for written in (tuned("regmean", k=k), tuned("task_arithmetic", mu=0.3, k=k)):
        recipe = BENCH.update(written).recipe_yaml
        assert f"\nk: {k}\n" in recipe
        assert settings_of_recipe(recipe, BENCH).spec.k == k
    assert "\nk:" not in BENCH.update(tuned("average", k=k)).recipe_yaml


def test_a_visitors_own_set_has_a_recipe_but_no_link() -> None:
    bench = Workbench()
    folders = {task: str(bench.root / "adapters" / "default" / task) for task in ("movie", "sms_spam")}
    bench.add_pool("own-1", "Your set 1", folders, TextsOf(tuple(folders), ("query", "value")))
    shown = card({"recipe": recipe_payload(bench, tuned("average", weights=(1.0, 1.0), pool="default"), 200, "x")})
    assert shown["query"]
    own = Settings("own-1", MergeSpec("average", weights=(1.0, 1.0)))
    shown = card({"recipe": recipe_payload(bench, own, 200, bench.update(own).recipe_yaml)})
    assert shown["query"] is None
    assert "own-1" not in json.dumps(shown)
    assert any("only in your session" in hint for hint in shown["hints"])
    assert shown["python"].startswith("# ")
    assert "fingerprint" in shown["yaml"]


def test_a_pasted_recipe_becomes_the_controls() -> None:
    written = tuned("knots", "osrm", weights=(1.0, 1.0, 0.5, *(1.0,) * 5), seed=3)
    options, said = panel().paste(BENCH.update(written).recipe_yaml)
    assert read(BENCH, METHODS, {name: option.get("value") for name, option in options.items()}) == written
    assert "limit" not in options
    assert 'role="status"' in said
    assert "KnOTS" in said


def test_a_broken_paste_is_said_and_moves_nothing() -> None:
    options, said = panel().paste("<script>: [")
    assert options == {}
    assert said.startswith('<p class="ms-error" role="alert">')
    assert "<script>" not in said


def test_on_a_space_the_link_leads_to_the_page_around_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert outer_address() == ""
    monkeypatch.setenv("SPACE_ID", "some-one/merge.scope_1")
    assert outer_address() == "https://huggingface.co/spaces/some-one/merge.scope_1"
    monkeypatch.setenv("SPACE_ID", 'x"><script>')
    assert outer_address() == ""


def test_the_template_holds_nothing_that_gradio_would_run() -> None:
    assert not {"${", "{{", "`"} & {TEMPLATE[i : i + n] for n in (1, 2) for i in range(len(TEMPLATE))}


def test_the_handlers_still_take_any_workbench() -> None:
    from fake_workbench import METHODS as FAKE

    workbench = FakeWorkbench()
    values = {name: options.get("value") for name, options in choose(workbench, FAKE, "default", "do_merging").items()}
    merge = MergeHandlers(workbench, FAKE, lambda settings, limit: iter(()))
    values, options, _ = merge.open(
        Session(), values | {"pool": "default", "method": "do_merging", "k": 100, "seed": 0}, 200, EVERYWHERE, ""
    )
    assert (set(values), options) == (set(OUTPUTS), {})
