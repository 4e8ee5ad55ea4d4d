"""Options that several commands have, and which of a command's options were given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="Base model: minilm or smollm2 (embedded), a folder, or a hub id; none = what the adapters record."
    ),
]


def given(context: typer.Context) -> dict[str, Any]:
    """Return the parameters that stand on the command line; the others have their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    named = (name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")
    return {name: context.params[name] for name in named}


def option(name: str) -> str:
    """Return a parameter's name as it is typed: ``soft_osrm`` as ``--soft-osrm``."""
    return f"--{name.replace('_', '-')}"
