"""What a search may try: methods, their parameters, plug-ins and weights, within what a person can use."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

from ..errors import MergeError
from ..methods import METHODS, Method
from ..methods.base import Param
from ..plugins import PLUGINS
from ..recipes.spec import MergeSpec

GROUPS = ("method", "params", "plugins", "weights")
"""What may vary: which method, λ and its other parameters, the plug-ins in front, a weight per adapter."""
ORACLES = ("peft_linear", "peft_ties")
"""Work on factors as they are stored; there to compare with, not to be chosen."""
LOWEST = 0.05
"""Of scalings and densities: below it a merge is the base."""
LARGEST_WEIGHT = 2.0
STRENGTHS = (0.0, 0.5, 1.0)
CAPS = (None, 3.0)
MODES = ("off", "balanced")
START = MergeSpec.of("task_arithmetic")


@dataclass(frozen=True)
class Space:
    """The merges among which a search chooses.

    Attributes
    ----------
    groups : those of `GROUPS` that vary; the others stay as ``start`` has them
    start : the merge to start from
    methods : names to choose among; empty = all that the constraints allow
    texts : methods and plug-ins that look at the tasks' texts are allowed
    task_identity : methods are allowed that need to know the task of an input
    rank : the result must be one adapter of at most this rank; what is larger is cut to it before it is measured, and a
        method that takes a rank takes this one
    """

    groups: frozenset[str] = frozenset({"method", "params", "plugins"})
    start: MergeSpec = START
    methods: tuple[str, ...] = ()
    texts: bool = False
    task_identity: bool = False
    rank: int | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(self.groups - {*GROUPS}):
            raise MergeError(f"{unknown[0]!r} is nothing that can vary: choose among {', '.join(GROUPS)}.")
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise MergeError(f"Unknown method {unknown[0]!r}: choose one of {', '.join(METHODS)}.")
        if not self.allowed:
            raise MergeError("No method is left to choose from: allow texts or the task's identity, or other methods.")

    @property
    def allowed(self) -> list[str]:
        """Names of the methods that a search may choose."""
        named = self.methods or tuple(name for name in METHODS if name not in ORACLES)
        if "method" not in self.groups:
            named = (self.start.method,)
        return [name for name in named if self._usable(METHODS[name])]

    def suggest(self, trial: BaseTrial, adapters: int) -> MergeSpec:
        """Return the merge that a trial decides on.

        Parameters
        ----------
        trial : asked for ``method``, ``<method>.<parameter or plug-in>`` and ``weight.<i>``
        adapters : how many there are
        """
        start, method = self.start, METHODS[trial.suggest_categorical("method", self.allowed)]
        values = start.values if method.name == start.method else {}
        if "params" in self.groups:
            values = values | {p.name: _value(trial, method, p) for p in method.params if _varies(p)}
            if self.rank is not None and any(p.name == "rank" for p in method.params):
                values["rank"] = self.rank
        options: dict[str, Any] = {}
        if method.plugins and "plugins" in self.groups:
            options["orthogonalize"] = trial.suggest_categorical(f"{method.name}.orthogonalize", MODES)
            options["pico"] = trial.suggest_categorical(f"{method.name}.pico", (False, True))
            options["norm_cap"] = trial.suggest_categorical(f"{method.name}.norm_cap", CAPS)
            options["decouple"] = trial.suggest_categorical(f"{method.name}.decouple", STRENGTHS)
            if self.texts:
                options["soft_osrm"] = round(trial.suggest_float(f"{method.name}.mu", 0.0, 0.9, step=0.1), 6) or None
        elif method.plugins:
            options = {name: getattr(start, name) for name in PLUGINS}
        weights: Any = start.weights or None
        if "weights" in self.groups:
            weights = [
                round(trial.suggest_float(f"weight.{i}", 0.0, LARGEST_WEIGHT, step=0.05), 6) for i in range(adapters)
            ]
        return MergeSpec.of(method.name, values, weights=weights, seed=start.seed, k=start.k, **options)

    def starts(self, adapters: int, tuned: Mapping[str, float] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the first trials: where a search begins instead of at random.

        These are ``start`` as it is, then every method at its own defaults, with its scaling from ``tuned`` ({method:
        scaling}) or at 0.3.
        """
        seen = []
        for name in sorted(self.allowed, key=lambda name: name != self.start.method):
            method = METHODS[name]
            like = self.start if name == self.start.method else MergeSpec.of(name)
            first: dict[str, Any] = {"method": name}
            for param in method.params if "params" in self.groups else ():
                if not _varies(param):
                    continue
                value = like.values[param.name]
                if param.name == "scaling" and like is not self.start:
                    value = (tuned or {}).get(name, 0.3)
                first[f"{name}.{param.name}"] = _within(param, value)
            if method.plugins and "plugins" in self.groups:
                first[f"{name}.orthogonalize"] = "off" if like.orthogonalize.mode == "off" else "balanced"
                first[f"{name}.pico"] = like.pico
                first[f"{name}.norm_cap"] = None if like.norm_cap is None else 3.0
                first[f"{name}.decouple"] = min(STRENGTHS, key=lambda s: abs(s - like.decouple.strength))
                if self.texts:
                    first[f"{name}.mu"] = round(like.mu, 1)
            if "weights" in self.groups:
                first |= {f"weight.{i}": 1.0 for i in range(adapters)}
            if first not in seen:
                seen.append(first)
                yield first

    def _usable(self, method: Method) -> bool:
        needs: Collection[str] = method.needs
        return (self.texts or "data" not in needs) and (
            "task_id" not in needs or (self.task_identity and self.rank is None)
        )


def _varies(param: Param) -> bool:
    return not param.optional


def _value(trial: BaseTrial, method: Method, param: Param) -> Any:
    name = f"{method.name}.{param.name}"
    if param.choices:
        return trial.suggest_categorical(name, param.choices)
    if isinstance(param.default, bool):
        return trial.suggest_categorical(name, (False, True))
    if param.integer:
        return trial.suggest_int(name, int(param.minimum), int(param.maximum))
    # steps add up to 0.7000000000000001
    return round(trial.suggest_float(name, _lowest(param), param.maximum, step=_step(param)), 6)


def _lowest(param: Param) -> float:
    return max(param.minimum, LOWEST) if param.name in ("scaling", "density") else param.minimum


def _step(param: Param) -> float:
    return param.step if math.isclose((param.maximum - _lowest(param)) / param.step % 1, 0, abs_tol=1e-6) else 0.01


def _within(param: Param, value: Any) -> Any:
    """Return the value of the search's grid that is nearest to ``value``."""
    if param.choices or isinstance(value, bool) or param.integer:
        return value
    low, step = _lowest(param), _step(param)
    return min(param.maximum, round(low + round((max(low, float(value)) - low) / step) * step, 6))
