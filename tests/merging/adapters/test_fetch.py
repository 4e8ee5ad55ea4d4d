"""An adapter is the same adapter from a folder, a zip file, two files or the hub; what is unsafe or absent is one
sentence.
"""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import HIDDEN, edit_config, edit_tensors, one_sentence, peft_folder, random_adapter, tiny_model
from hub_stand_in import Hub, hub_stand_in
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

from merging import Adapter, MergeError, Recipe, merge, merge_recipe
from merging.adapters import fetch
from merging.adapters.fetch import looked_up
from merging.adapters.head import Head
from merging.cli.main import cli
from merging.io.untrusted import check_safetensors

FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_stand_in(tmp_path / "hub-cache", monkeypatch) as stand_in:
        yield stand_in


def packed(folder: Path, target: Path, inside: str = "", compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, inside + path.name)
    return target


def refused(source: Any, *words: str) -> bool:
    with pytest.raises(MergeError) as caught:
        Adapter.load(source)
    assert one_sentence(caught.value, *words), str(caught.value)
    return True


# -- the same adapter from everywhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "mine/", "runs/today/mine/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_holds_the_same_adapter(inside: str, compression: int, folder: Path, tmp_path: Path) -> None:
    adapter = Adapter.load(packed(folder, tmp_path / "my adapter.zip", inside, compression))
    assert adapter.fingerprint == Adapter.load(folder).fingerprint
    assert (adapter.name, adapter.path) == ("my adapter", tmp_path / "my adapter.zip")


def test_our_own_head_and_notes_come_out_of_a_zip_file_and_nothing_else_does(tmp_path: Path, monkeypatch) -> None:
    head = Head("pooled", {"weight": torch.randn(2, HIDDEN), "bias": torch.randn(2)}, ("no", "yes"))
    written = random_adapter(1)
    object.__setattr__(written, "head", head)
    object.__setattr__(written, "task", "trec")
    written.save(tmp_path / "mine", {"recipe.yaml": "not: a recipe", "README.md": "card", "setup.py": "import os"})
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    seen: list[str] = []
    with fetch.opened(packed(tmp_path / "mine", tmp_path / "mine.zip")) as files:
        seen = sorted(path.name for path in files.config.parent.iterdir())
        mode = stat.S_IMODE(files.config.parent.stat().st_mode)
    assert seen == sorted([*FILES, "head.safetensors", "mergescope.json"])
    assert mode & 0o077 == 0
    assert list(private.iterdir()) == []
    adapter = Adapter.load(tmp_path / "mine.zip")
    assert adapter.task == "trec"
    assert adapter.head is not None
    assert torch.equal(adapter.head.tensors["weight"], head.tensors["weight"])  # its file is gone by now


@pytest.mark.parametrize("names", [FILES, FILES[::-1], ("upload-1.json", "upload-2.safetensors")])
def test_two_files_are_the_same_adapter(names: tuple[str, str], folder: Path, tmp_path: Path) -> None:
    pair = []
    for i, name in enumerate(names):
        place = tmp_path / str(i) / name
        place.parent.mkdir()
        place.write_bytes((folder / next(file for file in FILES if file.endswith(place.suffix))).read_bytes())
        pair.append(place)
    adapter = Adapter.load(pair, name="mine")
    assert adapter.fingerprint == Adapter.load(folder).fingerprint
    assert Adapter.load([str(path) for path in pair], name="mine").fingerprint == adapter.fingerprint
    again = Recipe.from_yaml(merge([adapter], "average").recipe.to_yaml()).load_adapters()
    assert [a.fingerprint for a in again] == [adapter.fingerprint]


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda folder: [], ["adapter_config.json"]),
        (lambda folder: [folder / FILES[0]], ["adapter_model.safetensors"]),
        (lambda folder: [folder / FILES[1]], ["adapter_config.json"]),
        (lambda folder: [folder / FILES[0], folder / FILES[0]], ["adapter_config.json"]),
        (lambda folder: [*(folder / name for name in FILES), folder / "README.md"], ["README.md"]),
        (lambda folder: [folder / FILES[0], folder / "absent.safetensors"], ["absent.safetensors"]),
        (lambda folder: [folder / FILES[0], folder / "adapter_model.bin"], ["adapter_model.bin", "pickle"]),
    ],
)
def test_files_that_are_no_pair_are_refused(
    choose: Callable[[Path], list[Path]], words: list[str], folder: Path
) -> None:
    (folder / "README.md").write_text("card")
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    refused(choose(folder), *words)


