"""Plug-ins: they change the updates before any method merges them. Order: soft OSRM, orthogonalize, decouple."""

from .base import Plugin, Updates
from .decouple import DECOUPLE, Decouple
from .orthogonalize import ORTHOGONALIZE, Orthogonalize
from .soft_osrm import SOFT_OSRM, SoftOSRM

PLUGINS: dict[str, Plugin] = {plugin.name: plugin for plugin in (SOFT_OSRM, ORTHOGONALIZE, DECOUPLE)}

__all__ = ["PLUGINS", "Decouple", "Orthogonalize", "Plugin", "SoftOSRM", "Updates"]
