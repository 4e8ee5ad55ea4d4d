"""What is dropped on the Adapters panel in one go: which files are adapters and which hold texts, and which belong
together.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from merging.errors import MergeError
from merging.services.lab import Lab
from merging.services.limits import LIMITS
from merging.tasks.files import read_table
from merging.tasks.task import Task

TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")
CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
SAYS_NOTHING = frozenset(
    {"adapter", "adapters", "data", "dataset", "dev", "eval", "lora", "rows", "set", "task", "test", "train", "val"}
    | {"validation"}
)
"""Words of a file's name that don't tell what its texts or its adapter are of."""
SHORTEST = 3  # letters of a name that may stand within another


def sorted_out(paths: Sequence[str]) -> tuple[list[str | list[str]], list[Path], str]:
    """Return (sources of adapters, tables, what is wrong with the rest, as a sentence)."""
    files = [Path(path) for path in paths]
    tables = [path for path in files if path.suffix.lower() in TABLES]
    sources: list[str | list[str]] = [str(path) for path in files if path.suffix.lower() == ".zip"]
    rest = [path for path in files if path not in tables and path.suffix.lower() != ".zip"]
    names = {path.name for path in rest}
    if not rest:
        return sources, tables, ""
    if len(rest) == len(names) == 2 and CONFIG in names and names & {*WEIGHTS}:
        return [*sources, [str(path) for path in rest]], tables, ""
    wrong = (
        f"{', '.join(sorted(names))}: an adapter is its zip file, or {CONFIG} and {WEIGHTS[0]} chosen together, one "
        "adapter at a time."
    )
    return sources, tables, wrong


def dropped_task(path: Path, owner: str, lab: Lab, all_test: bool = False) -> Task:
    """Read a table of texts, its columns guessed from their names, and keep it as a task of ``owner``.

    Parameters
    ----------
    all_test : every row is a test row; else 60 / 20 / 20 %, or as a split column says

    Raises
    ------
    MergeError
        With a sentence for people, see `merging.tasks.files.read_table`.
    """
    table = read_table(path, max_bytes=LIMITS.table_bytes, rows=LIMITS.table_rows)
    task = table.test_task() if all_test else table.task()
    called = re.sub(r"[^\w .()+-]+|^\W+", "_", path.stem)[:40].strip() or "task"
    return lab.task(keep_task(replace(task, name=called), owner, lab))


def keep_task(task: Task, owner: str, lab: Lab) -> str:
    """Keep a task of ``owner`` under its name, numbered where the owner has one of that name; return its key."""
    names = itertools.chain([task.name], (f"{task.name}{number}" for number in itertools.count(2)))
    name = next(name for name in names if f"{owner}-{name}" not in lab.titles(owner))
    return lab.add(replace(task, name=name, title=name), owner)


def divided(task: Task) -> str:
    """Say how many rows of a task are in which split, and its labels in the order in which a head is taken."""
    splits = {split: len(getattr(task, split)) for split in ("train", "validation", "test")}
    rows = ", ".join(f"{rows:,} {split}" for split, rows in splits.items() if rows)
    return f"{task.title}: {rows} rows; labels {', '.join(task.labels)}."


def matched(name: str, tasks: Mapping[str, str]) -> str:
    """Return the one of ``tasks``, {task: title}, that an adapter of this name is of by all appearances, or "".

    Names are compared without case, punctuation and words like test or lora: sst2_test.csv is of the adapter SST2.
    """
    mine = _core(name)
    if not mine:
        return ""
    cores = {task: _core(title) for task, title in tasks.items()}
    equal = [task for task, core in cores.items() if core == mine]
    within = [
        task for task, core in cores.items() if min(len(core), len(mine)) >= SHORTEST and (core in mine or mine in core)
    ]
    fitting = equal or within
    return fitting[0] if len(fitting) == 1 else ""


def label_order(text: str, labels: Sequence[str], name: str) -> tuple[str, ...]:
    """Read the order of a head's labels, as `order_text` writes it.

    Raises
    ------
    MergeError
        If it does not name each label once.
    """
    order = tuple(label.strip() for label in text.split(_separator(labels).strip()))
    if sorted(order) != sorted(labels):
        raise MergeError(f"The labels of {name}’s head are {text!r}: name each of {', '.join(labels)} once.")
    return order


def order_text(labels: Sequence[str]) -> str:
    """Write labels in their order, for a line in which it can be changed."""
    return _separator(labels).join(labels)


def _separator(labels: Sequence[str]) -> str:
    return "; " if any("," in label for label in labels) else ", "


def _core(name: str) -> str:
    words = re.findall(r"[^\W_]+", name.lower())
    return "".join(word for word in words if word not in SAYS_NOTHING)
