"""The search for a pool's best merge, and for one merge's best λ, as the Merge tab asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from ..engine import merge_spec, plugged
from ..errors import MergeError
from ..evaluation.accuracy import EncodedTask
from ..experiments.sweep import SCALINGS, as_rows, measure, measure_ends, read_table, tuned_specs, unpacked
from ..features.progress import Progress
from ..models.layers import working_copy
from ..recipes.spec import MergeSpec
from ..tuning.goal import Goal, as_marks
from ..tuning.search import Candidate, Search
from ..tuning.space import Space
from .settings import Settings
from .workbench import NO_TEXTS, Workbench


@dataclass(frozen=True)
class TunePlan:
    """What a visitor asks a search for; plain values, which can cross a process boundary.

    Attributes
    ----------
    goal : one of `merging.tuning.goal.KINDS`
    seconds, rows : begin no candidate after so many seconds; validation rows per task
    groups, texts, task_identity, rank : see `merging.tuning.space.Space`
    """

    pool: str
    start: MergeSpec
    goal: str = "average"
    seconds: float = 60.0
    rows: int = 100
    groups: tuple[str, ...] = ("method", "params", "plugins")
    texts: bool = False
    task_identity: bool = False
    rank: int | None = None
    seed: int = 0


def tune(bench: Workbench, plan: TunePlan, stop: Callable[[], bool] = lambda: False) -> Iterator[Progress | Candidate]:
    """Yield how far the reading of texts is, then one candidate after the other; see `merging.tuning.search.Search`.

    Raises
    ------
    MergeError
        If the pool has no tasks, a task no validation rows, or the plan leaves nothing to choose from.
    """
    adapters, settings = bench.adapters(plan.pool), Settings(plan.pool, plan.start)
    space = Space(frozenset(plan.groups), plan.start, (), plan.texts, plan.task_identity, plan.rank)
    tasks = _validation_rows(bench, plan.pool, plan.rows)
    if plan.texts or plan.start.needs_data:
        yield from bench.read_moments(settings)
    base, tokenizer = bench.base(*bench.base_of(plan.pool))
    model = working_copy(base, bench.modules(plan.pool))
    ends = []
    if plan.goal == "gap":
        for done, frame in enumerate(measure_ends(model, tokenizer, adapters, tasks), 1):
            yield Progress("measuring", done, 2)
            ends.append(as_marks({str(row.task): unpacked(row) for row in frame.itertuples()}))
    features = bench.texts(plan.pool, plan.start.k) if plan.texts or plan.start.needs_data else None
    tuned = tuned_specs(read_table(bench.tables / f"sweep_{plan.pool}.csv"))
    goal = Goal.of(plan.goal, [task.name for task in tasks], None, *ends)
    search = Search(model, tokenizer, adapters, tasks, space, goal, plan.seed, features, tuned)
    yield from search.run(seconds=plan.seconds, stop=stop)


def sweep_scaling(bench: Workbench, settings: Settings, rows: int) -> Iterator[Progress | pd.DataFrame]:
    """Measure a merge over λ on validation rows, everything else as it stands.

    Yields how far it is, and a table as `merging.experiments.sweep.as_rows` makes it per λ; where no sweep of the pool
    ships, first one for the base and one for the adapters alone.

    Raises
    ------
    MergeError
        If the method has no λ, the pool has no tasks or a task no validation rows.
    """
    spec, pool = settings.spec, settings.pool
    if spec.scaling is None:
        raise MergeError(f"{spec.method} has no scaling to tune.")
    tasks, adapters = _validation_rows(bench, pool, rows), bench.adapters(pool)
    if spec.needs_data:
        yield from bench.read_moments(settings)
    base, tokenizer = bench.base(*bench.base_of(pool))
    model = working_copy(base, bench.modules(pool))
    features = bench.texts(pool, spec.k) if spec.needs_data else None
    if bench.sweep(pool).empty:
        yield from measure_ends(model, tokenizer, adapters, tasks)
    updates = plugged(adapters, spec, features)
    for done, scaling in enumerate(SCALINGS):
        yield Progress("λ is tuned", done, len(SCALINGS))
        merged = merge_spec(adapters, spec.with_params(scaling=scaling), features, updates=updates)
        yield as_rows(measure(model, tokenizer, merged, tasks), spec.method, scaling)


def _validation_rows(bench: Workbench, pool: str, rows: int) -> list[EncodedTask]:
    """Return the first rows of every task of a pool; MergeError where there are none."""
    if not bench.measured(pool):
        raise MergeError(f"A search {NO_TEXTS}")
    tasks = [bench.encoded(pool, adapter.task, "validation").first(rows) for adapter in bench.adapters(pool)]
    empty = next((task.name for task in tasks if not len(task.labels)), None)
    if empty is not None:
        raise MergeError(
            f"{bench.title(empty)} has no validation rows, on which a search measures: add some to its file."
        )
    return tasks
