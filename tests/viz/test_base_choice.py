"""The base of what a visitor brings: chosen, loaded, and the one that a pool was measured on stays the pool's."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import made_up_task, random_adapter, tiny_model
from fake_lab import FakeLab

from merging.errors import MergeError
from merging.features.store import TextsOf
from merging.services.plan import Plan
from merging.services.shelf import Brought, Prepared
from viz.panels.adapters.base_choice import OTHER, BaseHandlers
from viz.panels.adapters.handlers import AdaptersHandlers
from viz.panels.adapters.session import AdaptersSession

TINY = ("tiny", "float32")


class Lab(FakeLab):
    def task(self, name: str) -> Any:
        return made_up_task(name)


class Pools:
    def __init__(self) -> None:
        self.added: dict[str, tuple[dict[str, str], Plan, bool]] = {}

    def add_pool(self, key: str, title: str, folders: Mapping[str, str], texts: TextsOf, measured: bool = True) -> None:
        self.added[key] = (dict(folders), texts, measured)


def base(source: str, dtype: str) -> tuple[Any, None]:
    if source == "missing":
        raise MergeError("There is none.")
    return tiny_model("roberta" if source == "other" else "bert"), None


def measured(chosen: dict[str, Brought], tasks: dict[str, Any], root: str, base: tuple[str, str]) -> Iterator[Prepared]:
    assert base == TINY
    for place, name in enumerate(chosen, 1):
        yield Prepared(name, place, len(chosen), "measuring it alone")
        yield Prepared(name, place, len(chosen), "done", f"{root}/{name}")


@pytest.fixture
def panel() -> AdaptersHandlers:
    return AdaptersHandlers(Lab(), Pools(), base, measured)


@pytest.fixture
def session() -> Iterator[AdaptersSession]:
    session = AdaptersSession(base=TINY)
    session.visitor.shelf += [
        Brought(name, replace(random_adapter(seed), name=name, base="")) for seed, name in enumerate(("one", "two"))
    ]
    yield session
    session.close()


def test_visitors_choose_what_is_offered_or_name_what_is_on_the_hub(
    panel: AdaptersHandlers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    handlers = BaseHandlers(panel, ["private/model"])
    assert handlers.source("minilm", "") == "minilm"
    assert handlers.source("private/model", "") == "private/model"
    assert handlers.source(OTHER, " user/name@v1 ") == "user/name@v1"
    for choice, name in (
        (OTHER, "private/model"),
        (OTHER, "/etc"),
        (OTHER, "../x"),
        (OTHER, ""),
        ("/etc", "user/name"),
    ):
        with pytest.raises(MergeError, match="no hub id"):
            handlers.source(choice, name)
    assert "93 MB" in handlers.look("smollm2", "", "float32")
    assert "alert" in handlers.look(OTHER, "no such/thing", "float32")


def test_a_new_base_is_what_the_adapters_are_held_against(panel: AdaptersHandlers, session: AdaptersSession) -> None:
    deeper = {"encoder.layer.7.attention.self.query": next(iter(random_adapter(0).deltas.values()))}
    session.shelf[0] = replace(session.shelf[0], adapter=replace(session.shelf[0].adapter, deltas=deeper))
    values = panel.rebase(session, "other", "bfloat16")
    assert session.base == ("other", "bfloat16")
    assert [bool(brought.problem) for brought in session.shelf] == [True, False]
    assert values["table"].count("ms-grey") == 1
    handlers = BaseHandlers(panel)
    news = list(handlers.use(session, "/etc", "", "float32"))
    assert "alert" in news[-1]["base"]
    assert session.base == ("other", "bfloat16")


def test_a_pool_is_of_the_base_that_it_was_measured_on(panel: AdaptersHandlers, session: AdaptersSession) -> None:
    last = list(panel.make(session, ["trec", "movie"]))[-1]
    folders, plan, known = panel.pools.added[last["pool"]]
    assert list(folders) == ["trec", "movie"]
    assert (plan.base, plan.dtype, known) == (*TINY, True)
    assert set(plan.modules) == set(random_adapter(0).deltas)


def test_another_base_stops_the_measuring(panel: AdaptersHandlers, session: AdaptersSession) -> None:
    steps = panel.make(session, ["trec", "movie"])
    next(steps)
    panel.rebase(session, "other", "float32")
    assert "Cancelled" in list(steps)[-1]["note"]
    assert panel.pools.added == {}


def test_adapters_without_tasks_are_opened_all_the_same(panel: AdaptersHandlers, session: AdaptersSession) -> None:
    session.visitor.shelf = [
        replace(brought, adapter=replace(brought.adapter, base="tiny")) for brought in session.shelf
    ]
    [last] = panel.open(session)
    folders, plan, known = panel.pools.added[last["pool"]]
    assert (list(folders), plan.base, known) == (["one", "two"], "tiny", False)
    session.shelf.pop()
    [refused] = panel.open(session)
    assert "two adapters or more" in refused["note"]
