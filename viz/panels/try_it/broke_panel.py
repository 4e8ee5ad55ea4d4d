"""The wiring of “What broke”."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.kit.picked import picked
from viz.panels.merge.panel import MergeTab
from viz.panels.merge.session import Session
from viz.panels.osrm.plan import html
from viz.panels.try_it.broke import AGAINST, KINDS, BrokeHandlers
from viz.panels.try_it.session import TrySession

DRAWN = ("counts", "rows")


@dataclass(frozen=True)
class Section:
    """The components."""

    counts: gr.HTML
    rows: gr.HTML
    against: gr.Radio
    kind: gr.Radio
    search: gr.Textbox
    save: gr.Button
    file: gr.DownloadButton


def lay_out_broke() -> Section:
    """Lay the section out."""
    with gr.Column(elem_classes=["ms-card", "ms-full"], elem_id="ms-broke"):
        html("ms-broke-title", "<h2>What broke</h2>")
        counts = picked("ms-broke-counts")
        with gr.Row(elem_classes="ms-choices"):
            choices = [(title, name) for name, title in AGAINST.items()]
            against = gr.Radio(choices, value="own", label="Compare", elem_id="ms-broke-against")
            kind = gr.Radio([(t, n) for n, t in KINDS.items()], value="broken", label="Rows", elem_id="ms-broke-kind")
            search = gr.Textbox(label="Search in the texts", max_length=200, elem_id="ms-broke-search")
        rows = picked("ms-broke-rows")
        with gr.Row(elem_classes="ms-buttons"):
            save = gr.Button("Download these rows (CSV)", size="sm", elem_id="ms-broke-save")
            file = gr.DownloadButton("file", visible="hidden", elem_id="ms-broke-file")
    return Section(counts, rows, against, kind, search, save, file)


def wire_broke(
    section: Section,
    panel: BrokeHandlers,
    merging: MergeTab,
    state: gr.State,
    after: Any,
    put: Callable[[TrySession, tuple[str, str, str]], list[Any]],
    tried: list[Any],
    follow: Callable[[Any], None],
) -> None:
    """Wire the section.

    Parameters
    ----------
    after : the event after which the session holds the Merge tab's merge
    put : puts a row (text, task, truth) into the box; gives the values of ``tried``
    follow : what comes after a text was put into the box
    """
    outputs = [section.counts, section.rows]

    def send(values: dict[str, str]) -> list[Any]:
        return [values.get(name, gr.skip()) for name in DRAWN]

    def opened(session: TrySession, merge: Session) -> Any:
        return panel.counts(session, merge)

    def look(session: TrySession, merge: Session, event: gr.EventData) -> Iterator[list[Any]]:
        for values in panel.look(session, merge, str(event.name)):
            yield send(values)
        yield send({})

    def show(name: str) -> Callable[[TrySession, str], list[Any]]:
        return lambda session, value: send(panel.show(session, **{name: value}))

    def clicked(session: TrySession, event: gr.EventData) -> list[Any]:
        values, row = panel.pick(session, str(event.name))
        return [*send(values), *(put(session, row) if row else [gr.skip()] * len(tried))]

    def save(session: TrySession) -> Any:
        path = panel.csv(session)
        return gr.update(value=str(path)) if path else gr.skip()

    after.then(opened, [state, merging.session], section.counts, **NOW)
    section.counts.pick(look, [state, merging.session], outputs, **turns("evaluations"), **QUIET)
    for name in ("against", "kind"):
        component = getattr(section, name)
        component.input(show(name), [state, component], outputs, **NOW)
    section.search.change(show("search"), [state, section.search], outputs, **NOW)
    follow(section.rows.pick(clicked, state, [*outputs, *tried], **NOW))
    saved = section.save.click(save, state, section.file, **NOW)
    saved.then(None, js="() => document.querySelector('#ms-broke-file').click()", **QUIET)
