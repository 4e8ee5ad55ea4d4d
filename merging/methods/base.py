"""What a merging method is: a pure function on one module's updates, and the parameters that draw their own sliders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from ..features.moments import Features


@dataclass(frozen=True)
class Param:
    """A parameter of a method or plug-in; the app draws its slider and the command line its option from it.

    Attributes
    ----------
    minimum, maximum, step : float
        Range of the slider. A value outside is refused, unless ``open_above`` or ``open_below`` says that the range is
        the slider's only; with ``above_minimum`` the minimum itself is refused too.
    choices : tuple of str
        Not empty: the parameter is one of these, and has no range.
    optional : bool
        None is a value too (``default`` None says what that means in ``help``).
    """

    name: str
    label: str
    minimum: float = 0.0
    maximum: float = 1.0
    step: float = 0.05
    default: Any = 1.0
    help: str = ""
    choices: tuple[str, ...] = ()
    optional: bool = False
    integer: bool = False
    open_above: bool = False
    open_below: bool = False
    above_minimum: bool = False

    def check(self, value: Any, owner: str) -> Any:
        """Return ``value`` in the parameter's type.

        Raises
        ------
        MergeError
            If it is no choice, no finite number, or out of range.
        """
        if self.choices:
            if value not in self.choices:
                raise MergeError(f"{owner}: {self.name} = {value!r} is not one of {', '.join(self.choices)}.")
            return value
        if value is None and self.optional:
            return None
        if isinstance(value, bool) and isinstance(self.default, bool):
            return value
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(number := float(value)):
            raise MergeError(f"{owner}: {self.name} = {value!r} is not a finite number.")
        if self.integer and number != int(number):
            raise MergeError(f"{owner}: {self.name} = {value} is not a whole number.")
        if (number < self.minimum and not self.open_below) or (number > self.maximum and not self.open_above):
            top = "" if self.open_above else f" and at most {self.maximum:g}"
            raise MergeError(
                f"{owner}: {self.name} = {value} is out of range: it must be at least {self.minimum:g}{top}."
            )
        if self.above_minimum and number <= self.minimum:
            raise MergeError(f"{owner}: {self.name} = {value} is out of range: it must be above {self.minimum:g}.")
        return int(number) if self.integer else number


SCALING = Param(
    "scaling",
    "Scaling λ",
    0.0,
    2.0,
    0.025,
    1.0,
    "Factor on the merged update: W = W0 + λ · merge. Too small forgets the tasks, too large lets them drown each "
    "other.",
    open_above=True,
    open_below=True,
)


def density_param(default: float, meaning: str) -> Param:
    """Return the parameter ``density``: the share of entries that survive a method's pruning."""
    return Param("density", "Density", 0.0, 1.0, 0.05, default, meaning, above_minimum=True)


@dataclass(frozen=True, eq=False)
class Stack:
    """The updates of all adapters at one module, as a method sees them.

    Attributes
    ----------
    module : str
    shape : (out, in)
    updates : tuple of LowRank or None
        One per adapter, after the plug-ins and without the user's weights; None where an adapter lacks the module.
    weights : tuple of float
        The user's weight of each adapter at this module.
    rank : int
        Largest rank of any adapter's update anywhere (what `svd` takes by default).
    tasks : tuple of str
        Key of each adapter's data in ``features``.
    scalings : tuple of float
        LoRA's own scaling of each adapter here, which is already folded into B (for methods that undo the folding).
    generator : callable
        ``generator(i)`` is a fresh torch.Generator for adapter i at this module: the same for the same seed, adapter
        and module, whatever the order of adapters or the other parameters.
    """

    module: str
    shape: tuple[int, int]
    updates: tuple[LowRank | None, ...]
    weights: tuple[float, ...]
    rank: int
    tasks: tuple[str, ...]
    scalings: tuple[float, ...]
    generator: Callable[[int], torch.Generator]
    features: Features | None = None

    @property
    def present(self) -> list[int]:
        """Indices of the adapters that have this module."""
        return [i for i, update in enumerate(self.updates) if update is not None]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the factors, in which results are given."""
        return next(update.A.dtype for update in self.updates if update is not None)

    def weighted(self) -> list[LowRank]:
        """Return the updates of the adapters that have this module, times their weights."""
        return [update * w for update, w in zip(self.updates, self.weights, strict=True) if update is not None]


Result = LowRank | Tensor
"""A method's result for one module: factors where it is exactly low-rank, else the dense (out, in) float32 update."""


@dataclass(frozen=True)
class Method:
    """One merging method.

    Attributes
    ----------
    space : "factor", "core" or "full"
        Where it works: on A and B, on small matrices between orthonormal bases (both exactly low-rank), or on the dense
        update, module by module.
    needs : set of "data" (second moments of the tasks' features) and "task_id" (the task is known at inference)
    function : ``function(stack, **params) -> LowRank | Tensor``; its docstring is the method's page
    prepare : ``prepare(stacks, **params) -> dict`` of further keyword arguments for ``function``, for methods that need
        one look at the whole model first; ``stacks()`` yields every Stack
    soft_osrm, orthogonalize, decouple : the method's own plug-in defaults
    low_rank : the result is exactly low-rank, so that it can be exported without loss
    random : the result depends on the seed
    plugins : plug-ins may change the updates before; False where the method is defined on the stored factors only
    linear : "sum" if the result is λ sum_i w_i U_i of the updates U_i after the plug-ins, "mean" if it is their
        weighted mean, else ""; the browser follows λ and weights of a linear merge by itself
    """

    name: str
    title: str
    paper: str
    space: str
    function: Callable[..., Result]
    params: tuple[Param, ...] = ()
    needs: frozenset[str] = frozenset()
    prepare: Callable[..., Mapping[str, Any]] | None = None
    orthogonalize: str = "off"
    decouple: float = 0.0
    low_rank: bool = True
    plugins: bool = True
    random: bool = False
    linear: Literal["sum", "mean", ""] = ""

    @property
    def doc(self) -> str:
        """The method's page: what it does, formula, paper, when it helps."""
        return inspect.getdoc(self.function) or ""

    def check(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return all parameters with defaults filled in.

        Raises
        ------
        MergeError
            For an unknown name or a value that its `Param` refuses.
        """
        return check_params(self.name, self.params, params)


def check_params(owner: str, params: Iterable[Param], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` checked against ``params``, defaults filled in; raise MergeError for what does not fit."""
    known = {param.name: param for param in params}
    for name in given:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise MergeError(f"{owner} has no parameter {name!r}: {takes}.")
    return {name: param.check(given[name], owner) if name in given else param.default for name, param in known.items()}
