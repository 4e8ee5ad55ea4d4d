"""What a program asks: the methods and pools, adapters of its own, a merge as plain values, accuracy and answers.

Everything comes from strangers and goes back as plain values that JSON knows, without a path of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import parse_qsl

import pandas as pd

from ..adapters.adapter import Adapter
from ..diagnostics.compatibility import compatibility
from ..errors import MergeError
from ..evaluation.accuracy import Estimate, own_head
from ..evaluation.intervals import as_values, average, gap_recovered
from ..features.progress import READ_LENGTH, Progress
from ..features.store import TextsOf
from ..methods import METHODS, Param
from ..models.embedded import EMBEDDED
from ..playground.answers import winners
from ..plugins import PLUGINS
from ..recipes.spec import MergeSpec
from ..tasks.embedded import SOURCES
from .link import LONGEST, from_query, from_values
from .playground import Playground, texts_of
from .results import Stream
from .settings import LIMIT, LIMIT_RANGE, MOST_TASKS, Settings
from .shelf import Brought, bring, keep
from .visitor import Visitor
from .workbench import Workbench

Plain = dict[str, Any]

# -- what there is -----------------------------------------------------------------------------------------------------


def catalogue(bench: Workbench) -> Plain:
    """Return methods (with a whole merge of their defaults, as `from_values` reads it), plug-ins and pools."""
    return {
        "methods": [
            {
                "name": method.name,
                "title": method.title,
                "paper": method.paper,
                "needs": sorted(method.needs),
                "params": [_param(param) for param in method.params],
                "merge": MergeSpec.of(method.name).to_dict(),
            }
            for method in METHODS.values()
        ],
        "plugins": [
            {"name": name, "title": p.title, "paper": p.paper, "params": [_param(param) for param in p.params]}
            for name, p in PLUGINS.items()
        ],
        "pools": [
            {"name": pool, "title": title, "help": bench.help(pool), "base": bench.base_title(pool)}
            | {"tasks": {task: bench.title(task) for task in bench.tasks(pool)}}
            for pool, title in bench.pools.items()
        ],
    }


def _param(param: Param) -> Plain:
    known = {"name": param.name, "label": param.label, "default": param.default, "help": param.help}
    if param.choices:
        return known | {"choices": list(param.choices)}
    if isinstance(param.default, bool):
        return known
    return known | {"minimum": param.minimum, "maximum": param.maximum}


# -- whose merge -------------------------------------------------------------------------------------------------------


def shelf_of(bench: Workbench, files: Sequence[str], base: str) -> list[Brought]:
    """Load a program's own adapters and hold them against an embedded base.

    Parameters
    ----------
    files : zip files, as the Adapters tab takes them

    Raises
    ------
    MergeError
        For another base, or more than `MOST_TASKS`; what is wrong with an adapter is its ``problem``.
    """
    if base not in EMBEDDED:
        raise MergeError(f"base = {base[:40]!r} is not one of {', '.join(EMBEDDED)}.")
    if len(files) > MOST_TASKS:
        raise MergeError(f"{len(files)} adapters are too many: at most {MOST_TASKS} are merged here.")
    model, _ = bench.base(base)
    shelf: list[Brought] = []
    for file in files:
        shelf.append(bring(file, model, [one.name for one in shelf]))
    return shelf


@contextmanager
def pool_of(bench: Workbench, pool: str, shelf: Sequence[Brought], base: str) -> Iterator[str]:
    """Give the pool that is meant: a shipped one by its name, or one of own adapters, which goes when this is left.

    Own adapters that bring a head and record an embedded task, each another one, can be evaluated on it.

    Raises
    ------
    MergeError
        If there is no such pool, both or neither are given, or the adapters cannot be merged.
    """
    if not shelf:
        if pool not in bench.pools:
            known = ", ".join(bench.pools)
            raise MergeError(f"pool = {pool[:40]!r} is not one of {known}: name one, or give adapters of your own.")
        yield pool
        return
    if pool:
        raise MergeError("There are a pool and adapters of your own: give one of them.")
    visitor = Visitor()
    bench.governor.welcome(visitor)
    try:
        bench.governor.admit(visitor.key, len(shelf))
        yield _add(bench, visitor, shelf, base)
    finally:
        visitor.leave(bench)


def _add(bench: Workbench, visitor: Visitor, shelf: Sequence[Brought], base: str) -> str:
    for one in shelf:
        if one.problem:
            raise MergeError(f"{one.name} cannot be used: {one.problem}")
    adapters = {one.name: one.adapter for one in shelf if one.adapter is not None}
    names = [adapter.task for adapter in adapters.values()]
    known = len({*names} & {*SOURCES}) == len(names) and all(own_head(a) is not None for a in adapters.values())
    tasks = {name: bench.lab.task(adapter.task) for name, adapter in adapters.items()} if known else {}
    folders = keep(shelf, visitor.folder("programs"), tasks)
    modules = sorted({module for adapter in adapters.values() for module in adapter.deltas})
    title, key = "Your adapters", f"{visitor.key}-pool1"
    visitor.pools["programs"] = [(title, key)]
    bench.add_pool(key, title, folders, TextsOf(tuple(folders), tuple(modules), base, "float32", READ_LENGTH), known)
    return key


def merge_of(bench: Workbench, merge: str | Mapping[str, Any], pool: str, rows: int | None) -> tuple[Settings, int]:
    """Read a merge that a program names: (settings, test rows per task).

    Parameters
    ----------
    merge : a link or its query; or a `MergeSpec` as plain values, also written as JSON
    rows : None = as the link says

    Raises
    ------
    MergeError
        With one sentence, for what means nothing, is of another pool, or outside a control's range.
    """
    low, high = LIMIT_RANGE
    if rows is not None and not low <= rows <= high:
        raise MergeError(f"rows = {rows} is out of range: {low} to {high} test rows per task are evaluated.")
    if isinstance(merge, str) and len(merge) > LONGEST:
        raise MergeError(f"The merge has {len(merge)} characters: at most {LONGEST} are read.")
    if isinstance(merge, str) and not merge.lstrip().startswith("{"):
        return _linked(bench, _query(merge), pool, rows)
    try:
        values = json.loads(merge) if isinstance(merge, str) else merge
    except (ValueError, RecursionError) as error:
        raise MergeError("The merge begins like JSON and is none: write it as /methods shows it.") from error
    return from_values(values, pool, bench, rows or LIMIT)


def pool_named(merge: str | Mapping[str, Any]) -> str:
    """Return the pool that a link names; "" for any other merge."""
    return dict(parse_qsl(_query(merge))).get("pool", "") if isinstance(merge, str) else ""


def _query(link: str) -> str:
    return link.rpartition("?")[2].partition("#")[0]


def _linked(bench: Workbench, query: str, pool: str, rows: int | None) -> tuple[Settings, int]:
    if pool not in bench.pools:
        raise MergeError("A link is of a pool that ships: write a merge of your own adapters as /methods shows it.")
    link = dict(parse_qsl(query))
    if link.get("pool", pool) != pool:
        raise MergeError(f"The link is of another pool than {pool}: name one of them.")
    read = from_query(query if "pool" in link else f"pool={pool}&{query}", bench)
    assert read is not None  # it names a pool
    return read[0], rows or read[1]


# -- what is asked -----------------------------------------------------------------------------------------------------


def inspected(adapters: Sequence[Adapter], unusable: Sequence[Brought] = ()) -> Plain:
    """Return whether adapters fit together, why not, what hurts, and a row per adapter and module.

    Parameters
    ----------
    unusable : of the shelf, with their problems
    """
    report = compatibility(adapters) if adapters or not unusable else None
    problems = [f"{one.name}: {one.problem}" for one in unusable] + (report.problems if report else [])
    return {
        "ok": not problems,
        "problems": problems,
        "warnings": report.warnings if report else [],
        "adapters": _records(report.adapters) if report else [],
        "modules": _records(report.modules) if report else [],
    }


def _records(frame: pd.DataFrame) -> list[Plain]:
    """Return a frame's rows; what is not a number is None."""
    rows: list[Plain] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


