"""The governor: what is held is counted once, what is idle makes room, and what is full is refused in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from builders import one_sentence

from merging.errors import MergeError
from merging.features.store import TextsOf
from merging.models.shared import Bases, describe
from merging.services.governor import GRACE, Governor, Kept, owner_of
from merging.services.held import buffers_of, together
from merging.services.limits import LIMITS
from merging.services.per_pool import PerPool
from merging.services.pools import Pools
from merging.services.visitor import Visitor
from merging.shipped import SHIPPED
from merging.tasks.task import Task

MEGABYTE = 250_000  # numbers in float32


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class House:
    """Caches and visitors with limits of their own; values are tensors of so many megabytes."""

    def __init__(self, **limits: int) -> None:
        self.clock, self.kept = Clock(), dict[str, Kept]()
        self.left: list[str] = []
        self.tensors: list[torch.Tensor] = []  # alive, so that each has an address of its own
        chosen = LIMITS.model_copy(update={"idle_seconds": 600} | limits)
        self.governor = Governor(lambda: iter([*self.kept.values()]), self._leave, chosen, self.clock)

    def _leave(self, visitor: Visitor) -> None:
        self.left.append(visitor.key)
        self.governor.forget(visitor.key)

    def visitor(self, page: str = "page") -> Visitor:
        visitor = Visitor()
        self.governor.welcome(visitor, page)
        return visitor

    def keep(self, name: str, megabytes: int, used: float, owner: str = "", droppable: bool = True) -> None:
        drop: Callable[[], None] | None = (lambda: self.kept.pop(name) and None) if droppable else None
        self.tensors.append(torch.zeros(megabytes * MEGABYTE))
        self.kept[name] = Kept(owner, used, buffers_of(self.tensors[-1]), drop)


def test_what_values_share_is_counted_once() -> None:
    one = torch.zeros(MEGABYTE)
    assert together([buffers_of({"a": one}), buffers_of([one[:10], one.view(2, -1)])]) == 1_000_000
    assert together([buffers_of(torch.nn.Linear(10, 10))]) == 440
    assert 0 < together([buffers_of(Task.from_rows("mine", [f"text {i}" for i in range(12)], ["a", "b"] * 6))]) < 10_000


@pytest.mark.parametrize(
    ("name", "owner"), [("guest12-mine", "guest12"), ("trec", ""), ("guest", ""), ("my-pool", ""), ("guestbook", "")]
)
def test_a_name_says_whose_it_is(name: str, owner: str) -> None:
    assert owner_of(name) == owner


def test_the_longest_unused_of_what_all_share_goes_first_then_what_is_of_idle_visitors() -> None:
    house = House(memory_bytes=7_000_000)
    idle, active = house.visitor("one"), house.visitor("two")
    for name, used, owner in (
        ("old", 2.0, ""),
        ("of the idle", 1.0, idle.key),
        ("new", 3.0, ""),
        ("of the active", 0.0, active.key),
    ):
        house.keep(name, 2, used, owner)
    house.clock.now += 600
    house.governor.touch(active.key)
    assert house.governor.make_room() == 6_000_000
    assert [*house.kept] == ["of the idle", "new", "of the active"]
    house.governor.limits = LIMITS.model_copy(update={"memory_bytes": 3_000_000, "idle_seconds": 600})
    assert house.governor.make_room() == 2_000_000
    assert [*house.kept] == ["of the active"]
    house.governor.limits = LIMITS.model_copy(update={"memory_bytes": 1, "idle_seconds": 600})
    assert house.governor.make_room() == 2_000_000  # never of one who is active
    assert [*house.kept] == ["of the active"]


def test_memory_that_the_active_hold_is_full_and_says_until_when() -> None:
    house = House(memory_bytes=3_000_000)
    one, other = house.visitor("one"), house.visitor("other")
    house.keep("mine", 2, 0.0, one.key)
    house.governor.admit(other.key)
    house.keep("more", 2, 0.0, other.key)
    house.clock.now += 400
    house.governor.touch(other.key)
    with pytest.raises(MergeError) as refused:
        house.governor.admit(other.key)
    assert one_sentence(refused.value, "3.0 MB of memory", "4.0 MB are held", "try again in 4 minutes")
    house.clock.now += 200  # four minutes later the first is idle
    house.governor.admit(other.key)
    assert [*house.kept] == ["more"]


def test_a_visitor_has_a_share_of_memory_in_which_nothing_of_others_counts() -> None:
    house = House(visitor_memory_bytes=1_500_000)
    one = house.visitor()
    house.keep("everybody's", 8, 0.0)
    house.keep("mine", 1, 0.0, one.key)
    house.kept["the base again"] = Kept(one.key, 0.0, house.kept["everybody's"].buffers, lambda: None)
    house.governor.admit(one.key)
    one.shelf.append(torch.zeros(MEGABYTE))
    with pytest.raises(MergeError) as refused:
        house.governor.admit(one.key)
    assert one_sentence(refused.value, "2.0 MB of the 1.5 MB", "reload the page")
    house.governor.admit(house.visitor("another").key)


def test_so_much_may_be_brought_and_no_more() -> None:
    house = House(uploads=3)
    one = house.visitor()
    house.governor.admit(one.key, 2)
    with pytest.raises(MergeError) as refused:
        house.governor.admit(one.key, 2)
    assert one_sentence(refused.value, "3 adapters and tables", "reload the page")
    house.governor.admit(one.key, 1)  # what was refused does not count
    house.governor.admit(house.visitor("another").key, 3)


def files_of(visitor: Visitor, megabytes: int) -> None:
    (visitor.folder("osrm") / "file").write_bytes(bytes(megabytes * 1_000_000))


def test_a_visitor_has_a_share_of_the_disk() -> None:
    house = House(visitor_disk_bytes=1_500_000)
    one = house.visitor()
    files_of(one, 1)
    house.governor.admit(one.key)
    files_of(one, 2)
    with pytest.raises(MergeError) as refused:
        house.governor.admit(one.key)
    assert one_sentence(refused.value, "2.0 MB of the 1.5 MB", "reload the page")


def test_files_of_closed_pages_go_when_the_disk_is_full_and_those_of_open_ones_never() -> None:
    house = House(disk_bytes=3_000_000)
    gone, here = house.visitor("gone"), house.visitor("here")
    files_of(gone, 2)
    files_of(here, 2)
    with pytest.raises(MergeError) as refused:
        house.governor.admit(here.key)
    assert one_sentence(refused.value, "all of the 3.0 MB", "4.0 MB are held", "try again in 10 minutes")
    house.governor.closed("gone")
    with pytest.raises(MergeError, match="try again in a minute"):
        house.governor.admit(here.key)
    house.clock.now += GRACE
    house.governor.admit(here.key)
    assert house.left == [gone.key]
    files_of(here, 3)
    with pytest.raises(MergeError):
        house.governor.admit(here.key)
    assert house.left == [gone.key]


def test_who_comes_back_after_a_broken_connection_is_not_gone() -> None:
    house = House(disk_bytes=1_000_000)
    one = house.visitor("one")
    files_of(one, 2)
    house.governor.closed("one")
    house.clock.now += GRACE - 1
    house.governor.touch(one.key)
    house.clock.now += GRACE
    with pytest.raises(MergeError, match="try again in 10 minutes"):
        house.governor.admit(house.visitor("two").key)
    assert house.left == []


def test_a_cache_tells_what_it_keeps_and_drops_it() -> None:
    cache: PerPool[..., torch.Tensor] = PerPool(lambda pool, size: torch.zeros(size), 10)
    cache("shared", 10)
    cache("guest1-pool", 20)
    cache("shared", 10)
    known = [*cache.kept()]
    assert [(one.owner, together([one.buffers])) for one in known] == [("guest1", 80), ("", 40)]
    assert known[0].used < known[1].used
    assert known[0].drop is not None
    known[0].drop()
    known[0].drop()  # gone already
    assert [one.owner for one in cache.kept()] == [""]


@pytest.fixture
def pools() -> Pools:
    return Pools()


def test_a_closed_page_frees_its_memory_and_an_open_one_loads_again(pools: Pools) -> None:
    one, other = Visitor(), Visitor()
    folders = {task: str(pools.root / "adapters" / "papers" / task) for task in ("trec", "movie")}
    for visitor in (one, other):
        pools.governor.welcome(visitor, f"page of {visitor.key}")
        pools.add_pool(f"{visitor.key}-pool1", "Mine", folders, TextsOf(tuple(folders), ("query",)), False)
        visitor.pools["adapters"] = [("Mine", f"{visitor.key}-pool1")]
        pools.adapters(f"{visitor.key}-pool1")
    before = pools.governor.held()
    assert (
        before.visitors[one.key]
        == before.visitors[other.key]
        > sum((Path(folder) / "adapter_model.safetensors").stat().st_size // 2 for folder in folders.values())
    )
    pools.governor.closed(f"page of {one.key}")
    held = pools.governor.held()
    assert (held.pages, held.visitors[one.key]) == (1, 0)
    assert held.visitors[other.key] == before.visitors[other.key]
    assert len(pools.adapters(f"{one.key}-pool1")) == 2  # it was a broken connection
    assert pools.governor.held() == before
    one.leave(pools)
    assert one.key not in pools.governor.held().visitors


def test_an_own_task_counts_and_a_full_house_takes_none(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = Visitor()
    pools.governor.welcome(visitor)
    task = Task.from_rows("mine", [f"text {i}" for i in range(12)], ["a", "b"] * 6)
    pools.lab.add(task, visitor.key)
    assert pools.governor.held().visitors[visitor.key] > 0
    pools.governor.limits = LIMITS.model_copy(update={"uploads": 1})
    with pytest.raises(MergeError, match="1 adapters and tables"):
        pools.lab.add(task, visitor.key)


def test_a_base_above_the_limit_is_not_loaded() -> None:
    bases = Bases(largest=80_000_000)
    with pytest.raises(MergeError) as refused:
        bases.get("minilm")
    assert one_sentence(refused.value, describe("minilm").title, "0.1 GB", "smaller")
    assert not bases.loaded("minilm", "float32")


def test_every_shipped_base_is_loaded_on_every_public_server() -> None:
    from merging.services.limits import PROFILES

    largest = max(describe(pool.base).gigabytes for pool in SHIPPED.values()) * 1e9
    assert all(profile.get("base_bytes", largest) >= largest for profile in PROFILES.values())


def test_files_that_go_while_they_are_counted_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = Visitor()
    files_of(visitor, 1)
    walk = os.walk

    def late(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, files in walk(folder):
            yield place, folders, [*files, "gone"]

    monkeypatch.setattr(os, "walk", late)
    assert visitor.nbytes == 1_000_000


def test_who_leaves_stays_until_what_runs_has_ended() -> None:
    house, pools = House(), Pools()
    visitor = house.visitor("one")
    folder = visitor.folder("osrm")

    def leave(left: Visitor) -> None:
        left.leave(pools)
        house._leave(left)

    house.governor.leave = leave
    with house.governor.at_work("one", visitor):
        with house.governor.at_work("one", visitor):
            house.governor.part(visitor)
            (folder / "file").write_text("its folder is still there")
        assert house.left == [] and house.governor.busy
    assert house.left == [visitor.key] and not house.governor.busy
    assert not folder.parent.exists()


def test_a_page_whose_visitor_has_left_is_told_so() -> None:
    house = House()
    one, other = house.visitor("one"), house.visitor("other")
    house.governor.part(one)
    with pytest.raises(MergeError) as refused, house.governor.at_work("one"):
        pass
    assert one_sentence(refused.value, "closed", "reload")
    program = house.visitor("")
    house.governor.part(program)
    for page in ("other", ""):
        with house.governor.at_work(page, other):
            assert house.left == [one.key, program.key]


def test_files_of_a_closed_page_on_which_something_runs_make_no_room() -> None:
    house = House(disk_bytes=1_500_000)
    one, other = house.visitor("one"), house.visitor("other")
    files_of(one, 2)
    with house.governor.at_work("one", one):
        house.governor.closed("one")
        house.clock.now += GRACE + 1
        with pytest.raises(MergeError):
            house.governor.admit(other.key)
    house.governor.admit(other.key)
    assert house.left == [one.key]
