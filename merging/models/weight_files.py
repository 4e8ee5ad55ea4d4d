"""The files of a model's folder: which hold its weights, and what belongs beside them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import MergeError
from ..io.untrusted import read_object

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20
BESIDE_WEIGHTS = (
    *(
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ),
    *(
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "spm.model",
    ),
    *("chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json"),
    *("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt"),
)
"""What belongs to a model beside its configuration and weights."""


def weight_files(folder: Path, names: Collection[str], where: str) -> list[str]:
    """Return the names of the safetensors files, as transformers chooses them: one file before an index."""
    if SINGLE_FILE in names:
        return [SINGLE_FILE]
    if INDEX_FILE not in names:
        if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
            raise MergeError(
                f"{where} has pickled weights only, which can run code when opened: save the model with safetensors "
                "first."
            )
        raise MergeError(f"{where} has no {SINGLE_FILE} and no {INDEX_FILE}: is it a model?")
    weight_map = read_object(folder / INDEX_FILE, f"{where}: {INDEX_FILE}", MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise MergeError(f"{where}: {INDEX_FILE} should map the weights to files.")
    shards = sorted(set(weight_map.values()))
    if absent := [
        name for name in shards if name not in names
    ]:  # also what is no plain name of a file beside the index
        raise MergeError(f"{where} lacks {absent[0]!r}, which its {INDEX_FILE} names: fetch the model again.")
    return shards


def tensor_files(folder: Path, names: Collection[str], where: str) -> dict[str, Path]:
    """Return {key: file} of a model's tensors, in the files' own order; ``names`` are those of the files at hand."""
    files = {}
    for name in weight_files(folder, names, where):
        try:
            with safe_open(folder / name, framework="pt") as opened:
                files.update(dict.fromkeys(opened.keys(), folder / name))
        except (SafetensorError, OSError) as error:
            raise MergeError(f"{where}: {name} is not a readable safetensors file ({error}).") from error
    return files
