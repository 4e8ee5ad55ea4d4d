"""The glossary: every term of the screen in one file, sent to the browser once (assets/js/words.js shows it)."""

from functools import cache
from importlib.resources import files
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from viz.panels.kit.plot import ASSETS

Text = Annotated[str, Field(min_length=1)]


class Term(BaseModel):
    """A term: how it is written on the screen, what it means, its formula in KaTeX."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    names: Annotated[tuple[Text, ...], Field(min_length=1)]
    says: Annotated[str, Field(min_length=10, max_length=240)]
    formula: str = ""


@cache
def glossary() -> tuple[Term, ...]:
    """Read the glossary."""
    return TypeAdapter(tuple[Term, ...]).validate_python(
        yaml.safe_load((ASSETS / "glossary.yaml").read_text(encoding="utf-8"))
    )


@cache
def katex() -> str:
    """Name the KaTeX that Gradio ships, as the page reaches it; empty without, and formulas are shown as they are
    written.
    """
    folder = files("gradio") / "templates" / "frontend" / "assets"
    found = [file.name for file in folder.iterdir() if file.name.startswith("katex-") and file.name.endswith(".js")]
    return f"assets/{found[0]}" if found else ""


def as_json() -> str:
    """Pack the glossary for a script element: no `<` in it can end the element."""
    packed: dict[str, object] = {"terms": [term.model_dump() for term in glossary()], "katex": katex()}
    return TypeAdapter(dict[str, object]).dump_json(packed).decode().replace("<", "\\u003c")
