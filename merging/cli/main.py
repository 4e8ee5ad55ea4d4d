"""The command line: the same functions as the app's, from a shell. Errors are one sentence on stderr."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from ..errors import MergeError
from .adapters import loaded, say_warnings
from .plugins import decouple_of, orthogonalize_of, own_plugins
from .recipes import (
    evaluate_recipe,
    features_of,
    needs_data,
    opened,
    recipe_features,
    recipe_of,
    refuse_contradictions,
    sweep_recipe,
)

# Before torch is imported: a waiting OpenMP thread must not spin, which makes small matrices ten times slower on a busy
# machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class Commands(TyperGroup):
    """The commands; ``merge`` gets the methods' options, for which torch is imported, only when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called."""
        if args and args[0] == "merge":
            whole = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            whole.command("merge")(_with_method_options(_merge))
            self.commands["merge"] = typer.main.get_command(whole)
        return super().resolve_command(ctx, args)


cli = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Merge LoRA adapters and see why it hurts.",
)

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="Base model: minilm or smollm2 (embedded), a folder, or a hub id; none = what the adapters record."
    ),
]


def main() -> None:
    """Run the command line; a `MergeError` becomes one sentence on stderr and exit code 1."""
    try:
        cli()
    except MergeError as error:
        print(f"mergescope: {error}", file=sys.stderr)
        sys.exit(1)


@cli.command()
def app(
    base: Annotated[
        list[str] | None, typer.Option(help="Folder with a base model that visitors may choose; may be given again.")
    ] = None,
) -> None:
    """Start the app in the browser."""
    from app import main as start

    start(base or ())


@cli.command()
def train(
    context: typer.Context,
    task: Annotated[
        str | None, typer.Option(help="One task: trec, sms_spam, movie, bbc, tweets3, newspaper, amazon, tweets2.")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(help="A whole pool: papers, osrm, default, unequal, easy or smollm2; skips what exists."),
    ] = None,
    init: Annotated[str, typer.Option(help="Initialisation of A: default, gaussian, orthonormal or osrm.")] = "default",
    row_norm: Annotated[
        str | None, typer.Option(help="Length of A's rows at the start: a number, or gaussian for sqrt(in) / rank.")
    ] = None,
    head: Annotated[
        str, typer.Option(help="Where the classifier starts: scratch, or probe (logistic regression on the base).")
    ] = "scratch",
    rank: Annotated[int, typer.Option(min=1)] = 8,
    alpha: Annotated[float, typer.Option(help="LoRA alpha; the scaling is alpha / rank.")] = 16.0,
    k: Annotated[int, typer.Option(min=1, help="Texts per task for OSRM's second moments.")] = 100,
    pooling: Annotated[
        str, typer.Option(help="Of these moments: token, mean, task_mean, or official (OSRM as released).")
    ] = "token",
    seed: Annotated[int, typer.Option(help="Of A and of the order of the rows.")] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    rows: Annotated[int, typer.Option(min=1, help="Training rows at most.")] = 10_000,
    validation_rows: Annotated[int, typer.Option(min=1, help="Validation rows at most.")] = 10_000,
    max_length: Annotated[int | None, typer.Option(min=1, help="Cut texts below the task's own limit.")] = None,
    modules: Annotated[
        str | None,
        typer.Option(help="Target modules, comma separated; empty = as PEFT picks them (query and value in BERT)."),
    ] = None,
    freeze_a: Annotated[bool, typer.Option(help="Train B only.")] = False,
    bf16: Annotated[
        bool | None,
        typer.Option("--bf16/--no-bf16", help="Compute in bfloat16 where it does no harm; none = on a GPU."),
    ] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Epochs, comma separated, after which the adapter is written to epoch-N as well.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model: minilm or smollm2 (embedded), a folder, or a hub id; None = minilm, or the pool's."
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option(help="Let a language model write the label, instead of a classifier on pooled states.")
    ] = False,
    output: Output = Path("out"),
) -> None:
    """Fine-tune one adapter (--task) or a whole pool (--pool), as the shipped ones were made."""
    from ..evaluation.verbalisers import default_verbaliser
    from ..models.load import load_base, load_language_model
    from ..shipped import check_pool, train_command, train_pool, train_task
    from ..tasks.task import Task
    from ..training.trainer import Progress, TrainingSettings

    if (task is None) == (pool is None):
        raise MergeError("Say either --task or --pool.")

    def report(name: str, progress: Progress) -> None:
        if progress.validation is not None and progress.checkpoint is None:
            print(
                f"{name}: epoch {progress.epoch + 1}, validation accuracy {progress.validation:.3f}, "
                f"{progress.seconds:.0f} s",
                flush=True,
            )

    if pool is not None:
        spec = check_pool(pool)
        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
        if extra := sorted(given - {"pool", "output"}):
            raise MergeError(
                f"The pool {pool} decides on its training itself: leave out --{extra[0].replace('_', '-')}."
            )
        model, tokenizer = (load_language_model if spec.words else load_base)(spec.base)
        for folder in train_pool(model, tokenizer, spec, output, report):
            print(folder)
        return
    named = "query,value" if modules is None and base in (None, "minilm") else modules or ""
    settings = TrainingSettings(
        init=init,
        row_norm=_row_norm(row_norm),
        head=head,
        rank=rank,
        alpha=alpha,
        seed=seed,
        k=k,
        pooling=pooling,
        epochs=epochs,
        learning_rate=lr,
        batch_size=batch_size,
        rows=rows,
        validation_rows=validation_rows,
        max_length=max_length,
        bf16=bf16,
        freeze_A=freeze_a,
        modules=tuple(filter(None, named.split(","))),
        checkpoints=_numbers(checkpoints),
    )
    assert task is not None
    chosen, source = Task.load(task), base or "minilm"
    model, tokenizer = (load_language_model if words else load_base)(source)
    written = default_verbaliser(task, chosen.description, chosen.labels) if words else None
    command = train_command(task, settings, source, words)
    for progress in train_task(model, tokenizer, chosen, settings, output, command=command, head=written):
        if progress.adapter is None:
            report(task, progress)
    print(output)


