"""A merge of the workbench as one zip file: PEFT adapter or full model, with its model card and recipe."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

from ..adapters.adapter import Adapter
from ..diagnostics.quantisation import COLUMNS, rows_of
from ..errors import MergeError
from ..evaluation.intervals import Accuracy
from ..export.full_model import save_full_model
from ..export.push import push_to_hub
from ..io.whole import whole_file
from ..merged import Merged
from ..recipes.card import fidelity
from .settings import Settings
from .workbench import Workbench

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class Written:
    """State of `write_zip`: what goes on, in words; ``file`` at its end."""

    what: str
    file: Path | None = None


def write_zip(
    bench: Workbench,
    settings: Settings,
    kind: str,
    rank: int | None,
    head: str | Sequence[str] | None,
    folder: Path,
    accuracy: Accuracy | None = None,
) -> Iterator[Written]:
    """Write a merge below ``folder`` and pack it; yields what goes on, and the file last.

    Parameters
    ----------
    kind : "adapter" (PEFT) or "model" (a whole transformers model)
    rank : of the adapter; None = exact, for a dense method the full rank
    head : task whose head goes with it; several tasks' lie beside it
    accuracy : what was measured of exactly this merge, for the card

    Raises
    ------
    MergeError
        As `Merged.save` and `save_full_model`.
    """
    for step in bench.read(settings):
        yield Written(step.sentence)
    merged = bench.merged_for_others(settings)
    heads = [bench.public_name(task) for task in ([head] if isinstance(head, str) else head or ())]
    if accuracy is not None:
        named = [replace(estimate, task=bench.public_name(estimate.task)) for estimate in accuracy.estimates]
        accuracy = replace(accuracy, estimates=named)
    yield Written("Merging and writing.")
    merged = _of_task(merged, heads)
    name = f"mergescope_{settings.spec.method}_{kind}"
    target = folder / name
    if kind == "model":
        save_full_model(merged, bench.base_of(settings.pool)[0], target, head=heads or None, accuracy=accuracy)
        said = "A full model: load it with AutoModel.from_pretrained."
    else:
        exact = None if merged.method.low_rank else max(min(shape) for shape in merged.shapes.values())
        merged.save(target, rank=rank or exact, head=heads or None, accuracy=accuracy)
        loss = fidelity(Adapter.load(target))
        said = f"{loss[0].upper()}{loss[1:]}."
    archive = folder / f"{name}.zip"
    with whole_file(archive) as fresh, zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(path for path in target.rglob("*") if path.is_file()):
            packed.write(file, f"{name}/{file.relative_to(target)}")
    shutil.rmtree(target)
    size = archive.stat().st_size / 1e6
    yield Written(f"{said} {size:.1f} MB, with model card and recipe.", archive)


def quantised(
    bench: Workbench, settings: Settings, heads: Sequence[str], at_once: int = 8
) -> Iterator[Written | pd.DataFrame]:
    """Measure what 4 and 8 bits leave of a merge in its base's weights; yields what goes on, and the table last.

    Parameters
    ----------
    heads : one task, for a method that has a merge for every task
    at_once : modules between two notes

    Raises
    ------
    MergeError
        As `merging.diagnostics.quantisation.quantisation`.
    """
    for step in bench.read(settings):
        yield Written(step.sentence)
    merged = _of_task(bench.merged_for_others(settings), [bench.public_name(task) for task in heads])
    rows: list[tuple[str | float, ...]] = []
    for row in rows_of(merged, bench.base_of(settings.pool)[0]):
        if len(rows) % at_once == 0:
            yield Written(f"Quantising: {len(rows)} of {len(merged.modules)} modules.")
        rows.append(row)
    yield pd.DataFrame(rows, columns=COLUMNS)


def _of_task(merged: Merged, heads: Sequence[str]) -> Merged:
    if "task_id" not in merged.needs:
        return merged
    if len(heads) != 1:
        raise MergeError(
            f"{merged.method.title} has a merge of its own for every task: choose whose head, and weights, to write."
        )
    return merged.for_task(heads[0])


def contents(archive: Path) -> dict[str, int]:
    """Return {name: bytes} of what would go up if ``archive`` was pushed."""
    with zipfile.ZipFile(archive) as packed:
        return {info.filename.partition("/")[2]: info.file_size for info in packed.infolist()}


def push_zip(archive: Path, repo_id: str, private: bool, api: HfApi) -> str:
    """Unpack a zip file of `write_zip` and push it, see `merging.export.push.push_to_hub`; return the repository's
    address.
    """
    with TemporaryDirectory(dir=archive.parent) as place:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(place)
        [folder] = Path(place).iterdir()
        return push_to_hub(folder, repo_id, private, api)
