"""Files that nobody should send: archives that climb out of their folder, pickles that act, HTML in every name."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

ADAPTER = Path(__file__).parents[2] / "assets" / "adapters" / "papers" / "movie"
MARKER = "MERGESCOPE_TEST_MARKER"
"""Names the file that a pickle which is read writes."""
SCRIPT = "<img src=x onerror=alert(1)>"
OUTSIDE = ("../../escaped.txt", "/tmp/escaped.txt", "..\\..\\escaped.txt", "a/../../../escaped.txt", "~/x", "C:\\x")
INSIDE = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "mergescope.json", "session.json")


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f'touch "${MARKER}"',)


def hostile_file(random: Random, folder: Path, secret: Path) -> Path:
    """Write one into a folder of its own."""
    folder.mkdir()
    warnings.filterwarnings("ignore", "Duplicate name", UserWarning)
    return random.choice(KINDS)(random, folder, secret)


def adapter(random: Random, folder: Path, secret: Path) -> Path:
    """A zip of an adapter, one of its files spoilt, and members that climb, link or repeat."""
    path = folder / random.choice(["adapter.zip", f"{SCRIPT}.zip", "a'b\"c.zip", "..zip", "x" * 150 + ".zip"])
    members = {file.name: file.read_bytes() for file in ADAPTER.iterdir()}
    name = random.choice([*members])
    members[name] = random.choice(SPOILT)(random, members[name])
    if random.random() < 0.3:
        members["adapter_model.bin"] = pickle.dumps(Evil())
        members.pop("adapter_model.safetensors", None)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        for member, data in members.items():
            whole.writestr(f"{random.choice(['', 'a/', SCRIPT + '/'])}{member}", data)
        if random.random() < 0.3:
            whole.writestr(random.choice(OUTSIDE), b"escaped")
        if random.random() < 0.3:
            link = zipfile.ZipInfo(random.choice(INSIDE))
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            whole.writestr(link, str(secret))
        if random.random() < 0.2:
            whole.writestr("adapter_model.safetensors", b"\0" * 30_000_000)  # a bomb: 30 kB on the way
    if random.random() < 0.2:
        path.write_bytes(noise(random, path.read_bytes()))
    return path


def session(random: Random, folder: Path, secret: Path) -> Path:
    """A saved session that was not saved here."""
    path = folder / "mergescope_session.zip"
    listed = {
        "format": random.choice([1, 2, "1", None]),
        "base": random.choice(
            [["minilm", "float32"], ["/etc", "float32"], [str(secret.parent), "float16"], "minilm", None]
        ),
        "vouched": random.choice([True, "yes", None]),
        "adapters": random.choice(
            [[{"name": SCRIPT, "task": "../../x"}], [{}], [{"name": "a", "task": "trec"}] * 40, None]
        ),
        "tasks": random.choice(
            [[], [{"name": SCRIPT, "labels": [SCRIPT, "b"], "pairs": False}], [{"name": "../x"}], "x"]
        ),
    }
    rows = "\n".join(json.dumps({"text": SCRIPT, "label": SCRIPT, "split": "test"}) for _ in range(5))
    with zipfile.ZipFile(path, "w") as whole:
        whole.writestr(
            "session.json",
            random.choice([json.dumps(listed), "[" * 20_000, "{", "null", "\ud800".encode("utf-8", "surrogatepass")]),
        )
        whole.writestr(
            "adapter-0.zip", random.choice([b"", b"PK", ADAPTER.joinpath("adapter_config.json").read_bytes()])
        )
        whole.writestr(random.choice(["task-0.jsonl", *OUTSIDE]), rows)
    return path


def table(random: Random, folder: Path, secret: Path) -> Path:
    """A table of texts that is none, or holds what a page must not run."""
    ending = random.choice([".csv", ".tsv", ".jsonl", ".ndjson", ".tab"])
    path = folder / f"{random.choice(['rows', SCRIPT.replace('/', ''), 'x' * 120, '=cmd', '..'])}{ending}"
    cells = [SCRIPT, "=HYPERLINK(1)", "a,b", 'a"b', "\x00", "🔭", "x" * 5000, "", "good", "bad", "\u202e", "{{7*7}}"]
    if "json" in ending:
        rows = [json.dumps({"text": random.choice(cells), "label": random.choice(cells)}) for _ in range(40)]
        rows += random.choice([[], ["[" * 5000], ["{"], ["1"], ['{"text": {}, "label": []}'], ["1" * 5000]])
    else:
        head = random.choice(
            ["text,label", f"{SCRIPT},label", "text;label", "text", ",".join(map(str, range(3000))), ""]
        )
        rows = [head, *(f"{random.choice(cells)},{random.choice(cells)}" for _ in range(60))]
    data = "\n".join(rows).encode(random.choice(["utf-8", "utf-16", "cp1252"]), "replace")
    path.write_bytes(noise(random, data) if random.random() < 0.3 else data)
    return path


def loose(random: Random, folder: Path, secret: Path) -> Path:
    """One file of an adapter alone, or of a kind that nobody asked for."""
    path = folder / random.choice([*INSIDE, "x.pkl", "x.html", "x.svg", "x.py", ".bashrc", "nul", "x.zip", "x.csv.zip"])
    path.write_bytes(
        random.choice([pickle.dumps(Evil()), SCRIPT.encode(), b"", b"PK\x05\x06" + b"\0" * 18, b"\xff" * 99])
    )
    return path


def noise(random: Random, data: bytes) -> bytes:
    """Change some bytes, or cut it."""
    spoilt = bytearray(data[: random.randrange(1, len(data) + 1)] if random.random() < 0.3 else data)
    for _ in range(random.choice([1, 5, 50])):
        if spoilt:
            spoilt[random.randrange(len(spoilt))] = random.randrange(256)
    return bytes(spoilt)


def _json(random: Random, data: bytes) -> bytes:
    """Put what fits nowhere into a JSON object."""
    try:
        found = json.loads(data)
    except ValueError:
        return data
    for key in random.sample([*found], min(3, len(found))):
        found[key] = random.choice(
            [None, -1, 10**30, SCRIPT, "../../etc/passwd", [], {}, ["(a+)+$"], {"a": [SCRIPT]}, True]
        )
    return json.dumps(found).encode()


def _header(random: Random, data: bytes) -> bytes:
    """Let a safetensors header lie."""
    stream = io.BytesIO()
    lie = {SCRIPT: {"dtype": random.choice(["F32", "U8", "F4"]), "shape": [2**40, 2], "data_offsets": [0, 2**43]}}
    head = json.dumps(random.choice([lie, {}, [], {"a": 1}])).encode()
    stream.write(struct.pack("<Q", random.choice([len(head), 2**63, 0, len(head) - 1])) + head + data[:100])
    return stream.getvalue()


SPOILT: list[Callable[[Random, bytes], bytes]] = [noise, _json, _json, _header, lambda random, data: data]
KINDS: list[Callable[[Random, Path, Path], Path]] = [adapter, adapter, session, table, table, loose]
