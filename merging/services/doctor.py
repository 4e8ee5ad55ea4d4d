"""Doctor: what Mergescope finds on this machine, and what it will use of it. Nothing is loaded or fetched."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version

import torch

from ..io import wheels
from ..models.embedded import EMBEDDED
from ..models.shared import free_gigabytes
from ..training.settings import TrainingSettings
from .limits import LIMITS, PREFIX, profile_of

PACKAGES = ("torch", "transformers", "peft", "gradio")


@dataclass(frozen=True)
class Report:
    """What was found; plain values.

    Attributes
    ----------
    device : where bases are evaluated and adapters trained, for people
    free : {memory: gigabytes that a new model could take}
    uses : {kind of work: where it is done, in which type of numbers}
    versions : {"python" or a package: its version}
    bases : {embedded base: whether it is here}
    cache : folder of what was fetched; ``cache_megabytes`` is its size
    profile : the limits' name in `merging.services.limits.PROFILES`
    limits : {environment variable: the value that holds}
    """

    device: str
    free: dict[str, float]
    uses: dict[str, str]
    versions: dict[str, str]
    bases: dict[str, str]
    cache: str
    cache_megabytes: float
    profile: str
    limits: dict[str, int]


def examined() -> Report:
    """Look at this machine."""
    gpu, folder = torch.cuda.is_available(), wheels.cache_dir()
    free = {"memory": round(free_gigabytes(), 1)}
    if gpu:
        free["GPU memory"] = round(torch.cuda.mem_get_info()[0] / 1e9, 1)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Report(
        device=device_title(),
        free=free,
        uses=uses(gpu),
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        bases={base.title: _presence(source, base.megabytes) for source, base in EMBEDDED.items()},
        cache=str(folder),
        cache_megabytes=round(size / 1e6, 1),
        profile=profile_of(os.environ),
        limits={f"{PREFIX}{name}".upper(): value for name, value in LIMITS.model_dump().items()},
    )


def device_title() -> str:
    """Return what bases are evaluated on, for people."""
    if torch.cuda.is_available():
        return f"GPU · {torch.cuda.get_device_name()}"
    return f"CPU · {os.cpu_count()} cores"


def uses(gpu: bool) -> dict[str, str]:
    """Return {kind of work: where it is done, in which type of numbers} on a machine with or without a GPU."""
    device = "GPU" if gpu else "CPU"
    half = TrainingSettings().autocasts("cuda" if gpu else "cpu")
    return {
        "merging": "CPU, float32; decompositions in float64",
        "reading texts": "CPU, float32",
        "answering (Try it)": "CPU, float32",
        "evaluation": f"{device}, float32 unless a base is chosen in bfloat16",
        "training": f"{device}, {'bfloat16 autocast over float32 weights' if half else 'float32'}",
    }


def _presence(source: str, megabytes: int) -> str:
    return "here" if wheels.kept(source) else f"fetched when it is first used, {megabytes} MB"
