"""A file is there whole or not at all, whether the disk is full or the process is killed in the middle."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from builders import one_sentence

from merging import Adapter, LowRank
from merging.errors import MergeError
from merging.features.moments import TokenFile
from merging.io.whole import whole_file, writing
from merging.services.session_file import SavedSession, save_session
from merging.tasks.task import Task

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")


def adapter(name: str = "mine", width: int = 400) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    update = LowRank(torch.randn(8, width, generator=generator), torch.randn(width, 8, generator=generator))
    return Adapter(name, {"encoder.layer.0.attention.self.query": update})


def test_a_file_stands_under_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole_file(path) as fresh:
        fresh.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [*tmp_path.iterdir()] == [path]


@needs_full
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text("before")
    with pytest.raises(MergeError) as refused, whole_file(path) as fresh:
        fresh.write_text("half")
        FULL.write_text("the rest")
    assert one_sentence(refused.value, "no room on the disk", "file.csv")
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


def test_what_is_no_full_disk_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing("it"):
        (tmp_path / "none" / "file").write_text("")


KILLED = """
import os, signal, sys
from pathlib import Path
from merging.io.whole import whole_file
with whole_file(Path(sys.argv[1])) as fresh:
    fresh.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_who_is_killed_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    with whole_file(path) as fresh:
        fresh.write_text("whole")
    assert path.read_text() == "whole"


KILLED_ADAPTER = """
import os, signal, sys
from merging import Adapter
class Killer(dict):
    def items(self):  # asked for when the weights are written
        os.kill(os.getpid(), signal.SIGKILL)
mine = Adapter.load(sys.argv[1])
mine.save(sys.argv[2], extra_files=Killer(recipe=""))
"""


@pytest.mark.parametrize("there", [False, True])
def test_an_adapter_whose_writer_is_killed_is_not_there_or_as_it_was(tmp_path: Path, there: bool) -> None:
    made, target = adapter().save(tmp_path / "made"), tmp_path / "target"
    if there:
        adapter(width=40).save(target)
    program = [sys.executable, "-c", KILLED_ADAPTER, str(made), str(target)]
    done = subprocess.run(program, check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert target.exists() == there
    if there:
        assert Adapter.load(target).fingerprint == adapter(width=40).fingerprint
    adapter().save(target)
    assert Adapter.load(target).fingerprint == adapter().fingerprint


@pytest.fixture
def small_files() -> object:
    """Files may grow to 20,000 bytes and no more: a real refusal of the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_adapter_that_does_not_fit_leaves_the_one_before(tmp_path: Path, small_files: object) -> None:
    small = adapter(width=40)
    small.save(tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(MergeError) as refused:
        adapter().save(tmp_path / "mine")
    assert one_sentence(refused.value, "no room on the disk", "mine")
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert Adapter.load(tmp_path / "mine").fingerprint == small.fingerprint


def test_a_session_that_does_not_fit_is_no_half_zip(tmp_path: Path, small_files: object) -> None:
    texts = [os.urandom(200).hex() for _ in range(120)]
    task = Task.from_rows("mine", texts, ["a", "b"] * 60)
    path = tmp_path / "mergescope_session.zip"
    session = SavedSession(base=("minilm", "float32"), adapters=[], tasks=[])
    with pytest.raises(MergeError, match="no room on the disk"):
        save_session(path, session, [], [task])
    assert [*tmp_path.iterdir()] == []
    save_session(path, session, [], [])
    assert zipfile.ZipFile(path).testzip() is None


def test_token_rows_that_do_not_fit_are_no_rows_of_zeros(small_files: object) -> None:
    tokens = TokenFile()
    rows = torch.randn(100, 40)
    begin = tokens.reserve(100, 40)
    tokens.write(begin, rows)
    assert torch.equal(tokens.read(begin, 100, 40), rows)
    # the system takes the part that still fits, without a word
    begin = tokens.reserve(100, 40)
    with pytest.raises(MergeError, match="no room on the disk"):
        tokens.write(begin, rows)
