"""The Export panel: the Merge tab's merge as a file that others load, and on the hub."""

import shutil
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.services.bundle import write_zip
from merging.services.workbench import Workbench
from viz.panels.export.bits import bits_section
from viz.panels.export.push import SHUT, push_section, way
from viz.panels.export.session import ExportSession, measured
from viz.panels.kit.address import Address
from viz.panels.kit.alert import alert
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.merge.controls import Catalogue, read
from viz.panels.merge.panel import MergeTab
from viz.panels.merge.session import Session
from viz.panels.osrm.plan import html

FORMATS = [("LoRA adapter (PEFT)", "adapter"), ("full model (transformers)", "model")]


def export_panel(tab: gr.Tab, address: Address, workbench: Workbench, methods: Catalogue, merging: MergeTab) -> None:
    """Lay the panel out inside `tab` and wire it."""
    state, form = gr.State(ExportSession()), list(merging.form.values())
    with gr.Row(elem_id="ms-export"):
        with gr.Column(elem_classes=["ms-card", "ms-full"]):
            html("ms-export-heading", "<h2>Take the merge with you</h2>")
            about = html("ms-export-about")
            kind = gr.Radio(
                FORMATS, value="adapter", label="Format", elem_id="ms-export-format", elem_classes="ms-segments"
            )
            head = gr.Dropdown([], value=[], multiselect=True, label="Heads of tasks", elem_id="ms-export-head")
            rank = gr.Number(0, precision=0, minimum=0, label="Rank (0 = exact)", elem_id="ms-export-rank")
            html(
                "ms-export-help",
                "<p>A lower rank keeps an approximation, the best or nearly so; its error is written into the model "
                "card. A full model needs no rank. Without a head the merge is one of the bare encoder; one head goes "
                "into the file, several lie beside it, and the model card shows how each is used.</p>",
            )
            with gr.Row(elem_classes="ms-buttons"):
                write = gr.Button("Write it", variant="primary", size="sm", elem_id="ms-export-write")
                download = gr.DownloadButton("Download zip", interactive=False, size="sm", elem_id="ms-export-download")
            note = html("ms-export-note")
        bits, drawn = bits_section(workbench, methods, merging, kind, head)
        pushing = push_section(state, way())
    stale = [download, pushing.preview, pushing.push, pushing.note]

    def outdated(session: ExportSession) -> list[Any]:
        session.outdated()
        return [SHUT, "", SHUT, ""]

    def opened(session: ExportSession, *values: Any) -> list[Any]:
        settings = read(workbench, methods, dict(zip(merging.form, values, strict=True)))
        tasks = [(workbench.title(task), task) for task in workbench.tasks(settings.pool)]
        text = f"<p>{escape(settings.spec.words())}, as the Merge tab shows it.</p>"
        if session.turn(settings):
            return [text, gr.update(choices=tasks, value=[]), "", "", gr.update(visible=False), *outdated(session)]
        # a slow opening that ends after "Write it" must not take the file away
        return [text, gr.update(choices=tasks), *[gr.skip()] * 7]

    def run(
        session: ExportSession, merge: Session, form: str, heads: list[str], cut: float, *values: Any
    ) -> Iterator[list[Any]]:
        settings = read(workbench, methods, dict(zip(merging.form, values, strict=True)))
        session.turn(settings)
        size = int(cut or 0) if form == "adapter" else 0
        first, references = heads[0] if heads else None, workbench.references(settings.pool)
        known = measured(merge.run, settings, methods, bool(size), first, references)
        folder, kept = session.next(), [gr.skip()] * 3
        yield ["", *outdated(session)]
        try:
            workbench.governor.admit(session.visitor.key)
            for step in write_zip(workbench, settings, form, size or None, heads, folder, known.accuracy):
                text, ready = step.what, gr.skip()
                if step.file is not None:
                    session.take(step.file)
                    text, ready = f"{step.what} {known.said}", gr.update(value=str(step.file), interactive=True)
                yield [f'<p role="status">{escape(text)}</p>', ready, *kept]
        except MergeError as error:
            shutil.rmtree(folder, ignore_errors=True)
            yield [alert(error), SHUT, *kept]
        yield [gr.skip(), gr.skip(), *kept]

    shown = [about, head, note, bits, drawn, *stale]
    address.opened(tab, "export", opened, [state, *form], shown)
    address.keep(
        "export",
        {"format": kind, "rank": rank},
        lambda event: event.then(outdated, state, stale, **NOW).then(opened, [state, *form], shown, **NOW),
    )
    write.click(
        run,
        [state, merging.session, kind, head, rank, *form],
        [note, *stale],
        **turns("exports"),
        **QUIET,
    )
    kind.change(lambda form: gr.update(visible=form == "adapter"), kind, rank, **NOW)
    gr.on([kind.input, head.input, rank.input], outdated, state, stale, **NOW)
