"""The Adapters panel: layout and wiring; what happens is in adapters_handlers.py."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.services.settings import MOST_TASKS
from viz.panels.adapters import base_choice
from viz.panels.adapters import task_card as task_panel
from viz.panels.adapters.drop import TABLES
from viz.panels.adapters.handlers import LEFT_OUT, AdaptersHandlers
from viz.panels.adapters.session import AdaptersSession
from viz.panels.adapters.shelf_table import table_html
from viz.panels.adapters.task_handlers import TaskHandlers
from viz.panels.kit.alert import alert
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.merge.panel import MergeTab
from viz.panels.osrm.plan import html

INTRODUCTION = (
    "<p>Drop everything at once: LoRA adapters of one base (zip files with <code>adapter_config.json</code> and "
    "<code>adapter_model.safetensors</code>, or one adapter’s two files) and tables of texts with labels (CSV, TSV, "
    "JSON lines). Names that match go together: <code>sst2_test.csv</code> is for the adapter <code>SST2</code>. "
    "All stays in this session and is removed with it, unless you save it to one file, which may be dropped here "
    "again. An adapter without a head gets a linear probe on its task; a language model answers with the label’s "
    "name.</p>"
)


@dataclass(frozen=True)
class Layout:
    """The components of the panel, by what they do."""

    base: base_choice.BaseLayout
    files: gr.File
    all_test: gr.Checkbox
    vouched: gr.Checkbox
    hub: gr.Textbox
    add: gr.Button
    task: task_panel.TaskLayout
    clear: gr.Button
    note: gr.HTML
    table: gr.HTML
    slots: list[gr.Dropdown]
    orders: list[gr.Textbox]
    make: gr.Button
    cancel: gr.Button
    bare: gr.Button
    made: gr.HTML
    save: gr.Button
    saved: gr.DownloadButton


def adapters_panel(
    tab: gr.Tab,
    tabs: gr.Tabs,
    panel: AdaptersHandlers,
    merging: MergeTab,
    shipped: list[tuple[str, str]],
    folders: Sequence[str] = (),
) -> None:
    """Lay the panel out inside ``tab`` and wire it; finished sets join the Merge tab's pools.

    Parameters
    ----------
    tabs : what opens the Merge tab once a set is ready
    shipped : (title, pool) of those that everybody has
    folders : further base models that are offered, see `base_choice.BaseHandlers`
    """
    bases = base_choice.BaseHandlers(panel, folders)
    _wire(tab, tabs, _lay_out(bases), panel, bases, merging, shipped)


def _lay_out(bases: base_choice.BaseHandlers) -> Layout:
    with gr.Row(elem_id="ms-adapters"):
        with gr.Column(elem_id="ms-bring"):
            html("ms-bring-heading", f"<h2>Bring your own</h2>{INTRODUCTION}")
            base = base_choice.lay_out(bases)
            files = gr.File(
                label="Adapters and tables of texts",
                file_count="multiple",
                file_types=[".zip", ".json", ".safetensors", ".bin", *TABLES],
                height=140,
                elem_id="ms-bring-files",
            )
            note = html("ms-bring-note")
            all_test = gr.Checkbox(
                False,
                label="All rows of the tables are test rows",
                info="Else 60 % are for heads and methods that read texts, 20 % for validation, 20 % for tests.",
                elem_id="ms-bring-all-test",
            )
            vouched = gr.Checkbox(
                False,
                label="They are of this base, whatever their files say",
                info="Shapes and a recorded fingerprint still count; the export says that you vouched for it.",
                elem_id="ms-bring-vouched",
            )
            hub = gr.Textbox(label="Hub id", placeholder="user/adapter@revision", max_lines=1, elem_id="ms-bring-hub")
            with gr.Row(elem_classes="ms-buttons"):
                add = gr.Button("Add from the hub", size="sm", elem_id="ms-bring-add")
                clear = gr.Button("Remove all", size="sm", elem_id="ms-bring-clear")
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
                orders = [
                    gr.Textbox(
                        visible=False,
                        max_lines=1,
                        label=f"Labels {place + 1}",
                        info="The head does not name its labels: these, in the order of its outputs.",
                        elem_id=f"ms-labels-of-{place}",
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
                made = html("ms-make-note")
                with gr.Row(elem_classes="ms-buttons"):
                    save = gr.Button("Save all of this to one file", size="sm", elem_id="ms-save-session")
                    saved = gr.DownloadButton("Download it", interactive=False, size="sm", elem_id="ms-saved-session")
    bring = base, files, all_test, vouched, hub, add, task, clear, note
    return Layout(*bring, table, slots, orders, make, cancel, bare, made, save, saved)


def table_html_empty() -> str:
    """Write the table before anything was brought."""
    import pandas as pd  # noqa: PLC0415 - only for an empty table

    return table_html(pd.DataFrame())


def _wire(
    tab: gr.Tab,
    tabs: gr.Tabs,
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

    def ordered(session: AdaptersSession, *tasks: str) -> list[Any]:
        return [gr.update(**panel.order(session, place, task)) for place, task in enumerate(tasks)]

    base_choice.wire(layout.base, bases, state, shown, send)

    def upload(session: AdaptersSession, paths: list[str] | None, all_test: bool, *chosen: str) -> list[Any]:
        values = panel.upload(session, paths or [], all_test)
        for slot, task in zip(values.get("slots", ()), chosen, strict=False):
            slot["value"] = task or slot["value"]  # what was chosen by hand stays
        return [None, gr.update(value=values["vouched"]) if "vouched" in values else gr.skip(), *send(values)]

    dropped = [state, layout.files, layout.all_test, *layout.slots]
    layout.files.upload(upload, dropped, [layout.files, layout.vouched, *shown], **QUIET)
    layout.vouched.input(lambda s, yes: send(panel.vouch(s, yes)), [state, layout.vouched], shown, **QUIET)
    gr.on([slot.change for slot in layout.slots], ordered, [state, *layout.slots], layout.orders, **NOW)

    def from_hub(session: AdaptersSession, name: str) -> Iterator[list[Any]]:
        for values in panel.from_hub(session, name):
            yield send(values)

    hub = gr.on(
        [layout.add.click, layout.hub.submit],
        from_hub,
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
            pool = tab = gr.skip()
            if "pool" in values:
                pool = gr.update(choices=[*shipped, *values["pools"]], value=values["pool"])
                tab = gr.update(selected="merge")
            yield [values.get("note", gr.skip()), busy, pool, tab]
        yield [gr.skip()] * 4

    def make(session: AdaptersSession, *values: str) -> Iterator[list[Any]]:
        yield from follow(panel.make(session, values[:MOST_TASKS], values[MOST_TASKS:]))

    def opened(session: AdaptersSession) -> Iterator[list[Any]]:
        yield from follow(panel.open(session))

    def save(session: AdaptersSession, *values: str) -> list[Any]:
        try:
            file = panel.save(session, values[:MOST_TASKS], values[MOST_TASKS:])
        except MergeError as error:
            return [gr.update(interactive=False), alert(error)]
        note = '<p role="status">Saved: drop the file here later, and all is here again.</p>'
        return [gr.update(value=str(file), interactive=True), note]

    layout.save.click(save, [state, *layout.slots, *layout.orders], [layout.saved, layout.made], **QUIET)
    outputs = [layout.made, layout.cancel, merging.form["pool"], tabs]
    made = layout.make.click(make, [state, *layout.slots, *layout.orders], outputs, **turns("evaluations"), **QUIET)
    merging.opened(made)
    merging.opened(layout.bare.click(opened, state, outputs, **QUIET))
    layout.cancel.click(lambda s: [gr.update(interactive=panel.cancel(s)["busy"])], state, layout.cancel, **NOW)
