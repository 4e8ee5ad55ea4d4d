"""The Export panel: the Merge tab's merge as a file that others load."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.export_bundle import Written, write_zip
from viz.panels.controls import Catalogue, read
from viz.panels.merge_panel import QUIET, MergeTab, said
from viz.panels.osrm_plan import html
from viz.panels.osrm_status import alert
from viz.panels.services import Settings, Workbench

NOW = QUIET | {"queue": False}
FORMATS = [("LoRA adapter (PEFT)", "adapter"), ("full model (transformers)", "model")]
NO_HEAD = ""
KEPT = 3
Write = Callable[[Settings, str, int | None, str | None, Path], Iterator[Written]]


@dataclass
class ExportSession:
    """One visitor's files; they live in a folder that goes with the session."""

    number: int = 0
    files: list[Path] = field(default_factory=list)
    _folder: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "ExportSession":
        """Make a new visitor: Gradio copies a state's first value for every page."""
        return ExportSession()

    def next(self) -> Path:
        """Return where the next file's parts go, and drop the oldest files."""
        self._folder = self._folder or TemporaryDirectory(prefix="mergescope-")
        self.number += 1
        while len(self.files) >= KEPT:
            self.files.pop(0).unlink(missing_ok=True)
        return Path(self._folder.name) / f"{self.number}-{secrets.token_hex(4)}"

    def close(self) -> None:
        """Remove the visitor's files."""
        if self._folder is not None:
            self._folder.cleanup()


def export_panel(tab: gr.Tab, workbench: Workbench, methods: Catalogue, merging: MergeTab) -> None:
    """Lay the panel out inside `tab` and wire it."""
    state = gr.State(ExportSession(), delete_callback=lambda session: session.close())
    with gr.Row(elem_id="ms-export"), gr.Column(elem_classes=["ms-card", "ms-full"]):
        html("ms-export-heading", "<h2>Take the merge with you</h2>")
        about = html("ms-export-about")
        kind = gr.Radio(FORMATS, value="adapter", label="Format", elem_id="ms-export-format", elem_classes="ms-segments")
        head = gr.Dropdown([("none", NO_HEAD)], value=NO_HEAD, label="Head of task", elem_id="ms-export-head")
        rank = gr.Number(0, precision=0, minimum=0, label="Rank (0 = exact)", elem_id="ms-export-rank")
        help_line = "<p>A lower rank keeps the best approximation; its error is written into the model card. A full model needs no rank.</p>"
        html("ms-export-help", help_line)
        with gr.Row(elem_classes="ms-buttons"):
            write = gr.Button("Write it", variant="primary", size="sm", elem_id="ms-export-write")
            download = gr.DownloadButton("Download zip", interactive=False, size="sm", elem_id="ms-export-download")
        note = html("ms-export-note")

    def opened(*values: Any) -> list[Any]:
        with said():
            settings = read(workbench, methods, dict(zip(merging.form, values, strict=True)))
            tasks = [(workbench.title(task), task) for task in workbench.tasks(settings.pool)]
        params = ", ".join(f"{name} {value}" for name, value in settings.params)
        text = f"{methods[settings.method].title}{', ' + params if params else ''}, as the Merge tab shows it."
        return [
            f"<p>{escape(text)}</p>",
            gr.update(choices=[("none", NO_HEAD), *tasks], value=NO_HEAD),
            gr.update(interactive=False),
            "",
        ]

    def run(session: ExportSession, form: str, task: str, cut: float, *values: Any) -> Iterator[list[Any]]:
        settings = read(workbench, methods, dict(zip(merging.form, values, strict=True)))
        folder = session.next()
        try:
            for step in write_zip(workbench, settings, form, int(cut or 0) or None, task or None, folder):
                if step.file is None:
                    yield [f'<p role="status">{escape(step.what)}</p>', gr.skip()]
                else:
                    session.files.append(step.file)
                    yield [f'<p role="status">{escape(step.what)}</p>', gr.update(value=str(step.file), interactive=True)]
        except MergeError as error:
            shutil.rmtree(folder, ignore_errors=True)
            yield [alert(error), gr.update(interactive=False)]
        yield [gr.skip(), gr.skip()]

    tab.select(opened, list(merging.form.values()), [about, head, download, note], **NOW)
    inputs = [state, kind, head, rank, *merging.form.values()]
    write.click(run, inputs, [note, download], concurrency_id="export", concurrency_limit=2, **QUIET)
    kind.input(lambda form: gr.update(visible=form == "adapter"), kind, rank, **NOW)
    gr.on([head.input, rank.input], lambda: gr.update(interactive=False), None, download, **NOW)