def evaluated(bench: Workbench, stream: Stream, settings: Settings, rows: int) -> Iterator[Progress | Plain]:
    """Evaluate a merge: yields how far the work before it is, then what is known so far; closing stops it.

    Parameters
    ----------
    stream : as `Workbench.evaluate`, on plain values
    """
    found = {one.task: one for one in bench.known(settings, rows)}
    if found:
        yield _accuracy(bench, settings, found)
        return
    with closing(stream(settings.to_dict(), rows)) as steps:  # type: ignore[type-var]
        for step in steps:
            if isinstance(step, Progress):
                yield step
                continue
            found[step.task] = step
            yield _accuracy(bench, settings, found)


def _accuracy(bench: Workbench, settings: Settings, found: Mapping[str, Estimate]) -> Plain:
    """Return the accuracies so far; average and gap once all rows are evaluated, the gap where it is known."""
    pool = settings.pool
    finished = len(found) == len(bench.tasks(pool)) and all(one.done == one.total for one in found.values())
    marks = {task: as_values(one.marks) for task, one in found.items()}
    base, alone = _ends(bench, pool, found)
    gap = gap_recovered(base, alone, marks) if finished and base else None
    tasks = [
        {
            "task": task,
            "title": bench.title(task),
            "accuracy": one.accuracy,
            "low": one.interval[0],
            "high": one.interval[1],
            "rows": one.done,
            "of": one.total,
            "base": float(base[task].mean()) if base else None,
            "alone": float(alone[task].mean()) if alone else None,
        }
        for task, one in found.items()
    ]
    return {
        "merge": settings.spec.words(),
        "finished": finished,
        "tasks": tasks,
        "average": _interval(average(marks)) if finished else None,
        "gap_recovered": _interval((gap.mean, gap.low, gap.high)) if gap and gap.tasks else None,
    }


