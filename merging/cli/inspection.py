"""``mergescope inspect``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import MergeError
from ..io.whole import whole_file
from .adapters import loaded
from .options import Base
from .recipes import recipe_of

if TYPE_CHECKING:
    import pandas as pd

    from ..adapters.adapter import Adapter
    from ..diagnostics.compatibility import CompatibilityReport


def inspect_adapters(
    folders: Annotated[
        list[str], typer.Argument(help="Adapters (folders, zip files or hub ids), or one recipe.yaml for its own.")
    ],
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained HTML file with figures.")] = None,
    base: Base = None,
    quantisation: Annotated[
        bool,
        typer.Option(
            "--quantisation", help="Also what 4 and 8 bits (nf4, int8) leave of each update, once merged into the base."
        ),
    ] = False,
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
        prefix = f", prefix {row.prefix}" if row.prefix else ""
        relative = "" if math.isnan(row.relative_norm) else f" ({row.relative_norm:.1%} of the base's weights)"
        print(
            f"{row.adapter}: task {row.task}, base {row.base or 'unknown'}, rank {row.rank}, {row.modules} "
            f"modules{missing}, norm {row.norm:.4g}{relative}, {row.head}{prefix}"
        )
    print("compatible" if report.ok else "not compatible")
    for kind, lines in (("problem", report.problems), ("warning", report.warnings)):
        for line in lines:
            print(f"{kind}: {line}")
    modules, advice = _with_quantisation(adapters, report.modules, base) if quantisation else (report.modules, [])
    for line in advice:
        print(line)
    print(modules.to_string(index=False, float_format="{:.4g}".format))


def _with_quantisation(
    adapters: list[Adapter], modules: pd.DataFrame, base: str | None
) -> tuple[pd.DataFrame, list[str]]:
    """Return the module table with the columns of `quantisation`, and its advice for each adapter."""
    import pandas as pd

    from ..adapters.adapter import number_equal_names
    from ..diagnostics.quantisation import advice, quantisation
    from ..models.checkpoint import find_checkpoint
    from ..models.shared import base_of

    checkpoint = find_checkpoint(base_of(adapters, base))
    tables = {adapter.name: quantisation(adapter, checkpoint) for adapter in number_equal_names(adapters)}
    lines = [f"{name}, {line}" for name, table in tables.items() for line in advice(table)]
    found = pd.concat([table.assign(adapter=name) for name, table in tables.items()]).drop(columns="size")
    return modules.merge(found, how="left", on=["adapter", "module"]), lines


def _write_report(path: Path, adapters: list[Adapter], report: CompatibilityReport) -> None:
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
    with whole_file(path) as fresh:
        fresh.write_text(html_report(inspection), encoding="utf-8")
