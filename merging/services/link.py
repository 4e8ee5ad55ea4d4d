"""A merge as the query of an address, and back; a recipe, or plain values, back as the settings of the screen.

A link writes out everything that decides the merge, so that it stays the same merge when the tuned values change. Its
keys are the names of the parameters; one that is left out of a query written by hand takes the value that the app
starts from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..errors import MergeError
from ..methods import METHODS, Method, Param
from ..plugins.decouple import DECOUPLE_PARAMS
from ..plugins.norm_cap import NORM_CAP_PARAMS
from ..plugins.orthogonalize import MODES, ORTHOGONALIZE_PARAMS, Orthogonalize
from ..plugins.pico import PICO_PARAMS
from ..plugins.soft_osrm import SOFT_OSRM_PARAMS, SoftOSRM
from ..recipes.recipe import Recipe
from ..recipes.spec import MergeSpec
from ..shipped import RETIRED, SHIPPED, check_pool
from .settings import K_RANGE, LIMIT, LIMIT_RANGE, MOST_SEED, WEIGHT_RANGE, Settings

if TYPE_CHECKING:
    from .workbench import Workbench

LONGEST = 20_000
"""Characters of a recipe that is read from a stranger."""
FOREIGN = re.compile(
    r"__.*|view|deep_link|tab|[^.]+\..*|lesson|step|present|quiz|figure|utm_.*|mc_.*|fbclid|gclid|dclid|msclkid|igshid|ref"
)
"""Keys of a query that are not the merge's."""
LATER = {param.name: param.default for param in DECOUPLE_PARAMS[1:]} | {"pico": False, "norm_cap": None}
"""What older links do not have, and the values that they mean."""
DEEPEST = 6
"""Levels of nesting in one."""
FIXED: dict[str, float] = {"ridge": SoftOSRM.ridge, "steps": Orthogonalize.steps}
"""Values of a merge that have no control."""

ONLY_HERE = (
    "This set of adapters exists only in your session, so no link and no program leads to it: download the "
    "adapters instead."
)


# -- settings <-> query ------------------------------------------------------------------------------------------------


def to_query(settings: Settings, limit: int = LIMIT) -> str:
    """Write a merge as the query of an address, ``pool=default&method=ties&scaling=0.7&density=0.2&..``.

    Parameters
    ----------
    settings : of a pool that ships with Mergescope
    limit : test rows per task

    Raises
    ------
    MergeError
        For a pool that exists only in a visitor's session.
    """
    require_shipped(settings)
    values = settings.to_dict() | {"limit": limit}
    # a link from before there were these is the same link
    hidden = {"ridge", "steps", *(name for name, default in LATER.items() if values[name] == default)}
    values = {name: value for name, value in values.items() if name not in hidden}
    return urlencode({key: value_text(value) for key, value in values.items()}, safe=",")


def from_query(query: str, workbench: Workbench) -> tuple[Settings, int] | None:
    """Read a query back: (settings, test rows per task), or None where it holds no link.

    Others' keys are passed over: those of Gradio and its hosts, of the page's tabs, choices and lessons, and what
    mailers and networks add to links; all of them, where no key is a merge's.

    Raises
    ------
    MergeError
        With one sentence that names the key, for what is unknown, twice there, no value, or outside its control's
        range.
    """
    pairs = [(k, v) for k, v in parse_qsl(query, keep_blank_values=True) if not FOREIGN.fullmatch(k)]
    if _keys().isdisjoint(key for key, _ in pairs):
        return None
    given: dict[str, str] = {}
    for key, text in pairs:
        if key in given:
            raise MergeError(f"The link gives {_short(key)} twice.")
        given[key] = text
    pool, method = (_chosen(given, key, known) for key, known in (("pool", workbench.pools), ("method", METHODS)))
    start = _start(workbench, pool, method)
    if given.get("orthogonalize") in MODES:
        start["penalty"] = Orthogonalize(given["orthogonalize"]).g
    for key in given:
        if key not in start:
            raise MergeError(f"The link's {_short(key)} means nothing for {method}, which takes {', '.join(start)}.")
    return _settings("link", pool, method, start | _parsed(given, METHODS[method]), len(workbench.tasks(pool)))


def require_shipped(settings: Settings) -> None:
    """Refuse a pool that exists only in a visitor's session; its key must not get about."""
    if settings.pool not in SHIPPED:
        raise MergeError(ONLY_HERE)


@cache
def _keys() -> set[str]:
    """Return every key that a link of some method may have."""
    return {"pool", *(name for method in METHODS.values() for name in _model(method).model_fields), "method"}


def _chosen(given: dict[str, str], key: str, known: Mapping[str, Any]) -> str:
    if key not in given:
        raise MergeError(f"The link has no {key}: it needs one of {', '.join(known)}.")
    value = given.pop(key)
    if key == "pool" and value in RETIRED:
        check_pool(value)
    if value not in known:
        raise MergeError(f"The link's {key} = {_short(value)} is not one of {', '.join(known)}.")
    return value


