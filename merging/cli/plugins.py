"""What the options of ``mergescope merge`` say of the plug-ins, as the library takes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import MergeError

if TYPE_CHECKING:
    from ..methods import Method
    from ..plugins.decouple import Decouple
    from ..plugins.orthogonalize import Orthogonalize


def orthogonalize_of(method: str, mode: str | None, penalty: float | None) -> str | Orthogonalize | None:
    """Return what `merging.merge` takes for --orthogonalize and --penalty.

    Raises
    ------
    MergeError
        If there is a penalty, and nothing to which it belongs.
    """
    from ..methods import METHODS
    from ..plugins.orthogonalize import Orthogonalize

    if penalty is None:
        return mode
    mode = mode or (METHODS[method].orthogonalize if method in METHODS else "balanced")
    if mode == "off":
        raise MergeError("--penalty does nothing without --orthogonalize balanced or raw.")
    return Orthogonalize(mode, penalty)


def decouple_of(
    method: str, strength: float | None, granularity: str | None, max_up: float | None, renormalise: bool | None
) -> float | Decouple | None:
    """Return what `merging.merge` takes for --decouple, --granularity, --max-up and --renormalise.

    Raises
    ------
    MergeError
        If one of the last three is given, and nothing is decoupled.
    """
    from ..methods import METHODS
    from ..plugins.decouple import Decouple

    options = {"granularity": granularity, "max_up": max_up, "renormalise": renormalise}
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return strength
    own = METHODS[method].decouple if method in METHODS else 1.0
    strength = own if strength is None else strength
    if not strength:
        raise MergeError(
            f"--{next(iter(given)).replace('_', '-')} does nothing without --decouple: say how strongly, 0 to 1."
        )
    return Decouple(strength, **given)  # type: ignore[arg-type]


def own_plugins(method: Method) -> Iterator[str]:
    """Yield a line per option of the plug-ins that a method has on by default."""
    from ..plugins import PLUGINS

    options = {"orthogonalize": ("penalty",), "decouple": ("strength", "granularity", "max_up", "renormalise")}
    on = {"orthogonalize": method.orthogonalize != "off", "decouple": bool(method.decouple)}
    for name in (name for name in options if on[name]):
        for param in PLUGINS[name].params:
            if param.name in options[name]:
                option = name if param.name == "strength" else param.name.replace("_", "-")
                default = "no limit" if param.default is None else param.default
                yield f"--{option} ({PLUGINS[name].title}: {param.label}, default {default}): {param.help}"
