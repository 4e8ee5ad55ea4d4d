"""Where an adapter's files come from: a folder, a zip file, the files themselves, or a repository of the Hugging Face
hub.

Only files with known names are ever looked at. What comes from elsewhere is measured before it is believed: sizes as
declared and as read, and nothing is written under a name that an archive chose.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import MergeError
from ..io import hub
from ..io.assets import SHIPPED_ADAPTER, assets_folder
from ..io.untrusted import MAX_JSON_BYTES
from .foreign import explained
from .peft_format import CONFIG_FILE, WEIGHTS_FILE

HEAD_FILE = "head.safetensors"
METADATA_FILE = "mergescope.json"
HEADS_FOLDER = "heads"
HEADS = re.compile(HEADS_FOLDER + r"/[^/\\]+\.safetensors")
"""Further heads, one file per task."""
MAX_HEADS = 64
PICKLED_FILE = "adapter_model.bin"
MAX_BYTES = {
    CONFIG_FILE: MAX_JSON_BYTES,
    METADATA_FILE: MAX_JSON_BYTES,
    WEIGHTS_FILE: 1 << 30,
    PICKLED_FILE: 1 << 30,
    HEAD_FILE: 64 << 20,
}
"""The files of an adapter and their largest sizes in a zip file or on the hub."""
MAX_TOTAL_BYTES = 1 << 30
MAX_DIRECTORY_BYTES = 1 << 20
CHUNK = 1 << 20
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    IndexError,
    ValueError,
    OverflowError,
)
"""What zipfile raises for archives that are broken in one way or another."""
WAYS = "an adapter's folder, its zip file, its two files, or a hub id such as user/name"

Place = str | Path
Source = Place | Sequence[Place] | hub.Repository


@dataclass(frozen=True)
class AdapterFiles:
    """The files of one adapter.

    Attributes
    ----------
    where : how messages call the adapter
    name : what it is called unless somebody says otherwise
    origin : what a recipe calls it and `opened` takes again: an absolute path, several, ``user/name@commit`` or
        ``shipped:pool/task``
    path : the folder or zip file; None for what has no single place on this machine
    provenance : repo, commit and license of what came from the hub
    heads : files of further heads
    """

    where: str
    name: str
    origin: str | tuple[str, ...]
    config: Path
    weights: Path
    head: Path | None = None
    metadata: Path | None = None
    path: Path | None = None
    provenance: Mapping[str, Any] | None = None
    heads: tuple[Path, ...] = ()


@contextmanager
def opened(source: Source) -> Iterator[AdapterFiles]:
    """Give the files of the adapter at ``source``; a zip file's are copied to a private folder that is gone afterwards.

    Parameters
    ----------
    source : a folder, a zip file, a list of the files, ``user/name[@revision]`` or what `looked_up` said of it, or
        ``shipped:pool/task`` for one that comes with Mergescope; a text that is a path and could be a hub id as well is
        the path

    Raises
    ------
    MergeError
        With one sentence, for what cannot be reached, is no adapter, is pickled, is too large, or is an unsafe archive.
    """
    if isinstance(source, hub.Repository):
        yield _from_hub(source)
        return
    if not isinstance(source, str | Path):
        yield from_files(source)
        return
    if shipped := SHIPPED_ADAPTER.fullmatch(str(source)):
        path = assets_folder() / "adapters" / shipped[1] / shipped[2]
        if not path.is_dir():
            raise MergeError(f"No adapter {source} ships with this version of Mergescope: name its folder instead.")
        yield replace(_from_folder(path, str(source)), origin=str(source))
        return
    path = Path(source)
    kind = _kind(path)
    if kind == "folder":
        yield _from_folder(path, str(source))
    elif kind == "file":
        with tempfile.TemporaryDirectory(prefix="mergescope-") as private:
            yield _from_zip(path, Path(private))
    elif (repository := looked_up(source)) is not None:
        yield _from_hub(repository)
    else:
        raise MergeError(f"There is no {str(source)[:200]!r}: give {WAYS}.")


def looked_up(source: Source) -> hub.Repository | None:
    """Return what the hub lists under ``source``, before any file is downloaded; None for what is not of the hub.

    `opened` and `Adapter.load` take it in place of the id. Its ``sizes`` are those of the adapter's files alone.

    Raises
    ------
    MergeError
        If the hub has no such adapter, or it is too large.
    """
    if not isinstance(source, str) or SHIPPED_ADAPTER.fullmatch(source) or not hub.HUB_ID.fullmatch(source):
        return None
    if _kind(Path(source)) != "nothing":
        return None
    repository = hub.look_up(source)
    sizes = {name: repository.sizes[name] for name in _wanted(repository.sizes, source)}
    _require_small(sizes, source)
    return replace(repository, sizes=sizes)


def _kind(path: Path) -> str:
    try:
        return "folder" if path.is_dir() else "file" if path.is_file() else "nothing"
    except (OSError, ValueError):  # a text that no path can be: too long, with a NUL in it
        return "nothing"


def from_files(files: Sequence[Place]) -> AdapterFiles:
    """Return the adapter made of ``files``: its configuration and its weights, and beside them our own two if they are
    named so.

    The files are told apart by their names; a pair may have others, then the endings .json and .safetensors do.

    Raises
    ------
    MergeError
        If one is missing, there are two of a kind, or a file is none of an adapter's.
    """
    paths = [Path(file) for file in files]
    listed = ", ".join(path.name for path in paths) or "no files"
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MergeError(f"There is no file {missing[0]}: give {CONFIG_FILE} and {WEIGHTS_FILE}.")
    by_name = {path.name: path for path in paths}
    endings = {".json": CONFIG_FILE, ".safetensors": WEIGHTS_FILE, ".bin": PICKLED_FILE}
    kinds = {path.suffix for path in paths}
    if len(paths) == 2 and not set(by_name) <= set(MAX_BYTES) and ".json" in kinds and len(kinds & set(endings)) == 2:
        by_name = {endings[path.suffix]: path for path in paths}
    if len(by_name) < len(paths):
        raise MergeError(f"Two of the files have one name ({listed}): give the files of one adapter.")
    if unknown := sorted(set(by_name) - set(MAX_BYTES)):
        raise MergeError(f"{unknown[0]} is none of an adapter's files: give {CONFIG_FILE} and {WEIGHTS_FILE}.")
    where = str(by_name.get(WEIGHTS_FILE, paths[0] if paths else "the list"))
    places = {name: by_name[name].resolve() for name in _wanted(by_name, where)}
    _require_small({name: place.stat().st_size for name, place in places.items()}, where)
    return _gathered(places, where, places[CONFIG_FILE].parent.name, tuple(str(place) for place in places.values()))


def _from_folder(folder: Path, where: str) -> AdapterFiles:
    entries = {path.name for path in folder.iterdir()}
    entries |= {f"{HEADS_FOLDER}/{path.name}" for path in (folder / HEADS_FOLDER).glob("*.safetensors")}
    if not (CONFIG_FILE in entries and {WEIGHTS_FILE, PICKLED_FILE} & entries) and (reason := explained(folder)):
        raise MergeError(f"{where} {reason}")
    names = _wanted(entries, where)
    absolute = folder.resolve()
    return _gathered({name: folder / name for name in names}, where, absolute.name, str(absolute), path=absolute)


def _from_hub(repository: hub.Repository) -> AdapterFiles:
    provenance = {"repo": repository.repo, "commit": repository.commit, "license": repository.license}
    name, where = repository.repo.rsplit("/", 1)[-1], repository.repo
    return _gathered(repository.download(repository.sizes), where, name, repository.pinned, provenance=provenance)


def _from_zip(path: Path, private: Path) -> AdapterFiles:
    try:
        with Careful(path.open("rb", buffering=0)) as stream, zipfile.ZipFile(stream) as archive:
            members = _members(archive, str(path))
            _require_small({name: info.file_size for name, info in members.items()}, str(path))
            for name, info in members.items():
                (private / name).parent.mkdir(exist_ok=True)
                copy_member(archive, info, private / name)
    except MergeError:
        raise
    except DAMAGED as error:
        if reason := explained(path):
            raise MergeError(f"{path} {reason}") from error
        raise MergeError(f"{path} is neither a folder nor a readable zip file ({error}): give {WAYS}.") from error
    absolute = path.resolve()
    return _gathered({name: private / name for name in members}, str(path), path.stem, str(absolute), path=absolute)


class Careful(io.BufferedReader):
    """A file that is never read by more than `MAX_DIRECTORY_BYTES` at once: zipfile reads an archive's whole directory
    in one go.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Read ``size`` bytes, or all there is, or fail."""
        content = super().read(
            MAX_DIRECTORY_BYTES + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY_BYTES + 1)
        )
        if len(content) > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory has more than {MAX_DIRECTORY_BYTES:,} bytes")
        return content


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """Return the adapter's members by their plain names, after refusing what no honest archive has."""
    infos = archive.infolist()
    names = {info.filename: info.filename.replace("\\", "/") for info in infos}
    for info in infos:
        parts = PurePosixPath(names[info.filename]).parts
        if ".." in parts or names[info.filename].startswith("/") or re.match("[A-Za-z]:", info.filename):
            raise MergeError(
                f"{where} has a member {info.filename[:100]!r}, which points out of the archive: pack it again."
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise MergeError(f"{where} has a link {info.filename[:100]!r} in it: pack the files themselves.")
        if info.flag_bits & 0x1:
            raise MergeError(f"{where} is encrypted: pack it without a password.")
    twice = [name for name, count in Counter(names[info.filename] for info in infos).items() if count > 1]
    if twice:
        raise MergeError(f"{where} has the member {twice[0][:100]!r} twice: pack it again.")
    files = {PurePosixPath(names[info.filename]): info for info in infos if not info.is_dir()}
    folders = {path.parent for path in files if path.name in (CONFIG_FILE, WEIGHTS_FILE, PICKLED_FILE)}
    if len(folders) > 1:
        listed = ", ".join(sorted(str(folder) for folder in folders)[:3])
        raise MergeError(f"{where} holds more than one adapter ({listed}): pack one folder only.")
    folder = folders.pop() if folders else PurePosixPath()
    beside = {path: info for path, info in files.items() if path.parent in (folder, folder / HEADS_FOLDER)}
    here = {path.relative_to(folder).as_posix(): info for path, info in beside.items()}
    chosen = {name: here[name] for name in _wanted(here, where)}
    for info in chosen.values():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MergeError(f"{where}: {info.filename} is compressed in an unusual way: pack it with deflate.")
    return chosen


def copy_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Write a member to ``target``, and not one byte more than it declares."""
    left = info.file_size
    with archive.open(info) as member, target.open("wb") as out:
        while chunk := member.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise MergeError(f"{archive.filename}: {info.filename} is longer than it declares.")
            out.write(chunk)
    if left:
        raise MergeError(f"{archive.filename}: {info.filename} is shorter than it declares.")


def _wanted(names: Collection[str], where: str) -> list[str]:
    """Return those of ``names`` that belong to an adapter."""
    if CONFIG_FILE not in names:
        raise MergeError(f"{where} has no {CONFIG_FILE}: is it a PEFT adapter?")
    if not {WEIGHTS_FILE, PICKLED_FILE} & set(names):
        raise MergeError(f"{where} has no {WEIGHTS_FILE} and no {PICKLED_FILE}: is it a PEFT adapter?")
    passed_over = PICKLED_FILE if WEIGHTS_FILE in names else WEIGHTS_FILE  # as PEFT chooses
    heads = sorted(name for name in names if HEADS.fullmatch(name))
    if len(heads) > MAX_HEADS:
        raise MergeError(f"{where} has {len(heads)} files in its folder {HEADS_FOLDER}, at most {MAX_HEADS} are read.")
    return [name for name in MAX_BYTES if name in names and name != passed_over] + heads


def _require_small(sizes: Mapping[str, int], where: str) -> None:
    for name, size in sizes.items():
        most = MAX_BYTES[HEAD_FILE] if HEADS.fullmatch(name) else MAX_BYTES.get(name, 0)
        if size > most:
            raise MergeError(f"{where}: {name} has {size:,} bytes, at most {most:,} are read.")
    if sum(sizes.values()) > MAX_TOTAL_BYTES:
        raise MergeError(f"{where} holds {sum(sizes.values()):,} bytes, at most {MAX_TOTAL_BYTES:,} are read.")


def _gathered(
    places: Mapping[str, Path],
    where: str,
    name: str,
    origin: str | tuple[str, ...],
    path: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> AdapterFiles:
    config = places[CONFIG_FILE]
    weights = places[WEIGHTS_FILE] if WEIGHTS_FILE in places else places[PICKLED_FILE]
    heads = tuple(place for file, place in places.items() if HEADS.fullmatch(file))
    return AdapterFiles(
        where, name, origin, config, weights, places.get(HEAD_FILE), places.get(METADATA_FILE), path, provenance, heads
    )
