"""Are these adapters updates of one base model?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .adapter import Adapter


def problems_of(adapters: Sequence[Adapter]) -> list[str]:
    """Return what keeps ``adapters`` from being merged, a sentence each; cheap, unlike the warnings."""
    return _base_problems(adapters) + _shape_problems(adapters) + _prefix_problems(adapters)


def base_key(name: str) -> str:
    """Return what two spellings of one base model's name have in common: the last path component, lower case."""
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()


def _base_problems(adapters: Sequence[Adapter]) -> list[str]:
    problems = []
    for first, other in itertools.combinations(adapters, 2):
        if first.base_fingerprint and other.base_fingerprint:
            same = first.base_fingerprint == other.base_fingerprint
        else:
            same = bool(first.base) and base_key(first.base) == base_key(other.base)
        if not same:
            problems.append(
                f"{first.name} and {other.name} have different base models ({first.base or 'none recorded'} and "
                f"{other.base or 'none recorded'}): updates of different models cannot be added; "
                "if you know that they share one, say so with Adapter.load(.., base=)."
            )
    return problems


def _shape_problems(adapters: Sequence[Adapter]) -> list[str]:
    shapes: dict[str, tuple[str, tuple[int, int]]] = {}
    problems = []
    for adapter in adapters:
        for module, update in adapter.deltas.items():
            owner, shape = shapes.setdefault(module, (adapter.name, update.shape))
            if shape != update.shape:
                problems.append(
                    f"{module} is {shape} in {owner} but {update.shape} in {adapter.name}: they belong to different base models."
                )
    return problems


def _prefix_problems(adapters: Sequence[Adapter]) -> list[str]:
    """Notice modules that are the same but for a prefix: PEFT would load such an adapter and do nothing."""
    problems = []
    for a, b in itertools.combinations(adapters, 2):
        if set(a.deltas) & set(b.deltas):
            continue
        for long, short in ((a, b), (b, a)):
            pair = next(((x, y) for x in long.deltas for y in short.deltas if x.endswith("." + y)), None)
            if pair:
                problems.append(
                    f"{long.name} calls a module {pair[0]!r} that {short.name} calls {pair[1]!r}: one of them has a wrong prefix."
                )
                break
    return problems
