"""Records of a text file that anybody may have written (CSV, TSV, JSON lines), one by one, measured before they are
read.

The libraries do the parsing (`csv` in its strict mode, `json`); what is added here is where a file is wrong, in one
sentence.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MergeError

FORMATS = {"csv": "CSV", "tsv": "TSV", "jsonl": "JSON lines"}
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
DELIMITERS = ",;\t"
"""What may separate the cells of a CSV file; the one that is most frequent in the header does."""
MAX_BYTES = 200_000_000
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Records:
    """A file that was opened.

    Attributes
    ----------
    where : how messages call the file
    format : a key of `FORMATS`
    delimiter : between cells; "" for JSON lines
    columns : of the header, or the keys of the first JSON object
    rows : (line on which it begins, counted from 1; cells in the order of ``columns``, None where a JSON object has no
        such key)
    """

    where: str
    format: str
    delimiter: str
    columns: tuple[str, ...]
    rows: Iterator[tuple[int, Sequence[Any]]]


def opened(path: str | Path, format: str | None = None, max_bytes: int = MAX_BYTES) -> Records:
    """Check a file's size and encoding and return its records, which are read as they are asked for.

    Parameters
    ----------
    format : "csv" (quoted cells; comma, semicolon or tab, as the header has them), "tsv" (no quoting: a quote is a sign
        as any other, as IANA's text/tab-separated-values has it) or "jsonl"; by default what the file's name ends in

    Raises
    ------
    MergeError
        If there is no such file, it is too large (nothing has been read then), not UTF-8, holds NUL bytes, or is not of
        this format; while reading, for a record that is broken.
    """
    path = Path(path)
    kind = format or SUFFIXES.get(path.suffix.lower())
    if kind not in FORMATS:
        raise MergeError(
            f"{path.name}: unknown format {format or path.suffix!r}, it should be one of {', '.join(FORMATS)}."
        )
    check_text(path, max_bytes)
    if kind == "jsonl":
        objects = _objects(path)
        first = next(objects, None)
        if first is None:
            raise MergeError(f"{path.name} is empty: JSON lines hold an object per line.")
        columns = tuple(first[1])
        return Records(path.name, kind, "", columns, _in_order(first, objects, columns))
    delimiter = "\t" if kind == "tsv" else _delimiter(path)
    rows = _cells(path, delimiter, csv.QUOTE_NONE if kind == "tsv" else csv.QUOTE_MINIMAL)
    header = next(rows, None)
    if header is None:
        raise MergeError(
            f"{path.name} is no {FORMATS[kind]} table: it is empty, and should begin with a header such as text and "
            "label."
        )
    columns = tuple(cell.strip() for cell in header[1])
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise MergeError(f"{path.name} has two columns called {twice!r}: rename one.")
    return Records(path.name, kind, delimiter, columns, _full_rows(rows, columns, path.name, delimiter))


def check_text(path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Raise MergeError unless ``path`` is a file of at most ``max_bytes`` bytes of UTF-8 (a byte order mark is fine)
    without NUL.
    """
    if not path.is_file():
        raise MergeError(f"There is no file {path}.")
    size = path.stat().st_size
    if size > max_bytes:
        raise MergeError(
            f"{path.name} has {size:,} bytes: at most {max_bytes / 1e6:g} MB can be read here, take a part of it."
        )
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with path.open("rb") as stream:
        while True:
            chunk = stream.read(_CHUNK)
            pending = len(decoder.getstate()[0])  # of a character that the chunk before has cut
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise MergeError(
                    f"{path.name} is not UTF-8 text (byte {position - pending + error.start:,}, counted from 0): save "
                    "it as UTF-8."
                ) from error
            if b"\0" in chunk:
                found = position + chunk.index(b"\0")
                raise MergeError(
                    f"{path.name} has a NUL byte (byte {found:,}, counted from 0): it is no text, or UTF-16; save it "
                    "as UTF-8."
                )
            if not chunk:
                return
            position += len(chunk)


def _delimiter(path: Path) -> str:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline(_CHUNK)
    return max(DELIMITERS, key=header.count)


def _cells(path: Path, delimiter: str, quoting: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every record that is not a blank line."""
    begin = 1
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise MergeError(f"{path.name} is no CSV table: {_explained(str(error), begin)}.") from error
            if cells is None:
                return
            if cells:
                yield begin, cells
            begin = reader.line_num + 1


def _explained(error: str, line: int) -> str:
    if "field larger" in error:
        return (
            f"a cell in line {line} has more than {csv.field_size_limit():,} characters; perhaps a quote is never "
            "closed"
        )
    if "unexpected end" in error:
        return f"the quotes are unbalanced, one that opens in the row of line {line} is never closed"
    if "expected after" in error:
        return (
            f"a quoted cell in the row of line {line} goes on after its closing quote; a quote within quotes is "
            "written twice"
        )
    return f"line {line} cannot be read ({error})"


def _full_rows(
    rows: Iterator[tuple[int, list[str]]], columns: Sequence[str], where: str, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    name = {",": "comma", ";": "semicolon", "\t": "tab"}[delimiter]
    for line, cells in rows:
        if len(cells) != len(columns):
            raise MergeError(
                f"{where}: line {line} has {len(cells)} cells, the header {len(columns)}; does a cell hold a {name} "
                "that should be quoted?"
            )
        yield line, cells


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="\n") as stream:
        for line, content in enumerate(stream, 1):
            if not content.strip():
                continue
            try:
                value = json.loads(content)
            except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
                raise MergeError(
                    f"{path.name}: line {line} is not valid JSON ({' '.join(str(error).split())[:200]})."
                ) from error
            if not isinstance(value, dict):
                raise MergeError(
                    f"{path.name}: line {line} holds a {type(value).__name__}; JSON lines hold an object per line."
                )
            yield line, value


def _in_order(
    first: tuple[int, dict[str, Any]], rest: Iterator[tuple[int, dict[str, Any]]], columns: Sequence[str]
) -> Iterator[tuple[int, list[Any]]]:
    yield first[0], [*first[1].values()]
    for line, value in rest:
        yield line, [value.get(column) for column in columns]
