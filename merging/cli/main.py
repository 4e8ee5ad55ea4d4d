"""The command line: the same functions as the app's, from a shell. Errors are one sentence on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import MergeError
from .doctor import show_machine
from .evaluate import evaluate_adapters, sweep_scalings
from .experiments import print_correlations, run_experiment, write_results
from .inspection import inspect_adapters
from .merge import merge_adapters, show_methods, with_method_options
from .playground import show_broken, try_text
from .train import train_adapters
from .tune import tune_merge

# Before torch is imported: a waiting OpenMP thread must not spin, which makes small matrices ten times slower on a busy
# machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def start_app(
    base: Annotated[
        list[str] | None, typer.Option(help="Folder with a base model that visitors may choose; may be given again.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With the limits of a public server.")] = False,
) -> None:
    """Start the app in the browser."""
    if public:  # before anything reads the limits
        os.environ.setdefault("MERGESCOPE_PROFILE", "public")
    from app import main as start

    start(base or ())


COMMANDS: dict[str, Callable[..., None]] = {
    "app": start_app,
    "doctor": show_machine,
    "inspect": inspect_adapters,
    "merge": merge_adapters,
    "methods": show_methods,
    "evaluate": evaluate_adapters,
    "try": try_text,
    "broke": show_broken,
    "train": train_adapters,
    "tune": tune_merge,
    "sweep": sweep_scalings,
    "experiment": run_experiment,
    "correlations": print_correlations,
    "results": write_results,
}


class Commands(TyperGroup):
    """The commands; ``merge`` gets the methods' options, for which torch is imported, only when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is called."""
        if args and args[0] == "merge":
            whole = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            whole.command()(with_method_options(merge_adapters))
            self.commands["merge"] = typer.main.get_command(whole)
        return super().resolve_command(ctx, args)


cli = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Merge LoRA adapters and see why it hurts.",
)
for name, command in COMMANDS.items():
    # `Commands` puts the real merge in its place
    cli.command(name, help=command.__doc__)((lambda: None) if name == "merge" else command)


def main() -> None:
    """Run the command line; a `MergeError` becomes one sentence on stderr and exit code 1."""
    try:
        cli()
    except MergeError as error:
        print(f"mergescope: {error}", file=sys.stderr)
        sys.exit(1)
