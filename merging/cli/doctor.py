"""``mergescope doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer


def show_machine(as_json: Annotated[bool, typer.Option("--json", help="As JSON, for a program.")] = False) -> None:
    """Say what this machine has and what will be used of it: device, memory, versions, bases, cache."""
    from ..services.doctor import examined
    from ..services.held import bound
    from ..services.limits import described

    report = asdict(examined())
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    report["limits"] = {
        name: f"{bound(name.lower(), value)} ({described(name)})" for name, value in report["limits"].items()
    }
    for name, value in report.items():
        for line in _lines(name, value):
            print(line)


def _lines(name: str, value: Any) -> list[str]:
    """Return ``name: value``, a line for each part of a value that has some."""
    words = name.replace("_", " ")
    return [f"{words}: {value}"] if not isinstance(value, dict) else [f"{words}, {k}: {v}" for k, v in value.items()]
