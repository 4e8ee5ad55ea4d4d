"""Which column of a table holds the texts and which the labels: guessed from the usual names, or said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import MergeError

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence_a", "sentence_b"),
    ("question", "sentence"),
    ("question", "passage"),
)
TEXTS = ("text", "sentence", "review", "content", "question", "tweet", "utterance", "message", "document", "title")
LABELS = (
    "label",
    "labels",
    "target",
    "class",
    "category",
    "sentiment",
    "intent",
    "emotion",
    "topic",
    "coarse_label",
    "gold_label",
)
SPLIT_COLUMNS = ("split",)


@dataclass(frozen=True)
class Columns:
    """Which column holds what; "" where none does."""

    text: str = ""
    label: str = ""
    pair: str = ""
    split: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """What no column is known for although every task needs it: text, label, both or nothing."""
        return tuple(role for role in ("text", "label") if not getattr(self, role))


def choose(columns: Sequence[str], named: Mapping[str, str | None], where: str) -> tuple[Columns, tuple[str, ...]]:
    """Return (which column holds what, the roles that were guessed); see `read_table`.

    Raises
    ------
    MergeError
        For a named column that is not there, or one named twice.
    """
    for role, column in named.items():
        if column and column not in columns:
            raise MergeError(f"{where} has no column {column!r} for the {role}: its columns are {', '.join(columns)}.")
    said = [column for column in named.values() if column]
    if len(set(said)) < len(said):
        raise MergeError(f"{where}: one column is named for two things ({', '.join(said)}).")
    free = {column.lower(): column for column in reversed(columns) if column not in said}
    guesses: dict[str, str] = {}
    if named.get("text") is None:
        guesses = _guessed_texts(free, PAIRS if named.get("pair") is None else ())
    for role, usual in (("label", LABELS), ("split", SPLIT_COLUMNS)):
        if named.get(role) is None:
            guesses[role] = next((free[name] for name in usual if name in free), "")
    chosen = Columns(**({role: column or "" for role, column in named.items()} | guesses))
    return chosen, tuple(role for role, column in guesses.items() if column)


def missing_sentence(chosen: Columns, columns: Sequence[str], where: str) -> str:
    """Return the refusal of a table whose texts or labels are in no column with a usual name."""
    missing = " and no column ".join(chosen.missing)
    return f"{where} has no column {missing}: its columns are {', '.join(columns)[:300]}; say which one it is."


def _guessed_texts(free: Mapping[str, str], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    for a, b in pairs:
        if a in free and b in free:
            return {"text": free[a], "pair": free[b]}
    return {"text": next((free[name] for name in TEXTS if name in free), "")}
