"""``mergescope tune``: the best merge that a search finds on validation rows, measured once on test rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MergeError
from ..io.whole import whole_file
from .adapters import loaded
from .options import Base, Output
from .recipes import evaluate_recipe, features_of, opened

if TYPE_CHECKING:
    from ..adapters.adapter import Adapter
    from ..tuning.goal import Goal
    from ..tuning.search import Candidate


def tune_merge(
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Adapters (folders, zip files or hub ids) of tasks that come with texts.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="A shipped pool instead of adapters.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Candidates of the whole study; 60 unless seconds are given.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Begin no candidate after so many seconds.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Validation rows per task.")] = 100,
    test_rows: Annotated[int, typer.Option(min=1, help="Test rows per task, for the winner alone.")] = 200,
    goal: Annotated[str, typer.Option(help="What to maximise: average, worst (task) or gap (recovered).")] = "average",
    task_weight: Annotated[
        list[str] | None, typer.Option(help="How much a task counts in the average, task=2; the others 1.")
    ] = None,
    vary: Annotated[
        str, typer.Option(help="What may vary, with commas: method, params, plugins, weights.")
    ] = "method,params,plugins",
    method: Annotated[list[str] | None, typer.Option(help="Only these methods.")] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Also methods and plug-ins that look at unlabelled texts.")
    ] = False,
    task_identity: Annotated[
        bool, typer.Option("--task-identity", help="Also methods that must be told the task of an input.")
    ] = False,
    rank: Annotated[int | None, typer.Option(min=1, help="Result: one adapter of at most this rank.")] = None,
    seed: Annotated[int, typer.Option(help="Of the search and of random masks.")] = 0,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Where the study is kept, so that it goes on later and other processes can join: a file (SQLite; "
            ".log = a journal) or a database's URL."
        ),
    ] = None,
    study: Annotated[str, typer.Option(help="Name of the study in the storage.")] = "tune",
    base: Base = None,
    output: Output = Path("out"),
) -> None:
    """Search for the best merge by measured accuracy and write it, with a table of all that was tried."""
    from ..engine import merge_spec
    from ..evaluation.accuracy import encode_task
    from ..experiments.sweep import read_table, tuned_specs
    from ..io.assets import assets_folder
    from ..recipes.recipe import Recipe, TunedEntry
    from ..recipes.spec import MergeSpec
    from ..shipped import load_pool
    from ..tasks.task import Task
    from ..tuning.importance import choices, importances
    from ..tuning.search import Search
    from ..tuning.space import Space

    if bool(pool) == bool(inputs):
        raise MergeError("Name adapters, or a shipped pool with --pool.")
    adapters = load_pool(pool) if pool else loaded(inputs or [], base)
    start = MergeSpec.of((method or ["task_arithmetic"])[0], seed=seed)
    groups = frozenset(part.strip() for part in vary.split(",") if part.strip())
    space = Space(groups, start, tuple(method or ()), texts, task_identity, rank)
    model, tokenizer = opened(adapters, base)
    tasks = [encode_task(tokenizer, Task.load(adapter.task), "validation", rows) for adapter in adapters]
    search = Search(
        model,
        tokenizer,
        adapters,
        tasks,
        space,
        _goal(goal, task_weight, model, tokenizer, adapters, tasks),
        seed,
        features_of(adapters, base, start.k) if texts else None,
        tuned_specs(read_table(assets_folder() / "tables" / f"sweep_{pool}.csv")),  # of no pool there is none
        storage=storage,
        name=study,
    )
    for found in search.run(trials or (None if seconds else 60), seconds):
        print(_line(found), flush=True)
    best = search.best
    if best is None or best.spec is None:
        raise MergeError("No candidate was measured on all rows: give the search more seconds or trials.")
    merged = merge_spec(adapters, best.spec, search.features)
    rank = rank or (None if merged.method.low_rank else max(min(shape) for shape in merged.shapes.values()))
    tuned = TunedEntry(study=study, trial=best.number, seed=seed)
    print(merged.save(output, rank, tuned=tuned))
    with whole_file(Path(output) / "trials.csv") as fresh:
        search.table().to_csv(fresh, index=False)
    made = choices(search.candidates, [adapter.name for adapter in adapters])
    with whole_file(Path(output) / "choices.csv") as fresh:
        made.to_csv(fresh, index=False)
    if mattered := [f"{row.choice} {row.importance:.0%}" for row in importances(made).itertuples()]:
        print(f"of the differences in value follow: {', '.join(mattered)}")
    print(f"trial {best.number}, the best of {len(search.table())}: {best.spec.words()}")
    print(
        f"{best.average:.3f} on validation, which is optimistic, since it was chosen there; on test rows, which the "
        "search did not see:",
        flush=True,
    )
    for line in evaluate_recipe(Recipe.of(best.spec, adapters, rank), "test", test_rows, base):
        print(line, flush=True)


def _line(found: Candidate) -> str:
    words = found.spec.words() if found.spec else ""
    numbers = f"average {found.average:.3f}, worst {found.worst:.3f}, {found.rows:5} rows, {found.seconds:5.1f} s"
    return f"{found.number:4} {found.state:9} {numbers}  {words}"


def _goal(
    kind: str, task_weight: list[str] | None, model: Any, tokenizer: Any, adapters: list[Adapter], tasks: list[Any]
) -> Goal:
    from ..experiments.sweep import measure_ends, unpacked
    from ..tuning.goal import Goal, as_marks

    importance = {}
    for text in task_weight or ():
        task, _, number = text.partition("=")
        try:
            importance[task] = float(number)
        except ValueError as error:
            raise MergeError(f"--task-weight {text!r} is not task=number.") from error
        if task not in [one.name for one in tasks]:
            raise MergeError(f"--task-weight {text!r}: there is no task {task!r} among the adapters.")
    ends: list[Any] = [None, None]
    if kind == "gap":
        frames = measure_ends(model, tokenizer, adapters, tasks)
        ends = [as_marks({row.task: unpacked(row) for row in frame.itertuples()}) for frame in frames]
    return Goal.of(kind, [task.name for task in tasks], importance, *ends)