# -- zip files that are not what they should be ------------------------------------------------------------------------


def archive_of(*members: tuple[str | zipfile.ZipInfo, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def directory_with(content: bytes, offset: int, form: str, value: int) -> bytes:
    """Change a field of every entry in the central directory."""
    changed, place = bytearray(content), 0
    while (place := changed.find(b"PK\x01\x02", place)) >= 0:
        struct.pack_into(form, changed, place + offset, value)
        place += 4
    return bytes(changed)


def moved(content: bytes, size: int) -> bytes:
    """Let the end of an archive claim another size of its directory."""
    changed = bytearray(content)
    struct.pack_into("<I", changed, content.rfind(b"PK\x05\x06") + 12, size)
    return bytes(changed)


GOOD = [(name, b"{}") for name in FILES]
UNSAFE: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "a way out": (lambda: archive_of(*GOOD, ("../evil.py", b"x")), ["../evil.py"]),
    "a way out inside": (lambda: archive_of(*GOOD, ("a/../../evil.py", b"x")), ["evil.py"]),
    "a way out on Windows": (lambda: archive_of(*GOOD, ("a\\..\\..\\evil.py", b"x")), ["evil.py"]),
    "an absolute name": (lambda: archive_of(*GOOD, ("/etc/evil", b"x")), ["/etc/evil"]),
    "a drive": (lambda: archive_of(*GOOD, ("C:evil", b"x")), ["C:evil"]),
    "a link": (lambda: archive_of(GOOD[0], (link(FILES[1]), b"/etc/passwd")), ["link", FILES[1]]),
    "a member twice": (lambda: archive_of(*GOOD, GOOD[0]), ["twice", FILES[0]]),
    "encryption": (lambda: directory_with(archive_of(*GOOD), 8, "<H", 1), ["encrypted"]),
    "two adapters": (lambda: archive_of(*[(f"{d}/{name}", b"{}") for d in "ab" for name in FILES]), ["more than one"]),
    "a checkpoint beside the adapter": (
        lambda: archive_of(*GOOD, ("checkpoint-5/" + FILES[1], b"")),
        ["more than one"],
    ),
    "the two files in two folders": (
        lambda: archive_of(("a/" + FILES[0], b"{}"), ("b/" + FILES[1], b"")),
        ["more than one"],
    ),
    "no adapter": (lambda: archive_of(("README.md", b"")), [FILES[0]]),
    "nothing": (archive_of, [FILES[0]]),
    "pickled weights that are none": (
        lambda: archive_of((FILES[0], b'{"peft_type": "LORA"}'), ("adapter_model.bin", b"")),
        ["adapter_model.bin", "pickle"],
    ),
    "an unusual compression": (lambda: archive_of(*GOOD, compression=zipfile.ZIP_LZMA), ["deflate"]),
    "an enormous declared size": (lambda: directory_with(archive_of(*GOOD), 24, "<I", 0xFFFFFFF0), ["bytes"]),
    "less than it declares": (lambda: directory_with(archive_of(*GOOD), 24, "<I", 99), ["config"]),
    "more than it declares": (lambda: directory_with(archive_of((FILES[0], b" " * 99), GOOD[1]), 24, "<I", 1), ["zip"]),
    "an enormous directory": (lambda: archive_of(*[(f"{i:0200d}", b"") for i in range(6000)]), ["directory"]),
    "half an archive": (lambda: archive_of(*GOOD)[:-30], ["zip"]),
    "a directory that begins before the file": (lambda: moved(archive_of(*GOOD), 10_000), ["zip"]),
    "a member without a name": (lambda: archive_of(*GOOD, (zipfile.ZipInfo(""), b"")), ["zip"]),
    "a text": (lambda: b"hello", ["zip"]),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("make", "words"), UNSAFE.values(), ids=UNSAFE)
def test_an_unsafe_or_broken_zip_file_is_refused(
    make: Callable[[], bytes], words: list[str], tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "private").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "private"))
    (tmp_path / "mine.zip").write_bytes(make())
    refused(tmp_path / "mine.zip", "mine.zip", *words)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.zip", "private"]


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    content = archive_of(GOOD[0], (FILES[1], b"\0" * (8 << 20)), compression=zipfile.ZIP_DEFLATED)
    assert len(content) < 20_000
    lying = directory_with(content, 24, "<I", 1000)
    (tmp_path / "lying.zip").write_bytes(lying)
    with zipfile.ZipFile(tmp_path / "lying.zip") as archive, pytest.raises((MergeError, zipfile.BadZipFile)):
        for info in archive.infolist():
            fetch.copy_member(archive, info, tmp_path / "out")
    assert (tmp_path / "out").stat().st_size <= 1000
    refused(tmp_path / "lying.zip", "zip")


