"""A merge as a few lines of Python that make it again, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..features.store import texts_for
from ..methods import METHODS
from ..plugins import PLUGINS
from ..recipes.spec import MergeSpec
from ..shipped import SHIPPED
from .link import exact_rank, require_shipped
from .settings import Settings

if TYPE_CHECKING:
    from .workbench import Workbench

READING = """model, tokenizer = load_base("{base}")
texts = {{adapter.task: Task.load(adapter.task).train.texts[:{size}] for adapter in pool}}
modules = sorted({{module for adapter in pool for module in adapter.deltas}})
features = collect_features(model, tokenizer, texts, {size}, modules).first({k})
"""
"""Texts that are read together share their padding, and so decide the last bits."""
IMPORTED = {"soft_osrm": "SoftOSRM", "orthogonalize": "Orthogonalize", "decouple": "Decouple"}


def snippet(settings: Settings, workbench: Workbench) -> str:
    """Write a Python program that makes the same merge, bit for bit, and saves it.

    Raises
    ------
    MergeError
        For a pool that exists only in a visitor's session.
    """
    require_shipped(settings)
    spec, own = settings.spec.canonical(), MergeSpec.of(settings.spec.method).canonical()
    options = {name: getattr(spec, name) for name in (*PLUGINS, "weights", "seed")}
    arguments = {name: repr(value) for name, value in options.items() if value != getattr(own, name)}
    names = ["merge", *(IMPORTED[name] for name in arguments if name in IMPORTED)]
    program = [f'pool = load_pool("{settings.pool}")']
    if spec.needs_data:
        names += ["Task", "collect_features"]
        program.append(READING.format(base=SHIPPED[settings.pool].base, size=texts_for(spec.k), k=spec.k).rstrip())
        arguments["features"] = "features"
    lines = [
        f"{name}={value}," for name, value in ({name: repr(value) for name, value in spec.params} | arguments).items()
    ]
    program += ["merged = merge(", "    pool,", f'    "{spec.method}",', *(f"    {line}" for line in lines), ")"]
    imports = [f"from merging import {', '.join(sorted(names, key=str.swapcase))}"]
    imports += ["from merging.models import load_base"] if spec.needs_data else []
    return (
        "\n".join([*imports, "from merging.shipped import load_pool\n", *program, _last_line(settings, workbench)])
        + "\n"
    )


def _last_line(settings: Settings, workbench: Workbench) -> str:
    if "task_id" in METHODS[settings.spec.method].needs:
        task = workbench.tasks(settings.pool)[0]
        return f'one = merged.for_task("{task}")  # it has other weights for each task, so it is no single adapter'
    rank = exact_rank(settings, workbench)
    if rank is None:
        return 'merged.save("merged")'
    return f'merged.save("merged", rank={rank})  # exact; a smaller rank approximates'
