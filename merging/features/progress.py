"""How far the work before an evaluation is."""

from __future__ import annotations

from dataclasses import dataclass

READ_LENGTH = 128
"""Tokens of each text that the features of a merge are taken from."""


@dataclass(frozen=True)
class Progress:
    """How far the work before an evaluation is; plain values, so that it can cross a process boundary.

    Attributes
    ----------
    what : "loading" (the base model), "reading" (texts, through it), "merging" (modules) or "answering" (rows)
    """

    what: str
    done: int
    total: int

    @property
    def sentence(self) -> str:
        """What goes on, for people."""
        if self.what == "loading":
            return "Loading the base model."
        words = {"reading": "Reading texts", "merging": "Merging modules", "answering": "Rows answered"}
        return f"{words[self.what]}: {self.done} of {self.total}."
