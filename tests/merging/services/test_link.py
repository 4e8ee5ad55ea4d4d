"""A link, a program and a recipe of the same merge: each gives the settings, or the bits, that it was written from."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import torch
import yaml
from builders import one_sentence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging import Adapter, Decouple, Merged, MergeError, Recipe, merge_recipe
from merging.features import store
from merging.features.store import TextsOf
from merging.methods import METHODS, Param
from merging.plugins.decouple import GRANULARITIES
from merging.plugins.orthogonalize import MODES, Orthogonalize
from merging.recipes.spec import MergeSpec
from merging.services.link import (
    K_RANGE,
    LIMIT,
    LIMIT_RANGE,
    LONGEST,
    MOST_SEED,
    WEIGHT_RANGE,
    from_query,
    from_values,
    runnable,
    settings_of_recipe,
    to_query,
)
from merging.services.program import snippet
from merging.services.settings import Settings
from merging.services.workbench import Workbench
from merging.shipped import RETIRED
from merging.tasks.task import DEFAULT_TASKS

BENCH = Workbench()
TASKS = len(DEFAULT_TASKS)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def between(low: float, high: float, above: bool = False) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=above) | st.integers(math.floor(low) + above, int(high)).map(float).filter(
        lambda x: x >= low
    )


def values_of(param: Param) -> st.SearchStrategy[Any]:
    if param.choices:
        return st.sampled_from(param.choices)
    if isinstance(param.default, bool):
        return st.booleans()
    if param.integer:
        return st.integers(int(param.minimum), int(param.maximum)) | (st.none() if param.optional else st.nothing())
    return between(param.minimum, param.maximum, param.above_minimum)


@st.composite
def any_settings(draw: st.DrawFn) -> Settings:
    method = METHODS[draw(st.sampled_from(list(METHODS)))]
    plugs = {
        "orthogonalize": draw(st.sampled_from(MODES)),
        "pico": draw(st.booleans()),
        "norm_cap": draw(st.none() | between(0, 10)),
        "decouple": draw(between(0, 1)),
        "granularity": draw(st.sampled_from(GRANULARITIES)),
        "max_up": draw(st.none() | between(1, 20)),
        "renormalise": draw(st.booleans()),
        "mu": draw(st.just(0.0) | between(0, 2)),
    }
    pool = draw(st.sampled_from(list(BENCH.pools)))
    tasks = len(BENCH.tasks(pool))
    values = {
        "pool": pool,
        "method": method.name,
        **{param.name: draw(values_of(param)) for param in method.params},
        "penalty": draw(between(0.05, 1)),
        "weights": draw(st.lists(between(*WEIGHT_RANGE), min_size=tasks, max_size=tasks)),
        "k": draw(st.integers(*K_RANGE)),
        "seed": draw(st.integers(0, MOST_SEED)),
        **(plugs if method.plugins else {}),
    }
    return Settings.from_dict(values)


def tuned(method: str, pool: str = "default", **changes: Any) -> Settings:
    ones = [1.0] * len(BENCH.tasks(pool))
    return Settings(pool, BENCH.defaults(pool, method)).changed(**{"weights": ones} | changes)


# -- links -------------------------------------------------------------------------------------------------------------


@quick
@given(any_settings(), st.integers(*LIMIT_RANGE))
def test_a_link_gives_the_settings_that_it_was_made_from(drawn: Settings, limit: int) -> None:
    assert from_query(to_query(drawn, limit), BENCH) == (drawn, limit)


@quick
@given(any_settings(), any_settings())
def test_different_settings_have_different_links(one: Settings, other: Settings) -> None:
    assert (to_query(one) == to_query(other)) == (one == other)


def test_a_link_reads_like_the_controls() -> None:
    query = to_query(tuned("ties", weights=(1.0, 1.0, 0.5, *(1.0,) * 5)), 400)
    assert query.startswith("pool=default&method=ties&scaling=")
    assert "&density=0.2&trim=module&election=unweighted&" in query
    assert query.endswith("&weights=1,1,0.5,1,1,1,1,1&k=100&seed=0&limit=400")


def test_a_link_from_before_a_plug_in_is_the_same_link() -> None:
    query = to_query(tuned("do_merging"))
    assert not any(name in query for name in ("granularity", "max_up", "renormalise", "norm_cap", "pico"))
    spec = from_query(query, BENCH)[0].spec
    assert (spec.decouple, spec.norm_cap, spec.pico) == (Decouple(1.0), None, False)
    assert "&pico=yes&norm_cap=3&" in to_query(tuned("ties", norm_cap=3.0, pico=True))
    assert "granularity=module&max_up=1.5" in to_query(tuned("do_merging", granularity="module", max_up=1.5))


def test_a_link_does_not_depend_on_the_tuned_values(monkeypatch: pytest.MonkeyPatch) -> None:
    written = tuned("ties")
    query = to_query(written)
    params = {"scaling": 1.9, "density": 0.9, "trim": "model", "election": "weighted"}
    retuned = MergeSpec.of("ties", params, orthogonalize=Orthogonalize("raw", 1.0), decouple=0.5)
    monkeypatch.setattr(BENCH, "defaults", lambda pool, method: retuned)
    assert from_query(query, BENCH) == (written, 200)
    assert from_query("pool=default&method=ties", BENCH)[0].spec.scaling == 1.9


@pytest.mark.parametrize("method", METHODS)
def test_a_short_query_by_hand_takes_the_tuned_values(method: str) -> None:
    assert from_query(f"pool=osrm&method={method}", BENCH) == (tuned(method, "osrm"), 200)


def test_a_mode_by_hand_brings_its_own_penalty() -> None:
    assert from_query("pool=osrm&method=ties&orthogonalize=raw", BENCH)[0].spec.orthogonalize.g == 1.0
    assert from_query("pool=osrm&method=ties&orthogonalize=raw&penalty=0.3", BENCH)[0].spec.orthogonalize.g == 0.3


def test_what_belongs_to_gradio_is_no_link() -> None:
    assert from_query("", BENCH) is None
    assert from_query("__theme=dark&view=api&__sign=x", BENCH) is None
    assert from_query("__theme=dark&pool=osrm&method=average", BENCH) == (tuned("average", "osrm"), 200)


@pytest.mark.parametrize(
    "foreign", ["utm_source=mail&utm_medium=x", "fbclid=1&fbclid=2", "lesson=interference&step=3", "x=1"]
)
def test_what_others_add_to_a_link_is_passed_over(foreign: str) -> None:
    assert from_query(foreign, BENCH) is None
    if foreign != "x=1":
        assert from_query(f"pool=osrm&{foreign}&method=average&tab=osrm&osrm.k=50", BENCH) == (
            tuned("average", "osrm"),
            200,
        )


def test_no_parameter_of_a_method_hides_behind_another_key() -> None:
    for method in METHODS:
        keys = [key for key, _ in parse_qsl(to_query(tuned(method)))]
        assert len(set(keys)) == len(keys)


TIES = "pool=osrm&method=ties&"
BAD = {
    "an unknown pool": ("pool=mine&method=ties", ["pool", "mine"]),
    "an unknown method": ("pool=osrm&method=magic", ["method", "magic"]),
    "no method": ("pool=osrm&scaling=1", ["no method"]),
    "no pool": ("method=ties", ["no pool"]),
    "a parameter of another method": (TIES + "epsilon=0.1", ["epsilon", "density"]),
    "an unknown key": (TIES + "sclaing=1", ["sclaing"]),
    "a key twice": (TIES + "scaling=1&scaling=2", ["scaling", "twice"]),
    "no number": (TIES + "scaling=much", ["scaling", "much"]),
    "an empty value": (TIES + "scaling=", ["scaling"]),
    "NaN": (TIES + "density=nan", ["density", "finite"]),
    "infinity": (TIES + "scaling=1e999", ["scaling"]),
    "above the slider": (TIES + "scaling=2.5", ["scaling", "2.5", "less than or equal to 2"]),
    "a minimum that is refused": (TIES + "density=0", ["density", "greater than 0"]),
    "no choice": (TIES + "trim=sideways", ["trim", "sideways", "module"]),
    "an unknown mode": (TIES + "orthogonalize=sideways", ["orthogonalize", "balanced"]),
    "half a text": (TIES + "k=30.5", ["k", "30.5"]),
    "too many texts": (TIES + "k=601", ["k", "601"]),
    "a negative seed": (TIES + "seed=-1", ["seed"]),
    "a seed that no browser holds": (TIES + f"seed={MOST_SEED + 1}", ["seed"]),
    "too few rows": (TIES + "limit=1", ["limit"]),
    "too few weights": (TIES + "weights=1,1", ["weights", f"{TASKS} adapters"]),
    "no weights": (TIES + "weights=", ["weights"]),
    "a weight that is a text": (TIES + "weights=1,1,x,1,1,1,1,1", ["weights", "x"]),
    "a negative weight": (TIES + "weights=1,1,-1,1,1,1,1,1", ["weights", "-1"]),
    "plug-ins where there are none": ("pool=osrm&method=peft_ties&mu=0.3", ["peft_ties", "plug-ins"]),
    "a long text": (TIES + "scaling=" + "9" * 5000, ["scaling"]),
}


@pytest.mark.parametrize(("query", "words"), BAD.values(), ids=BAD)
def test_a_link_that_means_nothing_is_refused_in_a_sentence(query: str, words: list[str]) -> None:
    with pytest.raises(MergeError) as caught:
        from_query(query, BENCH)
    assert one_sentence(caught.value, *words), str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("old", "new"), RETIRED.items())
def test_a_link_to_a_pool_of_an_earlier_version_names_the_one_that_took_its_place(old: str, new: str) -> None:
    with pytest.raises(MergeError) as caught:
        from_query(f"pool={old}&method=ties", BENCH)
    assert one_sentence(caught.value, old, "earlier versions", "no longer shipped", f"choose {new!r}"), str(
        caught.value
    )


def test_a_pool_of_one_visitor_has_no_link_and_no_program() -> None:
    bench = Workbench()
    folders = {task: str(bench.root / "adapters" / "default" / task) for task in ("movie", "sms_spam")}
    bench.add_pool("own-1", "Your set 1", folders, TextsOf(tuple(folders), ("query", "value")))
    own = tuned("ties", weights=(1.0, 1.0))
    for write in (to_query, lambda s: snippet(s, bench)):
        with pytest.raises(MergeError, match="only in your session"):
            write(own.changed(pool="own-1"))
    with pytest.raises(MergeError, match="own-1"):
        from_query("pool=own-1&method=ties", bench)


# -- programs ----------------------------------------------------------------------------------------------------------

PROGRAMS = {
    **{
        method: tuned(method, weights=(1.0, 0.3, 1.0, 0.0, 1.0, 2.0, 0.5, 1.0))
        for method in ("average", "ties", "core_space", "emr", "peft_ties")
    },
    "a seed": tuned("dare", seed=12345),
    "a rank": tuned("svd", scaling=0.1 + 0.2, rank=None),
    "plug-ins": tuned("task_arithmetic", orthogonalize="raw", penalty=0.35, decouple=0.45),
    "decouple's options": tuned("task_arithmetic", decouple=0.45, granularity="module", max_up=1.5, renormalise=True),
    "a limit at full strength": tuned("do_merging", max_up=2.0),
    "a norm cap": tuned("task_arithmetic", pool="unequal", norm_cap=2.5),
    "Pico": tuned("task_arithmetic", pico=True),
    "plug-ins off": tuned("do_merging", orthogonalize="off", decouple=0.0),
    "another penalty": tuned("do_merging", penalty=0.25),
}


def run(program: str) -> Merged:
    names: dict[str, Any] = {}
    exec(compile(program, "program", "exec"), names)
    return names["merged"]


@pytest.mark.parametrize("written", PROGRAMS.values(), ids=PROGRAMS)
def test_the_program_makes_the_same_merge_bit_for_bit(
    written: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected, got = BENCH.merged(written), run(snippet(written, BENCH))
    assert got.modules == expected.modules
    if "task_id" in expected.needs:
        expected, got = (merged.for_task("movie") for merged in (expected, got))
    assert all(torch.equal(got.delta(module), expected.delta(module)) for module in expected.modules)
    assert (tmp_path / "merged").exists() == ("task_id" not in expected.needs)


@pytest.mark.slow
def test_the_program_reads_the_texts_that_the_app_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "TEXTS", (16, 600))  # few, for speed; the program still takes the first 12 of more
    written = tuned("regmean", mu=0.3, k=12)
    expected, got = Workbench().merged(written), run(snippet(written, BENCH))
    assert all(torch.equal(got.delta(module), expected.delta(module)) for module in expected.modules)


ALL = PROGRAMS | {"texts": tuned("regmean"), "few texts": tuned("ties", mu=0.3, k=7, orthogonalize="balanced")}


@pytest.mark.parametrize("written", ALL.values(), ids=ALL)
def test_a_program_imports_what_it_uses_and_nothing_else(written: Settings) -> None:
    tree = ast.parse(snippet(written, BENCH))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(imported) <= used
    assert len(imported) == len(set(imported))


# -- recipes -----------------------------------------------------------------------------------------------------------


def recipe_of(written: Settings) -> str:
    return runnable(BENCH.update(written).recipe_yaml, written, BENCH)


@pytest.mark.parametrize("written", PROGRAMS.values(), ids=PROGRAMS)
def test_the_shown_recipe_gives_the_settings_back(written: Settings) -> None:
    text = recipe_of(written)
    assert settings_of_recipe(text, BENCH) == written
    assert Recipe.from_yaml(text).to_yaml() == text


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare"])
def test_the_shown_recipe_writes_an_adapter_with_the_bits_of_the_merge(method: str, tmp_path: Path) -> None:
    written = tuned(method)
    recipe = Recipe.from_yaml(recipe_of(written))
    merge_recipe(recipe).save(tmp_path / "from recipe", rank=recipe.rank)
    merged = BENCH.merged(written)
    merged.save(tmp_path / "merged", rank=recipe.rank)
    one, other = (Adapter.load(tmp_path / name) for name in ("from recipe", "merged"))
    assert one.fingerprint == other.fingerprint
    for module in merged.modules:
        assert torch.dist(one.deltas[module].dense(), merged.delta(module)) <= 2e-6 * merged.delta(module).norm()


def test_the_order_of_the_adapters_does_not_matter_and_the_weights_go_with_them() -> None:
    written = tuned("ties", "osrm", weights=(1.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    data = yaml.safe_load(recipe_of(written))
    data["adapters"].reverse()
    assert settings_of_recipe(yaml.safe_dump(data), BENCH) == written


def test_a_recipe_by_hand_takes_the_methods_own_plugins() -> None:
    data = yaml.safe_load(recipe_of(tuned("do_merging")))
    data = {"method": "do_merging", "adapters": data["adapters"]}
    found = settings_of_recipe(yaml.safe_dump(data), BENCH)
    assert replace(found.spec, weights=()) == MergeSpec.of("do_merging", orthogonalize=Orthogonalize("balanced", 0.1))


def changed(**changes: Any) -> Any:
    return lambda data: data | changes


def first_adapter(**changes: Any) -> Any:
    return lambda data: data | {"adapters": [data["adapters"][0] | changes, *data["adapters"][1:]]}


BOMB = "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n"
FOREIGN = {
    "no YAML": (lambda _: "adapters: [", ["YAML"]),
    "a sentence": (lambda _: "merge them all", ["mapping"]),
    "nothing": (lambda _: "", ["mapping"]),
    "references": (lambda _: BOMB, ["references"]),
    "nested lists": (lambda _: "[" * 5000, ["nested"]),
    "a long text": (lambda _: "#" * (LONGEST + 1), ["characters"]),
    "code": (lambda _: "!!python/object/apply:os.system ['true']", ["YAML"]),
    "an unknown method": (changed(method="magic"), ["method", "magic"]),
    "an unknown parameter": (changed(params={"epsilon": 1}), ["epsilon"]),
    "above the slider": (changed(params={"scaling": 3.0}), ["scaling", "less than or equal to 2"]),
    "another ridge": (changed(soft_osrm={"mu": 0.3, "ridge": 0.1}), ["ridge"]),
    "other steps": (changed(orthogonalize={"mode": "raw", "steps": 7}), ["steps"]),
    "an unknown mode": (changed(orthogonalize={"mode": "sideways"}), ["sideways"]),
    "another adapter": (first_adapter(fingerprint="0" * 64), ["fingerprint", "mergescope merge"]),
    "an adapter without a fingerprint": (first_adapter(fingerprint=None), ["fingerprint"]),
    "one adapter less": (lambda data: data | {"adapters": data["adapters"][1:]}, ["fingerprint"]),
    "one adapter twice": (
        lambda data: data | {"adapters": [dict(data["adapters"][0]), *data["adapters"]]},
        ["fingerprint"],
    ),
    "no adapters": (changed(adapters=[]), ["fingerprint"]),
    "another task": (first_adapter(task="bbc"), ["task", "trec"]),
    "weights by module": (first_adapter(weight={"*.query": 0.5}), ["weight", "trec"]),
    "a weight above the slider": (first_adapter(weight=5.0), ["weights", "5.0"]),
    "a negative seed": (changed(seed=-4), ["seed"]),
}


@pytest.mark.parametrize(("spoil", "words"), FOREIGN.values(), ids=FOREIGN)
def test_a_recipe_that_no_screen_shows_is_refused_in_a_sentence(spoil: Any, words: list[str]) -> None:
    spoiled = spoil(yaml.safe_load(recipe_of(tuned("ties"))))
    with pytest.raises(MergeError) as caught:
        settings_of_recipe(spoiled if isinstance(spoiled, str) else yaml.safe_dump(spoiled), BENCH)
    assert one_sentence(caught.value, *words), str(caught.value)


OLD = {
    "retired": ("default_shared_seed", "papers", 6),
    "trained anew": ("default", "default", 6),
    "of eight": ("osrm", "osrm", 8),
}


@pytest.mark.parametrize(("old", "new", "tasks"), OLD.values(), ids=OLD)
def test_a_recipe_of_an_earlier_versions_adapters_names_the_pool_that_took_their_place(
    old: str, new: str, tasks: int
) -> None:
    data = yaml.safe_load(recipe_of(tuned("ties")))
    data["adapters"] = data["adapters"][:tasks]
    for place, entry in enumerate(data["adapters"]):
        entry |= {"path": f"/elsewhere/assets/adapters/{old}/{entry['task']}", "fingerprint": f"{place:064}"}
    with pytest.raises(MergeError) as caught:
        settings_of_recipe(yaml.safe_dump(data), BENCH)
    assert one_sentence(caught.value, repr(old), "earlier version", "trained anew", f"choose the pool {new!r}"), str(
        caught.value
    )


def test_a_recipe_opens_no_file_that_it_names(tmp_path: Path) -> None:
    data = yaml.safe_load(recipe_of(tuned("ties")))
    for entry in data["adapters"]:
        entry["path"] = str(tmp_path / "nowhere")
    assert settings_of_recipe(yaml.safe_dump(data), BENCH) == tuned("ties")


# -- plain values ------------------------------------------------------------------------------------------------------


@quick
@given(any_settings(), st.integers(*LIMIT_RANGE))
def test_plain_values_give_the_settings_that_they_were_made_from(drawn: Settings, limit: int) -> None:
    assert from_values(drawn.spec.to_dict(), drawn.pool, BENCH, limit) == (drawn, limit)


@pytest.mark.parametrize("method", METHODS)
def test_what_plain_values_leave_out_has_the_methods_default(method: str) -> None:
    read, limit = from_values({"method": method}, "default", BENCH)
    assert read.spec.canonical() == MergeSpec.of(method).canonical()
    assert limit == LIMIT


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=9,
)


@quick
@given(
    st.sampled_from([*METHODS, "nope"]) | JSON,
    st.dictionaries(st.sampled_from([*MergeSpec.of("ties").to_dict(), "limit", "nope"]), JSON, max_size=4),
)
def test_any_values_are_a_merge_or_refused_in_a_sentence(method: Any, values: dict[str, Any]) -> None:
    try:
        read, limit = from_values(values | {"method": method}, "default", BENCH)
    except MergeError as error:
        assert one_sentence(error)
    else:
        assert LIMIT_RANGE[0] <= limit <= LIMIT_RANGE[1]
        assert from_query(to_query(read, limit), BENCH) == (read, limit)