def _ends(bench: Workbench, pool: str, found: Mapping[str, Estimate]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the marks of the base and of the adapters alone on the rows evaluated: {task: marks}; nothing for a
    stranger's adapters, whose own record nobody has checked.
    """
    if pool not in bench.pools:
        return {}, {}
    rows = [row for row in bench.references(pool).itertuples() if row.task in found]
    base = {str(row.task): as_values(row.base_marks[: found[row.task].total]) for row in rows}
    return base, {str(row.task): as_values(row.single_marks[: found[row.task].total]) for row in rows}


def _interval(values: tuple[float, float, float]) -> Plain:
    return dict(zip(("value", "low", "high"), values, strict=True))


def predicted(
    ground: Playground, settings: Settings, texts: Sequence[str], task: str = ""
) -> Iterator[Progress | list[Plain]]:
    """Answer texts by the base, each task's own adapter and the merge: yields how far it is, at last a row per answer.

    Parameters
    ----------
    task : whose question is answered; "" = all of them

    Raises
    ------
    MergeError
        As `texts_of` and `Playground.said`, for an empty text and for a task that the pool does not have.
    """
    lines = [" ".join(text.split()) for text in texts]
    if "" in lines:
        raise MergeError(f"Text {lines.index('') + 1} is empty: leave it out.")
    read = texts_of("\n".join(lines))
    tasks = ground.workbench.tasks(settings.pool)
    if task and task not in tasks:
        raise MergeError(f"task = {task[:40]!r} is not one of {', '.join(tasks)}.")
    yield from ground.ready(settings)
    best = winners(ground.said(settings.pool, read, {"base": None, "own": None, "merge": settings}))
    best = best[best.task == task] if task else best
    yield _records(best.assign(text=[read[place] for place in best.text]))
