"""A merge as a few lines of Python that make it again, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..features.store import texts_for
from ..methods import METHODS
from ..plugins.decouple import Decouple
from ..plugins.orthogonalize import Orthogonalize
from ..shipped import SHIPPED
from .link import exact_rank, require_shipped, value_text
from .workbench import Settings, needs_data

if TYPE_CHECKING:
    from .workbench import Workbench


def snippet(settings: Settings, workbench: Workbench) -> str:
    """Write a Python program that makes the same merge, bit for bit, and saves it.

    Raises
    ------
    MergeError
        For a pool that exists only in a visitor's session.
    """
    require_shipped(settings)
    method = METHODS[settings.method]
    arguments = {name: f'"{value}"' if isinstance(value, str) else repr(value) for name, value in settings.params}
    names = ["merge"]
    if any(weight != 1 for weight in settings.weights):
        arguments["weights"] = f"[{', '.join(map(value_text, settings.weights))}]"
    if method.random:
        arguments["seed"] = repr(settings.seed)
    if settings.mu:
        arguments["soft_osrm"] = repr(float(settings.mu))
    ortho = Orthogonalize(settings.orthogonalize, settings.penalty)
    if ortho.mode != method.orthogonalize or (ortho.mode != "off" and ortho.g != Orthogonalize(ortho.mode).g):
        arguments["orthogonalize"] = '"off"' if ortho.mode == "off" else f'Orthogonalize("{ortho.mode}", penalty={ortho.g!r})'
        names += ["Orthogonalize"] * (ortho.mode != "off")
    magnitude = settings.magnitude
    if not magnitude.follows_strength:
        arguments["decouple"] = _decouple(magnitude)
        names.append("Decouple")
    elif magnitude.strength != method.decouple:
        arguments["decouple"] = repr(float(magnitude.strength))
    imports, reading = ["from merging.shipped import load_pool"], []
    if needs_data(settings):
        names += ["Task", "collect_features"]
        imports.insert(0, "from merging.models.load import load_base")
        reading = _reading_lines(settings.k, SHIPPED[settings.pool].base)
        arguments["features"] = "features"
    lines = [f"from merging import {', '.join(sorted(names, key=str.swapcase))}", *imports, ""]
    lines += [f'pool = load_pool("{settings.pool}")', *reading, *_call(settings.method, arguments)]
    return "\n".join([*lines, *_saving_lines(settings, workbench)]) + "\n"


def _decouple(magnitude: Decouple) -> str:
    given = [f'granularity="{magnitude.granularity}"'] if magnitude.granularity != Decouple.granularity else []
    given += [f"max_up={magnitude.max_up!r}"] if magnitude.max_up is not None else []
    given += ["renormalise=True"] if magnitude.renormalise else []
    return f"Decouple({', '.join([repr(float(magnitude.strength)), *given])})"


def _reading_lines(k: int, base: str) -> list[str]:
    # the texts that are read together share their padding, and so decide the last bits
    size = texts_for(k)
    return [
        f'model, tokenizer = load_base("{base}")',
        f"texts = {{adapter.task: Task.load(adapter.task).train.texts[:{size}] for adapter in pool}}",
        "modules = sorted({module for adapter in pool for module in adapter.deltas})",
        f"features = collect_features(model, tokenizer, texts, {size}, modules)" + (f".first({k})" if k != size else ""),
    ]


def _call(method: str, arguments: Mapping[str, str]) -> list[str]:
    line = ", ".join([f'merged = merge(pool, "{method}"', *(f"{name}={value}" for name, value in arguments.items())]) + ")"
    if len(line) <= 100:
        return [line]
    return [
        "merged = merge(",
        "    pool,",
        f'    "{method}",',
        *(f"    {name}={value}," for name, value in arguments.items()),
        ")",
    ]


def _saving_lines(settings: Settings, workbench: Workbench) -> Sequence[str]:
    if "task_id" in METHODS[settings.method].needs:
        task = workbench.tasks(settings.pool)[0]
        return [f'one = merged.for_task("{task}")  # it has other weights for each task, so it is no single adapter']
    rank = exact_rank(settings, workbench)
    return [
        'merged.save("merged")' if rank is None else f'merged.save("merged", rank={rank})  # exact; a smaller rank approximates'
    ]