def _row_norm(text: str | None) -> float | Literal["gaussian"] | None:
    if text is None or text == "gaussian":
        return text  # type: ignore[return-value]
    try:
        return float(text)
    except ValueError as error:
        raise MergeError(f"--row-norm {text!r} is neither a number nor gaussian.") from error


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise MergeError(f"--checkpoints {text!r} is no list of whole numbers, such as 1,3,10.") from error


def inspect_adapters(
    folders: Annotated[
        list[str], typer.Argument(help="Adapters (folders, zip files or hub ids), or one recipe.yaml for its own.")
    ],
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained HTML file with figures.")] = None,
    base: Base = None,
) -> None:
    """Print what the adapters are, whether they fit together, and a line per module."""
    from ..diagnostics.compatibility import compatibility

    recipe = recipe_of(folders)
    adapters = loaded(folders, base) if recipe is None else recipe.load_adapters()
    report = compatibility(adapters)
    if html is not None:
        _write_report(html, adapters, report)
    for row in report.adapters.itertuples():
        missing = f", {row.missing} missing" if row.missing else ""
        unusual = f", unusual targets {row.unusual}" if row.unusual else ""
        prefix = f", prefix {row.prefix}" if row.prefix else ""
        relative = "" if math.isnan(row.relative_norm) else f" ({row.relative_norm:.1%} of the base's weights)"
        print(
            f"{row.adapter}: task {row.task}, base {row.base or 'unknown'}, rank {row.rank}, {row.modules} "
            f"modules{missing}{unusual}, norm {row.norm:.4g}{relative}, {row.head}{prefix}"
        )
    print("compatible" if report.ok else "not compatible")
    for kind, lines in (("problem", report.problems), ("warning", report.warnings)):
        for line in lines:
            print(f"{kind}: {line}")
    print(report.modules.to_string(index=False, float_format="{:.4g}".format))


def _write_report(path: Path, adapters: list[Any], report: Any) -> None:
    from viz.report import Inspection, html_report

    from ..adapters.adapter import number_equal_names
    from ..diagnostics import measures

    if report.problems:
        raise MergeError(f"No report was written, since these adapters do not belong together: {report.problems[0]}")
    named = number_equal_names(adapters)
    overlaps = {side: measures.subspace_overlap(named, side) for side in ("A", "B")}
    inspection = Inspection(
        adapters=report.adapters,
        modules=report.modules,
        problems=report.problems,
        warnings=report.warnings,
        columns=measures.log_column_norms(named),
        magnitude_variance=measures.magnitude_variance(named),
        cosines=measures.cosines(named),
        signs=measures.sign_conflict(named),
        spectra=measures.spectra(named),
        overlaps=overlaps,
        chance={side: measures.chance_overlap(named, side) for side in overlaps},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html_report(inspection), encoding="utf-8")


