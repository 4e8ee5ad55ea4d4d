"""MergeSpec: a merge as one value. Recipes, links, controls, options of the command line and sweeps all hold this."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from ..errors import MergeError
from ..methods import METHODS, Method
from ..methods.base import check_params
from ..plugins.decouple import Decouple
from ..plugins.norm_cap import NORM_CAP_PARAMS
from ..plugins.orthogonalize import Orthogonalize
from ..plugins.soft_osrm import SoftOSRM

Weight = float | Mapping[str, float]
PLAIN = "task_arithmetic"
"""The plain sum, by which a pool's hardness is told."""
NOT_NUDGED, NOT_DECOUPLED = Orthogonalize("off"), Decouple(0.0)
K = 100
"""Texts per task unless somebody says otherwise."""
PLUGIN_VALUES = (
    *("mu", "ridge", "orthogonalize", "penalty", "steps", "pico", "norm_cap"),
    *("decouple", "granularity", "max_up", "renormalise"),
)
"""Names of the plug-ins' values in the flat form, none of them a method's parameter."""


@dataclass(frozen=True)
class MergeSpec:
    """Everything that decides a merge but the adapters and the texts; plain, hashable, with every default filled in.

    Attributes
    ----------
    method : a name in `merging.METHODS`
    params : the method's own, ``(("scaling", 0.5), ..)``, in its order
    soft_osrm : None = off
    orthogonalize, decouple : mode "off" and strength 0 = off
    weights : one per adapter, a number or {module pattern: number}; empty = 1 each
    seed : of random masks
    k : texts per task, for what looks at texts
    norm_cap : MADs above the median at which norms are capped, None = off
    pico : whether shared output directions are damped
    """

    method: str
    params: tuple[tuple[str, Any], ...] = ()
    soft_osrm: SoftOSRM | None = None
    orthogonalize: Orthogonalize = NOT_NUDGED
    decouple: Decouple = NOT_DECOUPLED
    weights: tuple[Weight, ...] = ()
    seed: int = 0
    k: int = K
    norm_cap: float | None = None
    pico: bool = False

    @staticmethod
    def of(
        method: str,
        params: Mapping[str, Any] | None = None,
        soft_osrm: float | SoftOSRM | None = None,
        orthogonalize: str | Orthogonalize | None = None,
        decouple: float | Decouple | None = None,
        weights: Sequence[Weight] | None = None,
        seed: int = 0,
        k: int = K,
        norm_cap: float | None = None,
        pico: bool = False,
    ) -> MergeSpec:
        """Fill in the method's defaults and check every value; arguments as `merging.merge` takes them.

        Raises
        ------
        MergeError
            For an unknown method or parameter, a value out of range, a plug-in before a method that takes none.
        """
        known = _method(method)
        ortho = known.orthogonalize if orthogonalize is None else orthogonalize
        ortho = Orthogonalize(ortho) if isinstance(ortho, str) else ortho
        if not isinstance(ortho, Orthogonalize):
            raise MergeError(
                f"orthogonalize = {ortho!r} is neither a mode (off, balanced, raw) nor an Orthogonalize(..)."
            )
        magnitude = known.decouple if decouple is None else decouple
        magnitude = magnitude if isinstance(magnitude, Decouple) else Decouple(magnitude)
        soft = soft_osrm if soft_osrm is None or isinstance(soft_osrm, SoftOSRM) else SoftOSRM(mu=soft_osrm)
        checked = tuple(known.check(dict(params or {})).items())
        cap = None if norm_cap is None else check_params("norm_cap", NORM_CAP_PARAMS, {"mads": norm_cap})["mads"]
        if not isinstance(pico, bool):
            raise MergeError(f"pico = {pico!r} is neither True nor False.")
        spec = MergeSpec(method, checked, soft, ortho, magnitude, _weights(weights), seed, k, cap, pico)
        spec.check()
        return spec

    def check(self) -> None:
        """Raise MergeError for what does not go together; numbers are held against their ranges by `Method.check`."""
        method = _method(self.method)
        method.check(self.values)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise MergeError(f"seed = {self.seed!r} is not a whole number.")
        if not method.plugins and self.plugged:
            raise MergeError(
                f"{self.method} works on the factors as they are stored; a plug-in before it would make it another "
                "method."
            )

    @property
    def values(self) -> dict[str, Any]:
        """The method's parameters by name."""
        return dict(self.params)

    @property
    def scaling(self) -> float | None:
        """λ, where the method has one."""
        value = self.values.get("scaling")
        return None if value is None else float(value)

    @property
    def mu(self) -> float:
        """Strength of soft OSRM, 0 where it is off."""
        return self.soft_osrm.mu if self.soft_osrm else 0.0

    @property
    def plugged(self) -> bool:
        """True if any plug-in is on."""
        on = (self.soft_osrm is not None, self.orthogonalize.mode != "off", self.pico, self.norm_cap is not None)
        return any(on) or bool(self.decouple.strength)

    @property
    def plug_ins(self) -> MergeSpec:
        """The plug-ins alone, before Task Arithmetic: all that the updates that enter the merge depend on."""
        k = self.k if self.soft_osrm else 0
        return replace(self, method=PLAIN, params=(), weights=(), seed=0, k=k)

    @property
    def needs_data(self) -> bool:
        """True if the merge looks at texts."""
        return self.soft_osrm is not None or "data" in _method(self.method).needs

    @property
    def data_user(self) -> str:
        """What looks at texts, for a sentence: a plug-in or the method."""
        return "Soft OSRM" if self.soft_osrm is not None else _method(self.method).title

    def weights_for(self, count: int) -> tuple[Weight, ...]:
        """Return one weight per adapter; raises MergeError if there are others than ``count``."""
        if self.weights and len(self.weights) != count:
            raise MergeError(f"{len(self.weights)} weights for {count} adapters: give one each.")
        return self.weights or (1.0,) * count

    def with_params(self, **params: Any) -> MergeSpec:
        """Return the merge with other values of its method's parameters."""
        return replace(self, params=tuple((self.values | params).items()))

    def canonical(self) -> MergeSpec:
        """Blank what does not change the result, so that two specs of one merge compare equal."""
        return replace(
            self,
            orthogonalize=_off_or_explicit(self.orthogonalize),
            decouple=self.decouple if self.decouple.strength else NOT_DECOUPLED,
            weights=() if all(weight == 1 for weight in self.weights) else self.weights,
            k=self.k if self.needs_data else 0,
            seed=self.seed if _method(self.method).random else 0,
        )

    def difference(self, other: MergeSpec) -> list[str]:
        """Return the names of the values (as in `to_dict`) in which two merges differ in what they do."""
        mine, theirs = self.canonical().to_dict(), other.canonical().to_dict()
        return [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]

    def words(self, like: MergeSpec | None = None, skip: Iterable[str] = ()) -> str:
        """Say the merge in words: "Task Arithmetic · λ 0.3 · orthogonalize balanced".

        Parameters
        ----------
        like : plug-ins are left out where they are as in this one (the values that a method starts from)
        skip : parameters to leave out
        """
        differs = set(self.difference(like)) if like else {*PLUGIN_VALUES, "weights"}
        names = {"scaling": "λ"}
        hidden = {*skip} | {name for name, value in self.params if value is None or value is False}
        parts = [_method(self.method).title]
        parts += [_word(names.get(name, name), value) for name, value in self.params if name not in hidden]
        ortho, magnitude = self.orthogonalize, self.decouple
        if "orthogonalize" in differs and (ortho.mode != "off" or like):
            parts.append(f"orthogonalize {ortho.mode}")
        if "penalty" in differs and ortho.mode != "off" and ortho.g != Orthogonalize(ortho.mode).g:
            parts.append(f"g {ortho.g:g}")
        if self.pico:
            parts.append("Pico")
        if self.norm_cap is not None:
            parts.append(f"norm cap {self.norm_cap:g} MAD")
        if magnitude.strength and not magnitude.follows_strength:
            parts.append(magnitude.words)
        elif "decouple" in differs and (magnitude.strength or like):
            parts.append(f"γ {magnitude.strength:g}")
        if self.soft_osrm and differs & {"mu", "k"}:
            parts.append(f"μ {self.mu:g}, k {self.k}")
        if "weights" in differs and any(weight != 1 for weight in self.weights):
            parts.append("own weights")
        return " · ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the flat form: method, its parameters by name, `PLUGIN_VALUES`, weights, seed, k; plain values
        only."""
        soft, ortho, magnitude = self.soft_osrm, self.orthogonalize, self.decouple
        return {
            "method": self.method,
            **self.values,
            "mu": self.mu,
            "ridge": soft.ridge if soft else SoftOSRM.ridge,
            "orthogonalize": ortho.mode,
            "penalty": ortho.g,
            "steps": ortho.steps,
            "pico": self.pico,
            "norm_cap": self.norm_cap,
            "decouple": magnitude.strength,
            "granularity": magnitude.granularity,
            "max_up": magnitude.max_up,
            "renormalise": magnitude.renormalise,
            "weights": [dict(weight) if isinstance(weight, Mapping) else weight for weight in self.weights],
            "k": self.k,
            "seed": self.seed,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> MergeSpec:
        """Read the flat form back; what is left out has the method's default.

        Raises
        ------
        MergeError
            As `of`, and for a name that means nothing to the method.
        """
        left = dict(values)
        method = _method(left.pop("method"))
        mu, ridge = left.pop("mu", 0.0), left.pop("ridge", SoftOSRM.ridge)
        mode = left.pop("orthogonalize", method.orthogonalize)
        ortho = Orthogonalize(mode, left.pop("penalty", None), left.pop("steps", Orthogonalize.steps))
        options = {name: left.pop(name) for name in ("granularity", "max_up", "renormalise") if name in left}
        magnitude = Decouple(left.pop("decouple", method.decouple), **options)
        rest = {name: left.pop(name) for name in ("weights", "seed", "k", "norm_cap", "pico") if name in left}
        return MergeSpec.of(method.name, left, SoftOSRM(mu, ridge) if mu else None, ortho, magnitude, **rest)


def _method(name: str) -> Method:
    if name not in METHODS:
        raise MergeError(f"Unknown method {name!r}: choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def _off_or_explicit(ortho: Orthogonalize) -> Orthogonalize:
    return NOT_NUDGED if ortho.mode == "off" else replace(ortho, penalty=ortho.g)


def _word(name: str, value: Any) -> str:
    if value is True:
        return name
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _weights(weights: Sequence[Weight] | None) -> tuple[Weight, ...]:
    if weights is None:
        return ()
    if isinstance(weights, str | Real | Mapping):
        raise MergeError(f"weights = {weights!r}: give a list with one weight per adapter.")
    return tuple(checked_weight(weight, f"weight {place}") for place, weight in enumerate(weights, 1))


def checked_weight(weight: Any, owner: str) -> Weight:
    """Return a weight as floats; raise MergeError, with ``owner`` in the sentence, for what is no finite number."""
    values = dict(weight) if isinstance(weight, Mapping) else {"*": weight}
    for value in values.values():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise MergeError(f"{owner[0].upper()}{owner[1:]} is {value!r}, not a finite number.")
    return {p: float(v) for p, v in values.items()} if isinstance(weight, Mapping) else float(values["*"])
