"""Whatever is done to an adapter's files: what comes out is what PEFT reads of them, or one sentence, and no trace."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import HIDDEN, distance, hidden, one_sentence, peft_folder, reloaded, tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import Adapter, MergeError, merge

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
Mutation = Callable[[Path], None]

# -- folders to spoil --------------------------------------------------------------------------------------------------


def _plain(folder: Path) -> None:
    peft_folder(folder, tiny_model(), r=4)


def _patterns(folder: Path) -> None:
    options = {"rank_pattern": {"layer.0.*query": 2}, "alpha_pattern": {"value": 3}}
    peft_folder(folder, tiny_model(), r=4, use_rslora=True, **options)


def _saved(folder: Path) -> None:
    peft_folder(folder, tiny_model(), r=2, modules_to_save=["embeddings.LayerNorm"])


def _pickled(folder: Path) -> None:
    _plain(folder)
    torch.save(load_file(folder / WEIGHTS), folder / PICKLED)
    (folder / WEIGHTS).unlink()


def _ours(folder: Path) -> None:
    _plain(folder)
    Adapter.load(folder).save(folder)
    save_file({"weight": torch.ones(2, HIDDEN), "bias": torch.zeros(2)}, folder / "head.safetensors")


FOLDERS = {"plain": _plain, "patterns": _patterns, "saved": _saved, "pickled": _pickled, "ours": _ours}


@pytest.fixture(scope="session")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of sound adapters; nobody changes them."""
    root = tmp_path_factory.mktemp("sound")
    for name, make in FOLDERS.items():
        make(root / name)
    return root


# -- what is done to them ----------------------------------------------------------------------------------------------

WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *("", ".", "..", "default", "module", "_orig_mod", "lora_A", "base_layer", "weight", "classifier"),
            *("encoder.layer.0.attention.self.query", "\x00", "\ud800", "é" * 300, "\u202e", "a/b", "lora_embedding_A"),
        ]
    ),
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(),
        WORDS,
        st.sampled_from([1, 2, 4, 8, 0, -1, 1e30, "LORA", "query", "value"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=5,
)
OPTIONS = (
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules", "modules_to_save"),
    *("peft_type", "task_type", "base_model_name_or_path", "fan_in_fan_out", "bias", "init_lora_weights", "revision"),
    *("use_dora", "layers_to_transform", "exclude_modules", "auto_mapping", "inference_mode", "something_new"),
)
FILES = (CONFIG, WEIGHTS, PICKLED, "mergescope.json", "head.safetensors")
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64),
)


def _edit_json(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = CONFIG) -> None:
    try:
        content = json.loads((folder / name).read_text())
    except (OSError, ValueError, RecursionError):  # what an earlier change has spoilt stays as it is
        return
    if isinstance(content, dict):
        (folder / name).write_text(json.dumps(change(content)), encoding="utf-8", errors="surrogatepass")


def _edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    try:
        safe = (folder / WEIGHTS).exists()
        path = folder / (WEIGHTS if safe else PICKLED)
        tensors = load_file(path) if safe else torch.load(path, weights_only=True)
        changed = change({key: tensor.clone() for key, tensor in tensors.items()})
        if safe:
            save_file({key: tensor.contiguous() for key, tensor in changed.items()}, path)
        else:
            torch.save(changed, path)
    except Exception:
        return


