"""The card "Your own task" of the Adapters panel: layout and wiring; what happens is in task_handlers.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from viz.panels.adapters.handlers import AdaptersHandlers
from viz.panels.adapters.session import AdaptersSession
from viz.panels.adapters.task_handlers import NONE, OPTIONAL, TaskHandlers, TaskSession
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.osrm.plan import html

LABELS = {"text": "Text column", "pair": "Second text (pairs)", "label": "Label column", "split": "Split column"}
SPLITS = ("train", "validation", "test")
SUFFIXES = [".csv", ".tsv", ".tab", ".jsonl", ".ndjson"]
READING: dict[str, Any] = turns("tables")
INTRODUCTION = (
    "<p>A text and a label in each row, in a CSV, TSV or JSON lines file: look at it, say which column holds what, and "
    "every adapter can be measured on it. Your rows stay in this session.</p>"
)


@dataclass(frozen=True)
class TaskLayout:
    """The components of the card, by what they do."""

    file: gr.UploadButton
    hub: gr.Textbox
    config: gr.Textbox
    splits: list[gr.Textbox]
    look: gr.Button
    preview: gr.HTML
    form: gr.Column
    columns: list[gr.Dropdown]
    name: gr.Textbox
    rows: gr.Number
    use: gr.Button
    note: gr.HTML


def lay_out() -> TaskLayout:
    """Lay the card out; columns and name appear with the first preview."""
    with gr.Column(elem_id="ms-task", elem_classes=["ms-card", "ms-full"]):
        html("ms-task-heading", f"<h2>Your own task</h2>{INTRODUCTION}")
        with gr.Row(elem_classes="ms-buttons"):
            file = gr.UploadButton("Choose a file", file_types=SUFFIXES, size="sm", elem_id="ms-task-file")
        with gr.Accordion("or a data set of the hub", open=False, elem_id="ms-task-hub"):
            with gr.Row(elem_classes="ms-fields"):
                hub = _line("Data set", "user/name", "ms-task-hub-id")
                config = _line("Configuration (optional)", "", "ms-task-hub-config")
            with gr.Row(elem_classes="ms-fields"):
                splits = [_line(f"Its {split} split (optional)", "", f"ms-task-hub-{split}") for split in SPLITS]
            with gr.Row(elem_classes="ms-buttons"):
                look = gr.Button("Look", size="sm", elem_id="ms-task-look")
        preview = html("ms-task-preview")
        with gr.Column(visible=False, elem_id="ms-task-form") as form:
            with gr.Row(elem_classes="ms-fields"):
                columns = [
                    gr.Dropdown(
                        [("none", NONE)] if role in OPTIONAL else [],
                        value=None,
                        label=label,
                        elem_id=f"ms-task-column-{role}",
                    )
                    for role, label in LABELS.items()
                ]
            with gr.Row(elem_classes="ms-fields"):
                name = _line("Name", "", "ms-task-name")
                rows = gr.Number(0, precision=0, minimum=0, label="Rows at most (0 = all)", elem_id="ms-task-rows")
            with gr.Row(elem_classes="ms-buttons"):
                use = gr.Button("Use this task", variant="primary", size="sm", elem_id="ms-task-use")
        note = html("ms-task-note")
    return TaskLayout(file, hub, config, splits, look, preview, form, columns, name, rows, use, note)


def _line(label: str, placeholder: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox(label=label, placeholder=placeholder, max_lines=1, elem_id=elem_id)


def wire(
    tab: gr.Tab,
    layout: TaskLayout,
    tasks: TaskHandlers,
    adapters: AdaptersHandlers,
    visitor: gr.State,
    slots: list[gr.Dropdown],
) -> Dependency:
    """Wire the card; a task that is used joins the choices of ``slots``, which keep what was chosen by hand.

    So does one that was added on another tab, once ``tab`` is opened.

    Parameters
    ----------
    visitor : the `AdaptersSession` that owns the tasks
    slots : one per adapter, its task
    """
    state = gr.State(TaskSession())
    shown = [layout.note, layout.preview, layout.form, layout.name, *layout.columns]

    def send(values: dict[str, Any]) -> list[Any]:
        opened = gr.update(visible=values["open"]) if "open" in values else gr.skip()
        columns = (
            [gr.update(**values["columns"][role]) for role in LABELS]
            if "columns" in values
            else [gr.skip()] * len(LABELS)
        )
        return [
            values.get("note", gr.skip()),
            values.get("preview", gr.skip()),
            opened,
            values.get("name", gr.skip()),
            *columns,
        ]

    def file(session: TaskSession, path: str) -> Iterator[list[Any]]:
        yield from map(send, tasks.file(session, path))

    def look(session: TaskSession, name: str, config: str, *splits: str) -> Iterator[list[Any]]:
        yield from map(send, tasks.hub(session, name, config, dict(zip(SPLITS, splits, strict=True))))

    def again(session: TaskSession, *columns: str | None) -> list[Any]:
        return send(tasks.again(session, dict(zip(LABELS, columns, strict=True))))

    def use(
        session: TaskSession, owner: AdaptersSession, name: str, rows: float | None, *columns: str | None
    ) -> Iterator[str]:
        for values in tasks.use(session, owner.visitor.key, dict(zip(LABELS, columns, strict=True)), name, rows):
            yield values["note"]

    def offer(owner: AdaptersSession, *chosen: str) -> list[Any]:
        options = adapters.view(owner)["slots"]
        return [gr.update(**one | ({"value": task} if task else {})) for one, task in zip(options, chosen, strict=True)]

    layout.file.upload(file, [state, layout.file], shown, **QUIET, **READING)
    hub = [state, layout.hub, layout.config, *layout.splits]
    gr.on([layout.look.click, layout.hub.submit], look, hub, shown, **QUIET, **READING)
    gr.on([column.input for column in layout.columns], again, [state, *layout.columns], shown, **QUIET, **READING)
    once = QUIET | READING | {"trigger_mode": "once"}
    used = layout.use.click(use, [state, visitor, layout.name, layout.rows, *layout.columns], layout.note, **once)
    tab.select(offer, [visitor, *slots], slots, **NOW)
    return used.then(offer, [visitor, *slots], slots, **NOW)
