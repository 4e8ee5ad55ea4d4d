"""``mergescope merge`` and ``mergescope methods``."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MergeError
from .adapters import loaded, loaded_alone, say_warnings
from .options import Base, given, option
from .plugins import decouple_of, orthogonalize_of, own_plugins
from .recipes import features_of, recipe_of, refuse_contradictions

if TYPE_CHECKING:
    from ..adapters.adapter import Adapter
    from ..merged import Merged
    from ..recipes.spec import MergeSpec

BESIDE_RECIPE = {"inputs", "output", "base", "full_model", "dry_run"}
"""What ``merge recipe.yaml`` takes whatever the recipe says."""


def merge_adapters(
    context: typer.Context,
    inputs: Annotated[list[str], typer.Argument(help="Adapters (folders, zip files or hub ids), or one recipe.yaml.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write.")] = None,
    method: Annotated[str | None, typer.Option(help="Merging method, see `mergescope methods`.")] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="Weight of each adapter, in order; repeat the option. A number, or patterns: '*.layer.0.*=0.5,*=1'."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of random masks; 0 unless given.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter; needed by dense methods.")] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="Task whose head goes into the file; repeat it, and the heads lie beside the merge."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Architecture prefix to write, such as bert. (a dot at its end).")
    ] = None,
    soft_osrm: Annotated[float | None, typer.Option(help="Soft OSRM's mu; off unless given.")] = None,
    orthogonalize: Annotated[
        str | None, typer.Option(help="off, balanced or raw; the method's own unless given.")
    ] = None,
    penalty: Annotated[float | None, typer.Option(help="Orthogonalize's penalty g.")] = None,
    pico: Annotated[
        bool | None, typer.Option("--pico/--no-pico", help="Damp the output directions that the adapters share.")
    ] = None,
    norm_cap: Annotated[
        float | None, typer.Option(help="Cap norms at so many MADs above their median; 3 as published.")
    ] = None,
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
    exact_svd: Annotated[
        bool,
        typer.Option("--exact-svd", help="With --rank: the best approximation of large dense results, in minutes."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would happen, module by module; nothing is written.")
    ] = False,
    **params: Any,
) -> None:
    """Merge adapters (or do what a recipe says) and write a PEFT adapter, or with --full-model the whole model."""
    from ..engine import merge_spec
    from ..recipes.spec import MergeSpec

    if full_model and (rank is not None or prefix is not None or exact_svd):
        raise MergeError("--rank, --exact-svd and --prefix are of adapters: leave them out with --full-model.")
    if output is None and not dry_run:
        raise MergeError("Say where to write with -o FOLDER, or add --dry-run to see what would be written.")
    if (recipe := recipe_of(inputs)) is not None:
        options = {name: value for name, value in given(context).items() if name not in BESIDE_RECIPE}
        if weight:
            options["weight"] = [_weight(text) for text in weight]
        refuse_contradictions(recipe, options)
        readers, spec = [partial(recipe.load_adapter, place) for place in range(len(recipe.adapters))], recipe.spec
        rank, prefix, dtype = recipe.rank, recipe.prefix, recipe.dtype
        head = [recipe.head] if isinstance(recipe.head, str) else recipe.head
        exact_svd = bool(recipe.exact_svd)
    elif method is None:
        raise MergeError("Say how to merge with --method; `mergescope methods` lists them.")
    else:
        ortho = orthogonalize_of(method, orthogonalize, penalty)
        magnitude = decouple_of(method, decouple, granularity, max_up, renormalise)
        weights = [_weight(text) for text in weight] if weight else None
        values = {name: value for name, value in params.items() if value is not None}
        spec = MergeSpec.of(
            method, values, soft_osrm, ortho, magnitude, weights, seed or 0, norm_cap=norm_cap, pico=bool(pico)
        )
        readers = [partial(loaded_alone, source, base) for source in inputs]
    tuned = recipe.tuned if recipe is not None else None
    options = {"rank": rank, "head": head or None, "prefix": prefix}
    if dry_run:
        _rehearse(readers, spec, options, base, full_model)
        return
    adapters = loaded(inputs, base) if recipe is None else recipe.load_adapters()
    merged = merge_spec(adapters, spec, features_of(adapters, base, spec.k) if spec.needs_data else None)
    assert output is not None
    if full_model:
        _save_full_model(merged, base, output, head or None, dtype)
    else:
        _report_saved(
            merged, merged.save(output, **options, dtype=dtype or "float32", exact_svd=exact_svd, tuned=tuned)
        )


def _rehearse(
    readers: list[partial[Adapter]], spec: MergeSpec, options: dict[str, Any], base: str | None, full_model: bool
) -> None:
    """Print what would happen; raise MergeError, after the table, if nothing would be written."""
    from ..diagnostics.rehearsal import REFUSED, dry_run, summary
    from ..models.shared import base_of

    adapters, unread = [], {}
    for place, read in enumerate(readers, 1):
        try:
            adapters.append(read())
        except MergeError as error:
            unread[f"adapter {place}"] = str(error)
    if spec.weights and unread:
        kept = (f"adapter {place}" not in unread for place in range(1, len(readers) + 1))
        spec = replace(spec, weights=tuple(itertools.compress(spec.weights, kept)))
    source = base_of(adapters, base) if full_model and adapters else None
    rows = dry_run(adapters, spec, **options, base=source, full_model=full_model, unread=unread)
    print(rows.to_string(index=False))
    say_warnings(adapters)
    refused = rows[rows.what == REFUSED]
    if len(refused):
        raise MergeError(f"Nothing would be written, {len(refused)} of {len(rows)} are refused: {refused.why.iloc[0]}")
    print(f"{summary(rows)}; nothing was written")


def _save_full_model(merged: Merged, base: str | None, output: Path, head: list[str] | None, dtype: str | None) -> None:
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


def _report_saved(merged: Merged, folder: Path) -> None:
    """Print where the merge is and, on stderr, what one should know of the adapters and what its rank lost."""
    from ..adapters.adapter import Adapter
    from ..recipes.card import fidelity

    print(folder)
    say_warnings(merged.adapters)
    print(fidelity(Adapter.load(folder)), file=sys.stderr)


def _weight(text: str) -> float | dict[str, float]:
    """Read ``0.5`` or ``pattern=0.5,pattern=1``."""
    try:
        if "=" not in text:
            return float(text)
        return {pattern: float(value) for pattern, _, value in (part.rpartition("=") for part in text.split(","))}
    except ValueError as error:
        raise MergeError(f"--weight {text!r} is neither a number nor pattern=number,pattern=number.") from error


def with_method_options(function: Callable[..., None]) -> Callable[..., None]:
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
            annotation = Annotated[kind | None, typer.Option(option(param.name), help=f"{param.label}. {param.help}")]
            options.setdefault(
                param.name,
                inspect.Parameter(param.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation),
            )
    parameters = [*known, *(option for name, option in options.items() if name not in signature.parameters)]
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


def show_methods(name: Annotated[str | None, typer.Argument(help="A method; none = a list.")] = None) -> None:
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
        print(f"\n{option(param.name)} ({param.label}, default {param.default}): {param.help}")
