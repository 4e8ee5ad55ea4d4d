"""``mergescope experiment``, ``correlations`` and ``results``: how every shipped table and number is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import MergeError


def run_experiment(
    name: Annotated[
        str,
        typer.Argument(
            help="osrm: how much of its gain is scale, an own A, the data; bank: what goes with the gap recovered; "
            "do: DO-Merging's figures, beside full fine-tunes."
        ),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Few tasks and few steps: every file of the full one, no conclusions.")
    ] = False,
    repetition: Annotated[
        list[int] | None,
        typer.Option(help="Only these repetitions, from 0; processes started together share the work anyway."),
    ] = None,
    adapters: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the trained adapters, none = in the user's cache; for bank of the pools, none = the "
            "shipped ones."
        ),
    ] = None,
    pools: Annotated[
        Path | None, typer.Option(help="osrm, do: folder of the shipped pools; none = assets/adapters.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the tables; none = assets/tables, for --quick in the cache."),
    ] = None,
    training: Annotated[
        bool, typer.Option(help="For do: --no-training does only what the pools are enough for.")
    ] = True,
) -> None:
    """Train, merge and compare as the shipped tables were made. Resumable: what exists is not made again."""
    if name == "do":
        _do_experiment(quick, adapters, output, pools, training)
        return
    if name == "bank":
        _fill_bank(adapters, output, quick)
        return
    if name != "osrm":
        raise MergeError(f"Unknown experiment {name!r}: there are osrm, bank and do.")
    from ..experiments.osrm import OsrmExperiment
    from ..experiments.osrm_plan import QUICK, Experiment
    from ..experiments.tables import markdown_osrm
    from ..io.assets import assets_folder
    from ..io.wheels import cache_dir
    from ..models.load import load_base

    chosen = QUICK if quick else Experiment()
    if repetition:
        chosen = replace(chosen, repetitions=tuple(repetition))
    model, tokenizer = load_base("minilm")
    folder = adapters or cache_dir() / "experiments" / ("osrm_quick" if quick else "osrm")
    tables = output or (folder / "tables" if quick else assets_folder() / "tables")
    run = OsrmExperiment(model, tokenizer, chosen, folder, tables, pools)
    for line in run.everything():
        print(line, flush=True)
    print(markdown_osrm(tables))


def _do_experiment(quick: bool, adapters: Path | None, output: Path | None, pools: Path | None, training: bool) -> None:
    from ..experiments.do import DoExperiment
    from ..experiments.do_pieces.markdown import markdown_do
    from ..experiments.do_pieces.plan import QUICK, Plan
    from ..io.assets import assets_folder
    from ..io.wheels import cache_dir
    from ..models.load import load_base

    folder = adapters or cache_dir() / "experiments" / ("do_quick" if quick else "do")
    tables = output or (folder / "tables" if quick else assets_folder() / "tables")
    model, tokenizer = load_base("minilm")
    for line in DoExperiment(model, tokenizer, QUICK if quick else Plan(), folder, tables, pools).everything(training):
        print(line, flush=True)
    print(markdown_do(tables))


def _fill_bank(adapters: Path | None, output: Path | None, quick: bool) -> None:
    from ..experiments.bank import ROWS, SIZE, Bank
    from ..experiments.correlations import markdown, read_bank, write_correlations
    from ..io.assets import assets_folder
    from ..io.wheels import cache_dir
    from ..models.load import load_base

    tables = output or (cache_dir() / "experiments" / "bank_quick" if quick else assets_folder() / "tables")
    size, rows = (12, 8) if quick else (SIZE, ROWS)
    bank = Bank(None, None, tables, adapters, rows)
    if bank.missing(size):
        bank.model, bank.tokenizer = load_base("minilm")
        for line in bank.fill(size):
            print(line, flush=True)
    if left := len(bank.missing(size)):
        print(f"{left} of {size} merges are left: the same command goes on with them.")
    else:
        path = bank.ledger.path("merges")
        print(markdown(write_correlations(path), read_bank(path)))


def print_correlations(
    bank: Annotated[
        Path | None, typer.Argument(help="A bank_merges.csv of `mergescope experiment bank`; none = the shipped one.")
    ] = None,
) -> None:
    """Print which diagnostics go with the gap that merges recover, and write it beside the bank as correlations.csv."""
    from ..experiments.correlations import markdown, read_bank, write_correlations
    from ..io.assets import assets_folder

    path = bank or assets_folder() / "tables" / "bank_merges.csv"
    print(markdown(write_correlations(path), read_bank(path)))


def write_results(
    files: Annotated[list[Path] | None, typer.Argument(help="Files; none = README.md and assets/results.md.")] = None,
) -> None:
    """Write every number of the README and of assets/results.md anew, from the tables that ship."""
    from ..experiments.results import refreshed
    from ..io.assets import assets_folder

    folder = assets_folder()
    for path in files or [folder.parent / "README.md", folder / "results.md"]:
        path.write_text(refreshed(path.read_text(encoding="utf-8"), folder / "tables"), encoding="utf-8")
        print(path)
