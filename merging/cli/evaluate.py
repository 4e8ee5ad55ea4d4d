"""``mergescope evaluate`` and ``mergescope sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import MergeError
from .options import Base
from .recipes import evaluate_recipe, opened, recipe_of, sweep_recipe


def evaluate_adapters(
    folders: Annotated[
        list[str] | None,
        typer.Argument(help="Adapter folders, each evaluated on its own task, or one recipe.yaml: its merge."),
    ] = None,
    pool: Annotated[str | None, typer.Option(help="A shipped pool instead of folders.")] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    limit: Annotated[int | None, typer.Option("--rows", min=1, help="Rows per task; none = all.")] = None,
    base: Base = None,
) -> None:
    """Print each adapter's accuracy beside the base's and the logistic-regression probe's on the same training rows.

    With a recipe: the accuracy of its merge on each task, beside the adapter's alone and the base's.
    """
    if pool and folders:
        raise MergeError("Name adapter folders or a recipe, or a shipped pool with --pool, not both.")
    if (recipe := recipe_of(folders or ())) is not None:
        for line in evaluate_recipe(recipe, split, limit, base):
            print(line, flush=True)
        return
    from ..adapters.adapter import Adapter
    from ..shipped import load_pool, settings_of, test_accuracies
    from ..tasks.task import Task

    adapters = load_pool(pool) if pool else [Adapter.load(folder) for folder in folders or ()]
    if not adapters:
        raise MergeError("Name adapter folders, or a shipped pool with --pool.")
    model, tokenizer = opened(adapters, base)
    print(f"{'task':12} {'adapter':>8} {'probe':>8} {'base':>8}   ({split})")
    for adapter in adapters:
        rows = settings_of(adapter.metadata).rows
        found = test_accuracies(model, tokenizer, Task.load(adapter.task), adapter, rows, split, limit)
        print(
            f"{adapter.task:12} {found['adapter']:8.3f} {found.get('probe', float('nan')):8.3f} {found['base']:8.3f}",
            flush=True,
        )


def sweep_scalings(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe.yaml, whose merge is swept over its scaling; none = pools.")
    ] = None,
    pool: Annotated[list[str] | None, typer.Option(help="Shipped pools; none = those on all-MiniLM.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Methods, or all; none = those that every pool has.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Validation rows per task.")] = 100,
    test_rows: Annotated[int, typer.Option(min=1, help="Test rows per task for merges.")] = 200,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the tables; none = assets/tables.")
    ] = None,
    base: Base = None,
) -> None:
    """Measure accuracy against the scaling on validation, then on test at λ 0.3, 1 and the best.

    Resumable: what the tables hold already is not measured again. With a recipe only its own merge on validation, and a
    table only where -o says so.
    """
    if recipe is not None:
        _sweep_recipe(recipe, pool, method, rows, output, base)
        return
    from ..experiments.sweep import CONTENDERS, MAIN
    from ..experiments.tables import markdown_adapters, markdown_results, measure_pool, write_rank_curves
    from ..io.assets import assets_folder
    from ..shipped import POOLS, check_pool

    if method == ["all"]:
        method = list(dict.fromkeys((*MAIN, *CONTENDERS)))
    unknown = [name for name in method or () if name not in CONTENDERS]
    if unknown:
        raise MergeError(f"Unknown method {unknown[0]!r}: choose one of {', '.join(CONTENDERS)}.")

    folder = output or assets_folder() / "tables"
    for name in pool or POOLS:
        check_pool(name)
        for line in measure_pool(name, folder, method, rows, test_rows):
            print(line, flush=True)
    write_rank_curves(folder)
    print(f"{markdown_results(folder)}\n\n{markdown_adapters()}")


def _sweep_recipe(
    path: str, pool: list[str] | None, method: list[str] | None, rows: int, output: Path | None, base: str | None
) -> None:
    recipe = recipe_of([path])
    if recipe is None:
        raise MergeError(f"{path} is no recipe.yaml: write a merge first, or sweep shipped pools with --pool.")
    if pool or method:
        raise MergeError(
            f"--{'pool' if pool else 'method'} has no effect beside a recipe, which names its own: leave it out."
        )
    for line in sweep_recipe(recipe, rows, base, output and output / f"sweep_{Path(path).stem}.csv"):
        print(line, flush=True)