@cli.command()
def methods(name: Annotated[str | None, typer.Argument(help="A method; none = a list.")] = None) -> None:
    """List the merging methods, or show one method's page."""
    from ..methods import METHODS

    if name is None:
        for method in METHODS.values():
            print(f"{method.name:16} {method.title} ({method.paper})")
        return
    if name not in METHODS:
        raise MergeError(f"Unknown method {name!r}: choose one of {', '.join(METHODS)}.")
    method = METHODS[name]
    print(f"{method.title}\n\n{method.doc}")
    for line in own_plugins(method):
        print(f"\n{line}")
    for param in method.params:
        print(f"\n--{param.name.replace('_', '-')} ({param.label}, default {param.default}): {param.help}")


@cli.command()
def evaluate(
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


@cli.command()
def sweep(
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


@cli.command()
def results(
    files: Annotated[list[Path] | None, typer.Argument(help="Files; none = README.md and assets/results.md.")] = None,
) -> None:
    """Write every number of the README and of assets/results.md anew, from the tables that ship."""
    from ..experiments.results import refreshed
    from ..io.assets import assets_folder

    folder = assets_folder()
    for path in files or [folder.parent / "README.md", folder / "results.md"]:
        path.write_text(refreshed(path.read_text(encoding="utf-8"), folder / "tables"), encoding="utf-8")
        print(path)


@cli.command()
def experiment(
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
    from ..experiments.osrm import QUICK, Experiment, OsrmExperiment
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


@cli.command()
def correlations(
    bank: Annotated[
        Path | None, typer.Argument(help="A bank_merges.csv of `mergescope experiment bank`; none = the shipped one.")
    ] = None,
) -> None:
    """Print which diagnostics go with the gap that merges recover, and write it beside the bank as correlations.csv."""
    from ..experiments.correlations import markdown, read_bank, write_correlations
    from ..io.assets import assets_folder

    path = bank or assets_folder() / "tables" / "bank_merges.csv"
    print(markdown(write_correlations(path), read_bank(path)))


def _merge(
    inputs: Annotated[list[str], typer.Argument(help="Adapters (folders, zip files or hub ids), or one recipe.yaml.")],
    output: Output,
    method: Annotated[str | None, typer.Option(help="Merging method, see `mergescope methods`.")] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="Weight of each adapter, in order; repeat the option. A number, or patterns: '*.layer.0.*=0.5,*=1'."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of random masks; 0 unless given.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter; needed by dense methods.")] = None,
    head: Annotated[str | None, typer.Option(help="Task whose head goes into the file.")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Architecture prefix to write, such as bert. (a dot at its end).")
    ] = None,
    soft_osrm: Annotated[float | None, typer.Option(help="Soft OSRM's mu; off unless given.")] = None,
    orthogonalize: Annotated[
        str | None, typer.Option(help="off, balanced or raw; the method's own unless given.")
    ] = None,
    penalty: Annotated[float | None, typer.Option(help="Orthogonalize's penalty g.")] = None,
    decouple: Annotated[float | None, typer.Option(help="Decouple's strength, 0 to 1.")] = None,
    granularity: Annotated[str | None, typer.Option(help="Decouple: one magnitude per column or per module.")] = None,
    max_up: Annotated[
        float | None, typer.Option(help="Decouple: amplify at most so many times; no limit unless given.")
    ] = None,
    renormalise: Annotated[
        bool | None,
        typer.Option(
            "--renormalise/--no-renormalise", help="Decouple: bring the sum of the directions to length 1 first."
        ),
    ] = None,
    full_model: Annotated[
        bool, typer.Option("--full-model", help="Write the whole base with the merge in its weights.")
    ] = False,
    base: Base = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the numbers: float32, bfloat16, float16 or parents; none = float32, a full model's as its "
            "base's."
        ),
    ] = None,
    **params: Any,
) -> None:
    """Merge adapters (or do what a recipe says) and write a PEFT adapter, or with --full-model the whole model."""
    given = {name: value for name, value in params.items() if value is not None}
    if full_model and (rank is not None or prefix is not None):
        raise MergeError("--rank and --prefix are of adapters: leave them out with --full-model.")
    if (recipe := recipe_of(inputs)) is not None:
        options = {
            "method": method,
            "weight": [_weight(text) for text in weight or ()],
            "seed": seed,
            "rank": rank,
            "head": head,
            "prefix": prefix,
            "soft_osrm": soft_osrm,
            "orthogonalize": orthogonalize,
            "penalty": penalty,
            "decouple": decouple,
            "granularity": granularity,
            "max_up": max_up,
            "renormalise": renormalise,
            "dtype": dtype,
        }
        refuse_contradictions(recipe, options | given)
        _merge_recipe(recipe, output, base, full_model)
        return
    if method is None:
        raise MergeError("Say how to merge with --method; `mergescope methods` lists them.")
    from ..engine import merge

    ortho = orthogonalize_of(method, orthogonalize, penalty)
    magnitude = decouple_of(method, decouple, granularity, max_up, renormalise)
    adapters = loaded(inputs, base)
    features = None
    if soft_osrm is not None or needs_data(method):
        features = features_of(adapters, base)
    merged = merge(
        adapters,
        method,
        weights=[_weight(text) for text in weight] if weight else None,
        seed=seed or 0,
        features=features,
        soft_osrm=soft_osrm,
        orthogonalize=ortho,
        decouple=magnitude,
        **given,
    )
    if full_model:
        _save_full_model(merged, base, output, head, dtype)
    else:
        _report_saved(merged, merged.save(output, rank=rank, head=head, prefix=prefix, dtype=dtype or "float32"))


def _weight(text: str) -> float | dict[str, float]:
    """Read ``0.5`` or ``pattern=0.5,pattern=1``."""
    try:
        if "=" not in text:
            return float(text)
        return {pattern: float(value) for pattern, _, value in (part.rpartition("=") for part in text.split(","))}
    except ValueError as error:
        raise MergeError(f"--weight {text!r} is neither a number nor pattern=number,pattern=number.") from error


def _save_full_model(merged: Any, base: str | None, output: Path, head: str | None, dtype: str | None = None) -> None:
    from ..adapters.same_base import used_base
    from ..export.full_model import save_full_model
    from ..models.embedded import base_name
    from ..models.shared import base_of

    source = base_of(merged.adapters, base)
    print(save_full_model(merged, source, output, dtype, head=head))
    say_warnings(merged.adapters)
    used = str(Path(source).resolve()) if Path(source).is_dir() else base_name(source)
    if not merged.adapters[0].base_vouched and (doubtful := used_base(merged.adapters, used)[1]):
        print(f"warning: {doubtful}", file=sys.stderr)
    print("exact", file=sys.stderr)


def _merge_recipe(recipe: Any, output: Path, base: str | None, full_model: bool) -> None:
    from ..engine import merge_recipe

    merged = merge_recipe(recipe, recipe_features(recipe, base))
    if full_model:
        _save_full_model(merged, base, output, recipe.head, recipe.dtype)
    else:
        options = {
            "rank": recipe.rank,
            "head": recipe.head,
            "prefix": recipe.prefix,
            "dtype": recipe.dtype or "float32",
        }
        _report_saved(merged, merged.save(output, **options))


def _report_saved(merged: Any, folder: Path) -> None:
    """Print where the merge is and, on stderr, what one should know of the adapters and what its rank lost."""
    from ..adapters.adapter import Adapter
    from ..recipes.card import fidelity

    print(folder)
    say_warnings(merged.adapters)
    print(fidelity(Adapter.load(folder)), file=sys.stderr)


def _with_method_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give ``merge`` an option for every parameter that any method has; several methods may share one."""
    from ..methods import METHODS

    signature = inspect.signature(function, eval_str=True)
    known = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options: dict[str, inspect.Parameter] = {}
    for method in METHODS.values():
        for param in method.params:
            kind: Any = (
                str if param.choices else bool if isinstance(param.default, bool) else int if param.integer else float
            )
            annotation = Annotated[
                kind | None, typer.Option(f"--{param.name.replace('_', '-')}", help=f"{param.label}. {param.help}")
            ]
            options.setdefault(
                param.name,
                inspect.Parameter(param.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation),
            )
    parameters = [*known, *(option for name, option in options.items() if name not in signature.parameters)]
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


cli.command("inspect")(inspect_adapters)
cli.command("merge", help=_merge.__doc__)(lambda: None)  # `Commands` puts the real one in its place