def _edit_bytes(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    if (folder / name).exists():
        (folder / name).write_bytes(change((folder / name).read_bytes()))


def _patched(content: bytes, place: float, new: bytes) -> bytes:
    at = int(place * max(len(content) - len(new), 0))
    return content[:at] + new + content[at + len(new) :]


def _renamed(tensors: dict[str, Tensor], which: int, cut: int, word: str) -> dict[str, Tensor]:
    key = sorted(tensors)[which % len(tensors)]
    parts = key.split(".")
    place = cut % len(parts)
    new = ".".join([*parts[:place], word, *parts[place + (cut // len(parts)) % 2 :]])
    return {new if name == key else name: tensor for name, tensor in tensors.items()}


def _changed(tensors: dict[str, Tensor], which: int, change: Callable[[Tensor], Tensor | None]) -> dict[str, Tensor]:
    key = sorted(tensors)[which % len(tensors)]
    new = change(tensors[key])
    rest = {name: tensor for name, tensor in tensors.items() if name != key}
    return rest if new is None else rest | {key: new}


SHAPES: tuple[Callable[[Tensor], Tensor | None], ...] = (
    lambda t: None,
    lambda t: t.T,
    lambda t: t[:-1],
    lambda t: t[:0],
    lambda t: t.reshape(-1),
    lambda t: t[None],
    lambda t: torch.cat([t, t]),
    lambda t: t * float("nan"),
    lambda t: t * 1e38 * 10,
    lambda t: t * 1e19,
    lambda t: t * 0,
    lambda t: torch.zeros(()),
)


def _zipped(folder: Path, inside: str, nested: bool) -> None:
    """Pack the folder, perhaps below a strange name or into a second archive, and leave the archive alone in it."""
    archive = folder.parent / "packed.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                packed.writestr(f"{inside}{path.name}", path.read_bytes())
    shutil.rmtree(folder)
    folder.mkdir()
    if nested:
        with zipfile.ZipFile(folder / "adapter.zip", "w") as packed:
            packed.write(archive, "adapter.zip")
    else:
        shutil.copy(archive, folder / "adapter.zip")
    archive.unlink()


def _moved(folder: Path, name: str, new: str) -> None:
    try:
        (folder / name).rename(folder / new)
    except (OSError, ValueError):
        return


MUTATIONS: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(lambda k, v: lambda f: _edit_json(f, lambda c: c | {k: v}), st.sampled_from(OPTIONS), JSON),
    st.builds(
        lambda k: lambda f: _edit_json(f, lambda c: {o: v for o, v in c.items() if o != k}), st.sampled_from(OPTIONS)
    ),
    st.builds(lambda v: lambda f: _edit_json(f, lambda _: v), JSON),
    st.just(lambda f: _edit_json(f, lambda c: dict(sorted(c.items(), reverse=True)))),
    st.builds(
        lambda k, v: lambda f: _edit_json(f, lambda c: c | {k: v}, "mergescope.json"),
        st.sampled_from(["task", "labels", "base_fingerprint", "source", "relative_norms"]),
        JSON,
    ),
    st.just(lambda f: _edit_tensors(f, lambda ts: dict(sorted(ts.items(), reverse=True)))),
    st.builds(
        lambda i, c, w: lambda f: _edit_tensors(f, lambda ts: _renamed(ts, i, c, w)),
        st.integers(0, 99),
        st.integers(0, 99),
        WORDS,
    ),
    st.builds(
        lambda old, new: lambda f: _edit_tensors(f, lambda ts: {k.replace(old, new): t for k, t in ts.items()}),
        st.sampled_from(["base_model.", "model.", "lora_A", ".weight", "encoder.", "query", "layer.0"]),
        WORDS,
    ),
    st.builds(
        lambda i, s: lambda f: _edit_tensors(f, lambda ts: _changed(ts, i, s)),
        st.integers(0, 99),
        st.sampled_from(SHAPES),
    ),
    st.builds(
        lambda i, d: lambda f: _edit_tensors(f, lambda ts: _changed(ts, i, lambda t: t.to(d))),
        st.integers(0, 99),
        st.sampled_from(DTYPES),
    ),
    st.builds(
        lambda d: lambda f: _edit_tensors(f, lambda ts: {k: t.to(d) for k, t in ts.items()}), st.sampled_from(DTYPES)
    ),
    st.builds(
        lambda w, i: lambda f: _edit_tensors(f, lambda ts: ts | {w: ts[sorted(ts)[i % len(ts)]].clone()}),
        WORDS.map(lambda word: f"base_model.model.{word}.weight"),
        st.integers(0, 99),
    ),
    st.builds(
        lambda n, p: lambda f: _edit_bytes(f, n, lambda b: b[: int(p * len(b))]),
        st.sampled_from(FILES),
        st.floats(0, 1),
    ),
    st.builds(
        lambda n, p, new: lambda f: _edit_bytes(f, n, lambda b: _patched(b, p, new)),
        st.sampled_from(FILES),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=4),
    ),
    st.builds(  # within the header
        lambda n, p, new: lambda f: _edit_bytes(f, n, lambda b: _patched(b[:900], p, new) + b[900:]),
        st.sampled_from([WEIGHTS, PICKLED]),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=4),
    ),
    st.builds(  # the header's length
        lambda n: lambda f: _edit_bytes(f, WEIGHTS, lambda b: n.to_bytes(8, "little") + b[8:]),
        st.one_of(st.integers(0, 2000), st.sampled_from([2**63, 2**64 - 1, 1 << 40, 1 << 27])),
    ),
    st.builds(lambda n, extra: lambda f: _edit_bytes(f, n, lambda b: b + extra), st.sampled_from(FILES), st.binary()),
    st.builds(
        lambda n, content: lambda f: (f / n).write_bytes(content),
        st.sampled_from(FILES),
        st.sampled_from(
            [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 90_000, b'{"r": 1e999}', b"PK\x03\x04", b"\x80\x02"]
        ),
    ),
    st.builds(
        lambda n, new: lambda f: _moved(f, n, new),
        st.sampled_from(FILES),
        st.sampled_from([*FILES, "model.safetensors", "nested", "adapter_model.pt", "é\u202e.json"]),
    ),
    st.builds(lambda n: lambda f: (f / n).unlink(missing_ok=True), st.sampled_from(FILES)),
    st.builds(
        lambda inside, nested: lambda f: _zipped(f, inside, nested),
        st.sampled_from(["", "adapter/", "../", "/", "é\u202e/", "a\\b\\", "C:"]),
        st.booleans(),
    ),
)


# -- the law -----------------------------------------------------------------------------------------------------------


def ours(place: Path) -> Tensor | MergeError:
    """Return the states under the adapter, or how it is refused; whatever else is raised is a failure of the test."""
    model = tiny_model()
    try:
        merged = merge([Adapter.load(place)], "task_arithmetic", scaling=1.0)
        merged.save(place.parent / "out")
        with merged.applied_to(model):
            return hidden(model)
    except MergeError as error:
        return error


def pefts(folder: Path) -> Tensor | Exception:
    """Return the states under PEFT; where it fails at an option that is null, those without the option."""
    try:
        return hidden(reloaded(tiny_model(), folder))
    except Exception:
        _edit_json(folder, lambda config: {option: v for option, v in config.items() if v is not None})
    try:
        return hidden(reloaded(tiny_model(), folder))
    except Exception as error:
        return error


def apart(a: Any, b: Any) -> float:
    """Return the distance of two states; 0 where either is beyond float32, which overflows in any order of sums."""
    return distance(a, b) if bool(torch.isfinite(a).all() and torch.isfinite(b).all()) else 0.0


def check(sound: Path, kind: str, changes: list[Mutation]) -> str:
    """Spoil a copy and compare; return what became of it."""
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(root) / "adapter"
        shutil.copytree(sound / kind, folder)
        for change in changes:
            change(folder)
        archive = folder / "adapter.zip"
        place = archive if archive.exists() else folder
        before = {str(path): path.stat().st_size for path in Path(root).rglob("*")}
        found = ours(place)
        written = place.parent / "out"
        if isinstance(found, MergeError):
            assert one_sentence(found), str(found)
            assert len(str(found)) < 2000
            if not written.exists():  # refused when it was read, and not because the model is another one
                assert {str(path): path.stat().st_size for path in Path(root).rglob("*")} == before
            return "refused"
        again = ours(written)
        assert isinstance(again, Tensor), f"what was written is refused: {again}"
        assert apart(again, found) < 1e-5
        if place == archive:
            return "zipped"
        expected = pefts(folder)
        if isinstance(expected, Exception) or apart(found, expected) > 1e-4:
            # we read more than PEFT does (wrappers, names of adapters): then it is the sound adapter
            assert apart(found, ours(sound / kind)) < 1e-4, f"PEFT: {expected!r}"[:300]
            return "read"
        return "equal"


FEW = settings(
    deadline=None,
    max_examples=200,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
cases = given(st.sampled_from(sorted(FOLDERS)), st.lists(MUTATIONS, min_size=1, max_size=2))


@FEW
@cases
def test_what_comes_of_spoilt_files_is_pefts_reading_or_one_sentence(
    spoilt: Path, kind: str, changes: list[Mutation]
) -> None:
    check(spoilt, kind, changes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(FEW, max_examples=int(os.environ.get("MUTATIONS", "400")))
@cases
def test_many_others(spoilt: Path, kind: str, changes: list[Mutation]) -> None:
    check(spoilt, kind, changes)


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_sound_ones_are_read_as_peft_reads_them(spoilt: Path, kind: str) -> None:
    assert check(spoilt, kind, []) == "equal"
