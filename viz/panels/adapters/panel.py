"""The Adapters panel: layout and wiring; what happens is in adapters_handlers.py."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from viz.panels.adapters import base_choice
from viz.panels.adapters import task_card as task_panel
from viz.panels.adapters.handlers import LEFT_OUT, AdaptersHandlers, AdaptersSession, table_html
from viz.panels.adapters.task_handlers import TaskHandlers
from viz.panels.kit.events import NOW, QUIET
from viz.panels.merge.controls import MOST_TASKS
from viz.panels.merge.panel import MergeTab
from viz.panels.osrm.plan import html

INTRODUCTION = (
    "<p>LoRA adapters of one base: zip files with <code>adapter_config.json</code> and "
    "<code>adapter_model.safetensors</code>, the two files chosen together, or a hub id. They stay in this session and "
    "are removed with it. An adapter without a head gets a linear probe on its task; a language model answers with the "
    "label’s name.</p>"
)


@dataclass(frozen=True)
class Layout:
    """The components of the panel, by what they do."""

    base: base_choice.BaseLayout
    files: gr.File
    hub: gr.Textbox
    add: gr.Button
    task: task_panel.TaskLayout
    clear: gr.Button
    note: gr.HTML
    table: gr.HTML
    slots: list[gr.Dropdown]
    make: gr.Button
    cancel: gr.Button
    bare: gr.Button


def adapters_panel(
    tab: gr.Tab,
    panel: AdaptersHandlers,
    merging: MergeTab,
    shipped: list[tuple[str, str]],
    folders: Sequence[str] = (),
) -> None:
    """Lay the panel out inside ``tab`` and wire it; finished sets join the Merge tab's pools.

    Parameters
    ----------
    shipped : (title, pool) of those that everybody has
    folders : further base models that are offered, see `base_choice.BaseHandlers`
    """
    bases = base_choice.BaseHandlers(panel, folders)
    _wire(tab, _lay_out(bases), panel, bases, merging, shipped)


def _lay_out(bases: base_choice.BaseHandlers) -> Layout:
    with gr.Row(elem_id="ms-adapters"):
        with gr.Column(elem_id="ms-bring"):
            html("ms-bring-heading", f"<h2>Bring your own</h2>{INTRODUCTION}")
            base = base_choice.lay_out(bases)
            files = gr.File(
                label="Adapters (zip, or the two files)",
                file_count="multiple",
                file_types=[".zip", ".json", ".safetensors"],
                height=140,
                elem_id="ms-bring-files",
            )
            hub = gr.Textbox(label="Hub id", placeholder="user/adapter@revision", max_lines=1, elem_id="ms-bring-hub")
            with gr.Row(elem_classes="ms-buttons"):
                add = gr.Button("Add from the hub", size="sm", elem_id="ms-bring-add")
                clear = gr.Button("Remove all", size="sm", elem_id="ms-bring-clear")
            note = html("ms-bring-note")
        with gr.Column(elem_id="ms-shelf"):
            with gr.Column(elem_classes=["ms-card", "ms-full"]):
                html("ms-shelf-heading", "<h2>Do they fit?</h2>")
                table = html("ms-shelf-table", table_html_empty())
            task = task_panel.lay_out()
            with gr.Column(elem_classes=["ms-card", "ms-full"]):
                html("ms-tasks-heading", "<h2>Which task is each of?</h2>")
                slots = [
                    gr.Dropdown(
                        [("leave out", LEFT_OUT)],
                        value=LEFT_OUT,
                        visible=False,
                        label=f"Task {place + 1}",
                        elem_id=f"ms-task-of-{place}",
                    )
                    for place in range(MOST_TASKS)
                ]
                with gr.Row(elem_classes="ms-buttons"):
                    make = gr.Button(
                        "Measure each alone and open them on the Merge tab",
                        variant="primary",
                        size="sm",
                        elem_id="ms-make",
                    )
                    cancel = gr.Button("Cancel", size="sm", interactive=False, elem_id="ms-make-cancel")
                    bare = gr.Button("Open all that fit without measuring", size="sm", elem_id="ms-make-bare")
    return Layout(base, files, hub, add, task, clear, note, table, slots, make, cancel, bare)


def table_html_empty() -> str:
    """Write the table before anything was brought."""
    import pandas as pd  # noqa: PLC0415 - only for an empty table

    return table_html(pd.DataFrame())


def _wire(
    tab: gr.Tab,
    layout: Layout,
    panel: AdaptersHandlers,
    bases: base_choice.BaseHandlers,
    merging: MergeTab,
    shipped: list[tuple[str, str]],
) -> None:
    state = gr.State(AdaptersSession())
    shown = [layout.table, layout.note, *layout.slots]

    def send(values: dict[str, Any]) -> list[Any]:
        slots = values.get("slots")
        updates = [gr.update(**options) for options in slots] if slots else [gr.skip()] * MOST_TASKS
        return [values.get("table", gr.skip()), values.get("note", gr.skip()), *updates]

    base_choice.wire(layout.base, bases, state, shown, send)

    def upload(session: AdaptersSession, paths: list[str] | None) -> list[Any]:
        values = panel.upload(session, paths or [])
        return [None, *send(values)]

    layout.files.upload(upload, [state, layout.files], [layout.files, *shown], **QUIET)
    hub = gr.on(
        [layout.add.click, layout.hub.submit],
        lambda s, name: send(panel.from_hub(s, name)),
        [state, layout.hub],
        shown,
        **QUIET,
    )
    hub.then(lambda: "", None, layout.hub, **NOW)
    task_panel.wire(tab, layout.task, TaskHandlers(panel.lab), panel, state, layout.slots)
    layout.clear.click(lambda s: send(panel.clear(s)), state, shown, **NOW)

    def follow(steps: Iterator[dict[str, Any]]) -> Iterator[list[Any]]:
        for values in steps:
            busy = gr.update(interactive=values["busy"]) if "busy" in values else gr.skip()
            pool = gr.skip()
            if "pool" in values:
                pool = gr.update(choices=[*shipped, *values["pools"]], value=values["pool"])
            yield [values.get("note", gr.skip()), busy, pool]
        yield [gr.skip()] * 3

    def make(session: AdaptersSession, *tasks: str) -> Iterator[list[Any]]:
        yield from follow(panel.make(session, tasks))

    def opened(session: AdaptersSession) -> Iterator[list[Any]]:
        yield from follow(panel.open(session))

    outputs = [layout.note, layout.cancel, merging.form["pool"]]
    made = layout.make.click(
        make, [state, *layout.slots], outputs, concurrency_id="accuracy", concurrency_limit=4, **QUIET
    )
    merging.opened(made)
    merging.opened(layout.bare.click(opened, state, outputs, **QUIET))
    layout.cancel.click(lambda s: [gr.update(interactive=panel.cancel(s)["busy"])], state, layout.cancel, **NOW)
