"""Base models of an app: what they are and need before they are loaded, then loaded once and shared read-only."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

import psutil
import torch
from torch import nn

from ..adapters.adapter import Adapter
from ..adapters.same_base import base_key
from ..errors import MergeError
from .embedded import EMBEDDED
from .layers import linear_kinds, usual_targets
from .load import DTYPES, load_base, load_config, load_language_model

FIRST = ("minilm", "float32")
"""The base that stays loaded."""
KEPT = 2
"""Base models that stay loaded beside the first one; the one that was not used for longest goes."""
HEADROOM = 1.25
"""Memory that must be free, in sizes of the model: an evaluation copies the layers that it changes."""


@dataclass(frozen=True)
class Description:
    """What is known of a base before its weights are loaded; plain values.

    Attributes
    ----------
    kind : "encoder", "decoder", "encoder-decoder" or "vision"
    writes : it has a language-model head, so that labels can be its words
    parameters : how many numbers it has
    gigabytes : what its weights take in the dtype asked for
    kinds : last parts of the names of its linear layers, in their order
    usual : those that PEFT adapts unless told otherwise; the first two where it has no opinion
    """

    source: str
    title: str
    kind: str
    writes: bool
    parameters: int
    gigabytes: float
    kinds: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Base:
    """A loaded base.

    Attributes
    ----------
    model : on the GPU where there is one
    reader : the same on the CPU, for what must stay when a borrowed GPU is given back
    tokenizer : or the processor of a vision model
    """

    description: Description
    model: nn.Module
    reader: nn.Module
    tokenizer: Any


@lru_cache(maxsize=64)
def describe(source: str, dtype: str = "float32") -> Description:
    """Return what a base is and needs, from its configuration alone.

    Parameters
    ----------
    source, dtype : see `merging.models.load.load_base`

    Raises
    ------
    MergeError
        If there is no such base, it is for neither texts nor pictures, or its architecture needs code from elsewhere.
    """
    from transformers import AutoModel  # noqa: PLC0415 - takes seconds
    from transformers.models.auto import modeling_auto  # noqa: PLC0415 - takes seconds

    if dtype not in DTYPES:
        raise MergeError(f"dtype = {dtype!r}: choose one of {', '.join(DTYPES)}.")
    config = load_config(source)
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
    except (ValueError, ImportError) as error:
        raise MergeError(
            f"{source} is a {config.model_type}, which transformers does not know without code from elsewhere."
        ) from error
    masked = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked
    if model.main_input_name not in ("input_ids", "pixel_values"):
        raise MergeError(f"{source} reads {model.main_input_name}; bases here read texts or pictures.")
    if model.main_input_name == "pixel_values":
        kind = "vision"
    elif config.is_encoder_decoder:
        kind = "encoder-decoder"
    else:
        kind = "decoder" if causal else "encoder"
    saved_as = (config.architectures or [""])[0]
    writes = kind in ("decoder", "encoder-decoder") and saved_as.endswith(
        ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    width = {"bfloat16": 2, "float16": 2}.get(dtype) or _stored_width(config) if dtype != "float32" else 4
    title = EMBEDDED[source].title if source in EMBEDDED else source.rstrip("/").rsplit("/", 1)[-1]
    kinds = linear_kinds(model)
    usual = tuple(name for name in usual_targets(config.model_type) if name in kinds) or kinds[:2]
    return Description(source, title, kind, writes, parameters, parameters * width / 1e9, kinds, usual)


def _stored_width(config: Any) -> int:
    """Return the bytes per number of a model's files, as its configuration says."""
    dtype = getattr(config, "dtype", None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 4


def free_gigabytes(group: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how much memory a new model could take: of the machine, or of the container (``group``) where that has
    less.
    """
    free = float(psutil.virtual_memory().available)
    limit = group / "memory.max"
    if limit.exists() and limit.read_text().strip().isdecimal():
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # files that were read stay in memory until it is needed
        used = float((group / "memory.current").read_text()) - float(statistics.get("inactive_file", 0))
        free = min(free, float(limit.read_text()) - used)
    return free / 1e9


def check_memory(description: Description, free: float | None = None) -> None:
    """Raise MergeError unless a base fits into what is free, with room to work."""
    free = free_gigabytes() if free is None else free
    if description.gigabytes * HEADROOM > free:
        raise MergeError(
            f"{description.title} needs {description.gigabytes:.1f} GB and a quarter more for the layers that a merge "
            f"changes; {free:.1f} GB are free here: choose bfloat16, a smaller base, or a larger machine."
        )


class Bases:
    """Base models by (source, dtype), each loaded once; sessions share them and never change them.

    Parameters
    ----------
    kept : so many stay loaded beside the first
    largest : bytes of the largest that is loaded
    """

    def __init__(self, kept: int = KEPT, largest: int | None = None) -> None:
        self.kept, self.largest = kept, largest
        self._loaded: OrderedDict[tuple[str, str], Base] = OrderedDict()
        self._used: dict[tuple[str, str], float] = {}
        self._loading: dict[tuple[str, str], Lock] = {}
        self._lock = Lock()

    def get(self, source: str = "minilm", dtype: str = "float32") -> Base:
        """Return a loaded base.

        Raises
        ------
        MergeError
            If there is none, it is larger than the largest, or there is not enough memory for it.
        """
        key = (source, dtype)
        with self._lock:
            loading = self._loading.setdefault(key, Lock())
        with loading:  # one lock for each base: a large one keeps nobody waiting who wants another
            known = self._known(key)
            if known is None:
                self._make_room()
                known = self._load(source, dtype)
                with self._lock:
                    self._loaded[key], self._used[key] = known, monotonic()
            return known

    def loaded(self, source: str, dtype: str) -> bool:
        """Tell whether a base is there already."""
        return (source, dtype) in self._loaded

    def all(self) -> list[tuple[tuple[str, str], float, Base]]:
        """Return (key, when it was used last as `time.monotonic` counts, base) of those that are loaded."""
        with self._lock:
            return [(key, self._used[key], base) for key, base in self._loaded.items()]

    def drop(self, key: tuple[str, str]) -> None:
        """Forget a base; whoever asks for it again loads it again."""
        with self._lock:
            self._loaded.pop(key, None)

    def _known(self, key: tuple[str, str]) -> Base | None:
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
                self._used[key] = monotonic()
            return self._loaded.get(key)

    def _make_room(self) -> None:
        """Forget what was not used for longest, so that one more is as many as are kept."""
        with self._lock:
            others = [known for known in self._loaded if known != FIRST]
            for known in others[: len(others) - self.kept + 1]:
                del self._loaded[known]

    def _load(self, source: str, dtype: str) -> Base:
        description = describe(source, dtype)
        if self.largest is not None and description.gigabytes * 1e9 > self.largest:
            raise MergeError(
                f"{description.title} takes {description.gigabytes:.1f} GB, and bases of up to "
                f"{self.largest / 1e9:.1f} GB are loaded here: choose a smaller one, or run Mergescope on a machine of "
                "your own."
            )
        check_memory(description)
        reader, tokenizer = (load_language_model if description.writes else load_base)(source, dtype)
        model = copy.deepcopy(reader).to("cuda") if torch.cuda.is_available() else reader
        return Base(description, model, reader, tokenizer)


def base_of(adapters: Sequence[Adapter], given: str | None = None) -> str:
    """Return the base to load for adapters: the one ``given``, else the one that they record, embedded if there is one
    of that name.
    """
    recorded = next((adapter.base for adapter in adapters if adapter.base), "")
    embedded = {base_key(base.name): source for source, base in EMBEDDED.items()}
    return given or embedded.get(base_key(recorded)) or recorded or "minilm"


def described(description: Description) -> str:
    """Say for people what a base is and needs."""
    size = description.parameters
    count = f"{size / 1e9:.2f} billion" if size >= 1e9 else f"{size / 1e6:.1f} million"
    words = ", answers in words" if description.writes else ""
    return (
        f"{description.title}: {description.kind}{words}, {count} parameters, {description.gigabytes:.2f} GB; "
        f"{free_gigabytes():.1f} GB are free."
    )