def _start(workbench: Workbench, pool: str, method: str) -> dict[str, Any]:
    """Return the values that the app starts a method from."""
    start = workbench.defaults(pool, method).to_dict() | {"weights": [1.0] * len(workbench.tasks(pool)), "limit": LIMIT}
    return {name: value for name, value in start.items() if name not in {"method", "ridge", "steps"}}


def _parsed(given: Mapping[str, str], method: Method) -> dict[str, Any]:
    optional = {param.name for param in (*method.params, *DECOUPLE_PARAMS) if param.optional} | {"norm_cap"}
    values: dict[str, Any] = {key: None if key in optional and text == "auto" else text for key, text in given.items()}
    if "weights" in values:
        values["weights"] = values["weights"].split(",")
    return values


def value_text(value: Any) -> str:
    """Write a value so that reading it gives the same bits."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return ",".join(map(value_text, value)) if isinstance(value, list) else str(value)


# -- what a control can show -------------------------------------------------------------------------------------------


def _settings(owner: str, pool: str, method: str, values: Mapping[str, Any], tasks: int) -> tuple[Settings, int]:
    """Check values against the ranges of their controls."""
    spec = METHODS[method]
    if len(values["weights"]) != tasks:
        raise MergeError(f"The {owner}'s weights are {len(values['weights'])} for {tasks} adapters: give one each.")
    try:
        checked = _model(spec).model_validate(values).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"][0].lower() + first["msg"][1:]
        raise MergeError(
            f"The {owner}'s {first['loc'][0]} = {_short(first['input'])} does not fit: {message}."
        ) from error
    on = (checked["orthogonalize"] != "off", checked["pico"], checked["norm_cap"] is not None, checked["decouple"])
    if not spec.plugins and any((*on, checked["mu"])):
        raise MergeError(
            f"{method} takes no plug-ins: the {owner}'s orthogonalize, decouple, mu, pico and norm_cap should be off, "
            "0, 0, no and auto."
        )
    limit = checked.pop("limit")
    return Settings(pool, MergeSpec.from_dict({"method": method, **checked})), limit


def from_values(values: Mapping[str, Any], pool: str, workbench: Workbench, limit: int = LIMIT) -> tuple[Settings, int]:
    """Read a merge as `MergeSpec.to_dict` writes it; what is left out has the method's default.

    Parameters
    ----------
    values : from a stranger, any type
    pool : a shipped one, or the key of a visitor's own
    limit : test rows per task

    Raises
    ------
    MergeError
        As `from_query`.
    """
    given = _without_fixed("merge", values)
    method, tasks = given.pop("method", None), len(workbench.tasks(pool))
    if not isinstance(method, str) or method not in METHODS:
        raise MergeError(f"The merge's method = {_short(method)} is not one of {', '.join(METHODS)}.")
    start = _without_fixed("merge", MergeSpec.of(method).to_dict()) | {"weights": [1.0] * tasks, "limit": limit}
    del start["method"]
    if given.get("orthogonalize") in MODES:
        start["penalty"] = Orthogonalize(given["orthogonalize"]).g
    for key in given:
        if key not in start:
            raise MergeError(f"The merge's {_short(key)} means nothing for {method}, which takes {', '.join(start)}.")
    weights = given.get("weights", start["weights"])
    if not isinstance(weights, list):
        raise MergeError(f"The merge's weights = {_short(weights)} are no list: give one number per adapter.")
    # none written means 1 each, as in a `MergeSpec`
    return _settings("merge", pool, method, start | given | {"weights": weights or start["weights"]}, tasks)


def _without_fixed(owner: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that have controls, or raise MergeError if another one is not the app's."""
    for name, ours in FIXED.items():
        if (theirs := values.get(name, ours)) != ours:
            raise MergeError(f"The {owner}'s {name} = {_short(theirs)} has no control: the app takes {ours:g}.")
    return {name: value for name, value in values.items() if name not in FIXED}


@cache
def _model(method: Method) -> type[BaseModel]:
    """Make the model of a link's values: its method's parameters beside what every merge has."""
    fields: dict[str, Any] = {param.name: (_type(param), ...) for param in method.params}
    fields |= {
        "orthogonalize": (Literal[MODES], ...),
        "penalty": (_type(ORTHOGONALIZE_PARAMS[0]), ...),
        "pico": (_type(PICO_PARAMS[0]), ...),
        "norm_cap": (_type(NORM_CAP_PARAMS[0]), ...),
        "decouple": (_type(DECOUPLE_PARAMS[0]), ...),
        **{param.name: (_type(param), ...) for param in DECOUPLE_PARAMS[1:]},
        "mu": (_type(SOFT_OSRM_PARAMS[0]), ...),
        "weights": (list[_between(float, *WEIGHT_RANGE)], ...),  # type: ignore[misc]
        "k": (_between(int, *K_RANGE), ...),
        "seed": (_between(int, 0, MOST_SEED), ...),
        "limit": (_between(int, *LIMIT_RANGE), ...),
    }
    model: type[BaseModel] = create_model("Link", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)
    return model


