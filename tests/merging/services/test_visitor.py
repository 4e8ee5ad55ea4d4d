"""A visitor's folders, pools and running work go together, whichever tab they are of."""

import os
import signal
import subprocess
import sys
import tempfile
from copy import deepcopy
from pathlib import Path

import pytest

from merging.features.store import TextsOf
from merging.services.pools import Pools
from merging.services.visitor import Visitor, clear_killed
from merging.tasks.task import Task


class Work:
    """A tab on which something runs."""

    visitor = Visitor()
    running = True

    def close(self) -> None:
        assert self.visitor.folder("osrm").exists()  # what runs stops before its files go
        self.running = False


def test_who_leaves_takes_everything_along_and_nothing_of_others() -> None:
    pools, one, other, work = Pools(), Visitor(), deepcopy(Visitor()), Work()
    one.take([work])
    for visitor in (one, other):
        texts, labels = [f"text {i}" for i in range(12)], ["a", "b"] * 6
        pools.lab.add(Task.from_rows("mine", texts, labels), visitor.key)
        (visitor.folder("osrm") / "file").write_text("text")
        pool = f"{visitor.key}-set1"
        pools.add_pool(pool, "Your set", {"trec": "folder"}, TextsOf(("trec",), ("query",)))
        visitor.pools["osrm"] = [("Your set", pool)]
    kept = [other.folder("osrm") / "file", other.choices[0][1], f"{other.key}-mine"]
    gone = [one.folder("adapters").parent, one.choices[0][1], f"{one.key}-mine"]
    assert one.key != other.key
    one.leave(pools)
    assert not work.running
    for (folder, pool, task), there in ((kept, True), (gone, False)):
        assert Path(folder).exists() is there
        assert (pool in pools._own) is there
        assert (task in pools.lab._own) is there


def test_own_pools_of_all_tabs_are_offered_together() -> None:
    visitor = Visitor()
    visitor.pools["osrm"], visitor.pools["adapters"] = [("Set 1", "a")], [("Adapters 1", "b")]
    assert visitor.choices == [("Set 1", "a"), ("Adapters 1", "b")]


KILLED = """
import os, signal
from merging.services.visitor import Visitor
visitor = Visitor()
(visitor.folder("osrm") / "text").write_text("of somebody")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_server_left_goes_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    visitor = Visitor()
    here = visitor.folder("osrm")
    others = tmp_path / f"mergescope-0000-{10**9}-machine"  # of a machine that shares the disk
    others.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED], check=False, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == -signal.SIGKILL
    assert len([*tmp_path.rglob("text")]) == 1
    clear_killed()
    assert here.is_dir()
    assert {*tmp_path.iterdir()} == {others, here.parent}
    assert [*tmp_path.rglob("text")] == []
