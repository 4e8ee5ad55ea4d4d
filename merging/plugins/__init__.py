"""Plug-ins: they change the updates before any method merges them. Order: soft OSRM, orthogonalize, Pico, norm
cap, decouple."""

from .base import Plugin, Updates
from .decouple import DECOUPLE, Decouple
from .norm_cap import NORM_CAP
from .orthogonalize import ORTHOGONALIZE, Orthogonalize
from .pico import PICO
from .soft_osrm import SOFT_OSRM, SoftOSRM

PLUGINS: dict[str, Plugin] = {plugin.name: plugin for plugin in (SOFT_OSRM, ORTHOGONALIZE, PICO, NORM_CAP, DECOUPLE)}

__all__ = ["PLUGINS", "Decouple", "Orthogonalize", "Plugin", "SoftOSRM", "Updates"]
