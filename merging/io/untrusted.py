"""Files that anybody may have written: JSON objects and safetensors headers, read within limits before anything is
believed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import MergeError

MAX_JSON_BYTES = 1 << 20
MAX_HEADER_BYTES = 64 << 20
MAX_TENSORS = 300_000  # LoRA on every expert of a large mixture has more than 100,000
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Floating-point types of safetensors that we compute with, and their bytes."""
TORCH_NAMES = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


class TensorEntry(BaseModel):
    """What a safetensors header says about one tensor."""

    model_config = ConfigDict(strict=True)

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def read_object(path: Path, where: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in ``path``; ``where`` names it in messages.

    Raises
    ------
    MergeError
        If it is larger than ``limit`` bytes, no JSON, nested beyond reason, or no object.
    """
    size = path.stat().st_size
    if size > limit:
        raise MergeError(f"{where} has {size:,} bytes, at most {limit:,} make sense there.")
    return _parsed(path.read_bytes(), where)


def check_safetensors(path: Path, where: str) -> None:
    """Compare a safetensors file's header with the file itself, before any tensor is read.

    Raises
    ------
    MergeError
        If the header is too large or does not parse, a tensor is not floating-point, sizes do not add up to the file's.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if prefix == b"version ":
            raise MergeError(f"{where} is only Git LFS's pointer to the file: fetch the file itself with git lfs pull.")
        if len(prefix) < 8 or length > size - 8:
            raise MergeError(f"{where} is not a readable safetensors file (it ends within its header).")
        if length > MAX_HEADER_BYTES:
            raise MergeError(f"{where} has a header of {length:,} bytes: that is no adapter.")
        header = _parsed(stream.read(length), where)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise MergeError(f"{where} has {len(header):,} tensors: that is no adapter.")
    end = 0
    for begin, stop, key in sorted(_span(key, value, where) for key, value in header.items()):
        if begin != end:
            raise MergeError(
                f"{where} is not a readable safetensors file ({key} does not begin where the tensor before it ends)."
            )
        end = stop
    if end != size - 8 - length:
        raise MergeError(
            f"{where} is not a readable safetensors file (its header promises {end:,} bytes of data, it has "
            f"{size - 8 - length:,})."
        )


def _span(key: str, value: Any, where: str) -> tuple[int, int, str]:
    """Return (first byte, end, key) of a tensor whose type, shape and length agree."""
    try:
        entry = TensorEntry.model_validate(value)
    except ValidationError as error:
        raise MergeError(
            f"{where} is not a readable safetensors file (its entry {key[:100]!r} is malformed)."
        ) from error
    if entry.dtype not in DTYPES:
        name = TORCH_NAMES.get(entry.dtype, entry.dtype)
        raise MergeError(f"{where}: {key} holds {name}, not floating-point numbers of 16, 32 or 64 bits.")
    if len(entry.data_offsets) != 2 or min([*entry.shape, *entry.data_offsets]) < 0:
        raise MergeError(f"{where} is not a readable safetensors file (its entry {key[:100]!r} is malformed).")
    begin, end = entry.data_offsets
    if end - begin != math.prod(entry.shape) * DTYPES[entry.dtype]:
        raise MergeError(
            f"{where} is not a readable safetensors file ({key} has {end - begin:,} bytes, not those of its shape)."
        )
    return begin, end, key


def is_text(name: str) -> bool:
    """Tell whether a text can be written as UTF-8: half a character (a surrogate) cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parsed(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8-sig"))  # editors on Windows put a mark before it
    except (ValueError, RecursionError) as error:  # also no UTF-8, and numbers of thousands of digits
        raise MergeError(f"{where} is not valid JSON ({' '.join(str(error).split())[:200]}).") from error
    if not isinstance(value, dict):
        raise MergeError(f"{where} should hold a JSON object.")
    if b"\\ud" in content.lower() and not is_text(json.dumps(value, ensure_ascii=False)):
        raise MergeError(f"{where} holds half a character (an unpaired surrogate): write it again.")
    return value
