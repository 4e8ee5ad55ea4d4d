"""A merge of the workbench as one zip file: PEFT adapter or full model, with its model card and recipe."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .adapter import Adapter
from .errors import MergeError
from .export import fidelity
from .export_model import save_full_model
from .workbench import Settings, Workbench


@dataclass(frozen=True)
class Written:
    """State of `write_zip`: what goes on, in words; ``file`` at its end."""

    what: str
    file: Path | None = None


def write_zip(
    bench: Workbench, settings: Settings, kind: str, rank: int | None, head: str | None, folder: Path
) -> Iterator[Written]:
    """Write a merge below ``folder`` and pack it; yields what goes on, and the file last.

    Parameters
    ----------
    kind : "adapter" (PEFT) or "model" (a whole transformers model)
    rank : of the adapter; None = exact, for a dense method the full rank
    head : task whose head goes with it

    Raises
    ------
    MergeError
        As `Merged.save` and `save_full_model`.
    """
    for step in bench.read(settings):
        yield Written(f"Reading texts: {step.done} of {step.total}.")
    merged = bench.merged(settings)
    yield Written("Merging and writing.")
    if "task_id" in merged.needs:
        if head is None:
            raise MergeError(
                f"{merged.method.title} has a merge of its own for every task: choose whose head, and weights, to write."
            )
        merged = merged.for_task(head)
    name = f"mergescope_{settings.method}_{kind}"
    target = folder / name
    if kind == "model":
        save_full_model(merged, bench.source, target, head=head)
        said = "A full model: load it with AutoModel.from_pretrained."
    else:
        exact = None if merged.method.low_rank else max(min(shape) for shape in merged.shapes.values())
        merged.save(target, rank=rank or exact, head=head)
        said = fidelity(Adapter.load(target))
    archive = folder / f"{name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(path for path in target.rglob("*") if path.is_file()):
            packed.write(file, f"{name}/{file.relative_to(target)}")
    shutil.rmtree(target)
    size = archive.stat().st_size / 1e6
    yield Written(f"{said} {size:.1f} MB, with model card and recipe.", archive)