def _type(param: Param) -> Any:
    if param.choices:
        return Literal[param.choices]
    if isinstance(param.default, bool):
        return bool
    kind = _between(int if param.integer else float, param.minimum, param.maximum, param.above_minimum)
    return kind | None if param.optional else kind


def _between(kind: type, low: float, high: float, above: bool = False) -> Any:
    return Annotated[kind, Field(gt=low, le=high) if above else Field(ge=low, le=high)]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= 40 else f"{text[:40]}..")


# -- recipes -----------------------------------------------------------------------------------------------------------


def settings_of_recipe(recipe_yaml: str, workbench: Workbench) -> Settings:
    """Return the settings of the screen that shows a recipe; nothing that it names is opened.

    Its rank, head and prefix are about the file that is written and not about the merge.

    Raises
    ------
    MergeError
        With one sentence, for text that is no recipe, adapters that are no shipped pool's (they are known by their
        fingerprints), and values that no control shows.
    """
    _require_plain(recipe_yaml)
    recipe = Recipe.from_yaml(recipe_yaml)
    if recipe.method not in METHODS:
        raise MergeError(f"The recipe's method = {_short(recipe.method)} is not one of {', '.join(METHODS)}.")
    values = _without_fixed("recipe", recipe.spec.to_dict() | {"limit": LIMIT})
    pool, weights = _place(recipe, workbench)
    del values["method"]
    return _settings("recipe", pool, recipe.method, values | {"weights": weights}, len(weights))[0]


def _require_plain(recipe_yaml: str) -> None:
    """Refuse what a recipe never has and a stranger may send: references that multiply, and bottomless nesting."""
    if len(recipe_yaml) > LONGEST:
        raise MergeError(f"The recipe has {len(recipe_yaml)} characters: at most {LONGEST} are read.")
    depth = 0
    try:
        for event in yaml.parse(recipe_yaml, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
                raise MergeError("The recipe has references or nested lists that no recipe has.")
    except yaml.YAMLError as error:
        raise MergeError(f"The recipe is not valid YAML: {' '.join(str(error).split())}.") from error


def _place(recipe: Recipe, workbench: Workbench) -> tuple[str, list[float]]:
    """Find the shipped pool of a recipe's adapters, and their weights in its order."""
    entries = {entry.fingerprint: entry for entry in recipe.adapters if entry.fingerprint}
    for pool in workbench.pools:
        adapters = workbench.adapters(pool)
        if len(recipe.adapters) != len(adapters) or set(entries) != {adapter.fingerprint for adapter in adapters}:
            continue
        weights = []
        for adapter in adapters:
            entry = entries[adapter.fingerprint]
            if entry.task not in (None, adapter.task):
                raise MergeError(
                    f"The recipe's task = {_short(entry.task)} is not that of the adapter, {adapter.task}."
                )
            if not isinstance(entry.weight, float):
                raise MergeError(
                    f"The recipe's weight of {adapter.task} is one per module: the app has one per adapter."
                )
            weights.append(entry.weight)
        return pool, weights
    paths = [entry.path if isinstance(entry.path, str) else entry.path[0] for entry in recipe.adapters]
    named = {part.removeprefix("shipped:") for path in paths for part in PurePath(path).parts[-2:-1]}
    current = {adapter.fingerprint for pool in workbench.pools for adapter in workbench.adapters(pool)}
    # some of today's adapters, or adapters that nobody can tell, are not an earlier version's
    gone = {*RETIRED, *SHIPPED} if entries and not current & set(entries) else {*RETIRED}
    if old := sorted(named & gone):
        raise MergeError(
            f"The recipe's adapters are those of the pool {old[0]!r} of an earlier version, which were trained anew: "
            f"choose the pool {RETIRED.get(old[0], old[0])!r} and set the recipe's values there."
        )
    raise MergeError(
        "The recipe's adapters are not those of a pool that ships with Mergescope (compared by fingerprint): the "
        "command line merges it, with mergescope merge recipe.yaml -o folder."
    )


def runnable(recipe_yaml: str, settings: Settings, workbench: Workbench) -> str:
    """Add the rank at which an adapter holds a dense merge exactly to its recipe, as the command line asks for one."""
    rank = exact_rank(settings, workbench)
    return recipe_yaml if rank is None else f"{recipe_yaml}rank: {rank}\n"


def exact_rank(settings: Settings, workbench: Workbench) -> int | None:
    """Return the rank at which an adapter holds a dense merge exactly; None where it is low-rank anyway, or no single
    adapter.
    """
    method = METHODS[settings.spec.method]
    if method.low_rank or "task_id" in method.needs:
        return None
    adapters = workbench.adapters(settings.pool)
    return max(min(update.shape) for adapter in adapters for update in adapter.deltas.values())