def test_sizes_are_capped_one_by_one_and_together(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, sizes = packed(folder, tmp_path / "mine.zip"), {name: (folder / name).stat().st_size for name in FILES}
    for name in FILES:
        with monkeypatch.context() as patch:
            patch.setitem(fetch.MAX_BYTES, name, sizes[name] - 1)
            refused(archive, name, f"{sizes[name]:,}")
            refused([folder / file for file in FILES], name)
    monkeypatch.setattr(fetch, "MAX_TOTAL_BYTES", sum(sizes.values()) - 1)
    refused(archive, f"{sum(sizes.values()):,}")
    monkeypatch.setattr(fetch, "MAX_TOTAL_BYTES", sum(sizes.values()))
    assert Adapter.load(archive).deltas


@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(place=st.floats(0, 1), byte=st.integers(0, 255), kind=st.sampled_from(["zip", *FILES]), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused_but_nothing_else(
    place: float, byte: int, kind: str, cut: bool, whole: Path
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in FILES:
            (work / name).write_bytes((whole / name).read_bytes())
        target = packed(whole, work / "mine.zip") if kind == "zip" else work / kind
        content = bytearray(target.read_bytes())
        at = int(place * (len(content) - 1))
        content[at] = byte
        target.write_bytes(content[:at] if cut else content)
        try:
            adapter = Adapter.load(target if kind == "zip" else work)
        except MergeError as error:
            assert "\n" not in str(error)
        else:
            assert adapter.deltas


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "adapter"
    peft_folder(folder, tiny_model(), r=1)
    return folder


# -- headers and configurations ----------------------------------------------------------------------------------------


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[Any], offsets: list[Any], dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS = {
    "no length": (b"\1\0", "header"),
    "a header longer than the file": (safetensors({}, length=1 << 40), "header"),
    "a header of gigabytes": (safetensors(b" " * (9 << 20)), "header"),
    "no JSON": (safetensors(b"{,}"), "JSON"),
    "a list": (safetensors([]), "object"),
    "JSON nested beyond reason": (safetensors(b"[" * 100_000), "JSON"),
    "a number of thousands of digits": (safetensors(b'{"a": 1' + b"0" * 5000 + b"}"), "JSON"),
    "an entry that is no object": (safetensors({"a": 1}), "'a'"),
    "an entry without a shape": (safetensors({"a": {"dtype": "F32"}}), "'a'"),
    "a negative size": (safetensors({"a": entry([-1], [0, -4])}), "'a'"),
    "a size that is a fraction": (safetensors({"a": entry([1.5], [0, 6])}, bytes(6)), "'a'"),
    "three offsets": (safetensors({"a": entry([1], [0, 4, 4])}, bytes(4)), "'a'"),
    "whole numbers": (safetensors({"a": entry([1], [0, 8], "I64")}, bytes(8)), "int64"),
    "numbers of eight bits": (safetensors({"a": entry([4], [0, 4], "F8_E4M3")}, bytes(4)), "F8_E4M3"),
    "more than the shape": (safetensors({"a": entry([1], [0, 8])}, bytes(8)), "shape"),
    "an enormous shape": (safetensors({"a": entry([1 << 40, 1 << 40], [0, 4])}, bytes(4)), "shape"),
    "a hole": (safetensors({"a": entry([1], [0, 4]), "b": entry([1], [8, 12])}, bytes(12)), "b"),
    "an overlap": (safetensors({"a": entry([1], [0, 4]), "b": entry([1], [0, 4])}, bytes(4)), "b"),
    "bytes that belong to nobody": (safetensors({"a": entry([1], [0, 4])}, bytes(5)), "promises"),
    "missing bytes": (safetensors({"a": entry([1], [0, 4])}, bytes(3)), "promises"),
    "more tensors than any adapter has": (safetensors({str(i): entry([0], [0, 0]) for i in range(300_001)}), "tensors"),
}


@pytest.mark.parametrize(("content", "word"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_does_not_fit_its_file_is_refused_before_a_tensor_is_read(
    content: bytes, word: str, folder: Path
) -> None:
    (folder / FILES[1]).write_bytes(content)
    refused(folder, FILES[1] if word not in ("int64", "F8_E4M3") else "", word)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_honest_header_passes(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3, 2, dtype=dtype), "a": torch.ones((), dtype=dtype), "c": torch.ones(0, 4, dtype=dtype)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "note": "é"})
    assert check_safetensors(tmp_path / "x.safetensors", "x") is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("r", "8"),
        ("r", True),
        ("r", [8]),
        ("lora_alpha", {}),
        ("lora_alpha", float("inf")),
        ("rank_pattern", {"query": "4"}),
        ("alpha_pattern", "query"),
        ("alpha_pattern", {"query": None}),
        ("use_rslora", "yes"),
        ("fan_in_fan_out", 1),
        ("modules_to_save", "classifier"),
        ("modules_to_save", [1]),
        ("target_modules", {"query": 1}),
        ("bias", 0),
        ("init_lora_weights", [1]),
        ("task_type", ["SEQ_CLS"]),
        ("base_model_name_or_path", {"name": "bert"}),
    ],
)
def test_an_option_of_the_wrong_type_is_named(option: str, value: Any, folder: Path) -> None:
    edit_config(folder, **{option: value})
    refused(folder, f"{option} = ", "adapter_config.json")


def test_a_pattern_that_is_no_regular_expression_is_refused(folder: Path) -> None:
    edit_config(folder, rank_pattern={"[query": 2})
    refused(folder, "rank_pattern", "regular expression")


@pytest.mark.parametrize("value", ['{"task": "trec", "labels": "no"}', '{"base_fingerprint": 7}', "[]", "{" * 2000])
def test_notes_of_the_wrong_type_are_refused(value: str, folder: Path) -> None:
    (folder / "mergescope.json").write_text(value)
    refused(folder, "mergescope.json")


# -- the hub -----------------------------------------------------------------------------------------------------------


def test_the_hub_gives_the_same_adapter_pinned_to_its_commit(hub: Hub, folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit")
    commit = hub.add("me/mine", folder, license="apache-2.0")
    adapter = Adapter.load("me/mine")
    assert adapter.fingerprint == Adapter.load(folder).fingerprint
    assert (adapter.name, adapter.origin, adapter.path) == ("mine", f"me/mine@{commit}", None)
    assert adapter.metadata.source == {"repo": "me/mine", "commit": commit, "license": "apache-2.0"}
    assert hub.downloads() == [f"/me/mine/resolve/{commit}/{name}" for name in FILES]


def test_every_adapter_of_the_hub_is_listed_before_anything_is_downloaded(hub: Hub, folder: Path) -> None:
    for name in ("me/mine", "me/other"):
        hub.add(name, folder)
    found = [looked_up(name) for name in ("me/mine", "me/other")]
    assert hub.downloads() == []
    assert [dict(one.sizes) for one in found if one] == [{name: (folder / name).stat().st_size for name in FILES}] * 2
    listings = len([path for _, path in hub.asked if "/api/" in path])
    assert [Adapter.load(one).name for one in found if one] == ["mine", "other"]
    assert len([path for _, path in hub.asked if "/api/" in path]) == listings, "it was looked up again"
    assert looked_up(str(folder)) is None
    assert looked_up(folder) is None
    with pytest.raises(MergeError, match="me/absent"):
        looked_up("me/absent")


def test_a_revision_is_a_branch_or_a_commit_and_later_commits_do_not_matter(hub: Hub, folder: Path) -> None:
    old = hub.add("me/mine", folder)
    first = Adapter.load("me/mine")
    edit_tensors(folder, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    new = hub.repos["me/mine"].commit({path.name: path.read_bytes() for path in folder.iterdir()}, "v2")
    assert old != new
    assert Adapter.load("me/mine@v2").origin == f"me/mine@{new}"
    assert Adapter.load(f"me/mine@{old}").fingerprint == first.fingerprint == Adapter.load("me/mine").fingerprint
    assert Adapter.load("me/mine@v2").fingerprint != first.fingerprint


def test_what_a_repository_says_about_its_own_source_does_not_count(hub: Hub, folder: Path) -> None:
    (folder / "mergescope.json").write_text(
        json.dumps({"task": "trec", "source": {"repo": "meta/famous", "license": "mit"}})
    )
    hub.add("me/mine", folder)
    adapter = Adapter.load("me/mine")
    assert (adapter.task, adapter.source.get("repo"), adapter.source.get("license")) == ("trec", "me/mine", None)


def test_a_path_that_looks_like_a_hub_id_is_the_path(hub: Hub, folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "me" / "mine"
    place.parent.mkdir()
    folder.rename(place)
    assert Adapter.load("me/mine").path == place
    assert hub.asked == []


def test_a_recipe_with_adapters_of_the_hub_is_portable(hub: Hub, folder: Path, tmp_path: Path, monkeypatch) -> None:
    commit = hub.add("me/mine", folder, license="mit")
    zipped = packed(folder, tmp_path / "other.zip")
    merge([Adapter.load("me/mine"), Adapter.load(zipped)], "average").save(tmp_path / "first")
    text = (tmp_path / "first" / "recipe.yaml").read_text()
    recipe = Recipe.from_yaml(text)
    assert [entry.path for entry in recipe.adapters] == [f"me/mine@{commit}", str(zipped)]
    assert [entry.license for entry in recipe.adapters] == ["mit", None]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another machine"))
    merge_recipe(recipe).save(tmp_path / "second")
    assert (tmp_path / "second" / "recipe.yaml").read_text() == text
    weights = [(tmp_path / name / FILES[1]).read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]
    edit_tensors(folder, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    packed(folder, zipped)
    with pytest.raises(MergeError, match=r"other\.zip has changed"):
        merge_recipe(recipe)


def test_nothing_is_downloaded_that_is_too_large(hub: Hub, folder: Path) -> None:
    hub.add("me/large", folder, declared={FILES[1]: 3 << 30})
    refused("me/large", "me/large", FILES[1], f"{3 << 30:,}")
    (folder / FILES[1]).rename(folder / "adapter_model.bin")
    hub.add("me/pickled", folder, declared={"adapter_model.bin": 3 << 30})
    refused("me/pickled", "adapter_model.bin", f"{3 << 30:,}")
    (folder / "adapter_model.bin").unlink()
    hub.add("me/empty", folder)
    refused("me/empty", FILES[1])
    assert hub.downloads() == []


def test_a_file_of_another_size_than_listed_is_refused(hub: Hub, folder: Path) -> None:
    hub.add("me/mine", folder, declared={FILES[1]: 5})
    refused("me/mine", FILES[1], "lists 5")


def test_what_the_hub_refuses_is_said_in_a_sentence(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/gated", folder, gated=True)
    hub.add("me/mine", folder)
    refused("me/gated", "me/gated", "gated", "hf auth login")
    refused("me/absent", "me/absent", "hub", "private")
    refused("me/mine@nowhere", "me/mine@nowhere", "revision")
    refused("me/--mine..", "me/--mine..")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("me/mine", "me/mine", "HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused("me/mine", "me/mine", "could not be reached")


@pytest.mark.parametrize(
    "source", ["nowhere", "/nowhere/at/all", "a/b/c", "https://example.org/me/mine", "me/mine@", "", "x" * 5000, "a\0b"]
)
def test_what_is_neither_a_path_nor_a_hub_id_asks_nobody(source: str, hub: Hub) -> None:
    refused(source, "hub id" if source else "")
    assert hub.asked == []


def test_the_command_line_takes_zip_files_and_hub_ids(hub: Hub, folder: Path, tmp_path: Path) -> None:
    commit = hub.add("me/mine", folder)
    zipped = packed(folder, tmp_path / "other.zip")
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    words = ["merge", "me/mine", str(zipped), "--method", "average", "-o", str(tmp_path / "out")]
    command = [sys.executable, "-m", "merging.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"me/mine@{commit}" in (tmp_path / "out" / "recipe.yaml").read_text()
    sizes = ", ".join(f"{name} {(folder / name).stat().st_size:,}" for name in FILES)
    assert f"me/mine@{commit}: {sizes} bytes" in done.stderr.splitlines()
    page = CliRunner().invoke(cli, ["inspect", "me/mine", str(zipped)])
    assert page.exit_code == 0, page.output
    assert all(module in page.output for module in Adapter.load(folder).deltas)
    assert "me/absent" in str(CliRunner().invoke(cli, ["inspect", "me/absent"]).exception)
