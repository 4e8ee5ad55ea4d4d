"""Which base model a visitor's adapters belong to: its choice on the Adapters panel, and what happens there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.io import hub
from merging.models.embedded import EMBEDDED
from merging.models.shared import describe, described
from viz.panels.adapters.handlers import AdaptersHandlers, Values
from viz.panels.adapters.session import AdaptersSession
from viz.panels.kit.alert import alert
from viz.panels.kit.events import QUIET, turns
from viz.panels.osrm.plan import html

OTHER = ""
DTYPES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("as in its files", "auto")]


class BaseHandlers:
    """The handlers of the choice.

    Parameters
    ----------
    panel : checks the adapters that are there against a new base
    folders : folders of this machine that whoever runs the app offers; visitors can name hub ids only
    """

    def __init__(self, panel: AdaptersHandlers, folders: Sequence[str] = ()) -> None:
        self.panel, self.folders = panel, tuple(folders)

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Give (title, source) of the bases that need no name."""
        shipped = [(base.title, source) for source, base in EMBEDDED.items()]
        return [
            *shipped,
            *((describe(folder).title, folder) for folder in self.folders),
            ("another, from the hub", OTHER),
        ]

    def source(self, choice: str, name: str) -> str:
        """Return what is chosen, or the hub id that is written; raises MergeError for anything that is none."""
        if choice in EMBEDDED or choice in self.folders:
            return choice
        name = name.strip()
        # a name that is a folder here would be read from the disk
        if choice != OTHER or hub.BASE_ID.fullmatch(name) is None or Path(name.partition("@")[0]).exists():
            raise MergeError(
                f"{name or 'Nothing'} is no hub id of a base model: write user/name or user/name@revision."
            )
        return name

    def look(self, choice: str, name: str, dtype: str) -> str:
        """Say what a base is and needs, without loading it."""
        if choice == OTHER and not name.strip():
            return '<p class="ms-muted">Write the base’s hub id, such as user/name, and press Enter.</p>'
        try:
            source = self.source(choice, name)
            if source in EMBEDDED:
                base = EMBEDDED[source]
                said = f"{base.title}: {base.note}. It is fetched once, {base.megabytes} MB."
            else:
                said = described(describe(source, dtype))
        except MergeError as error:
            return alert(error)
        return f'<p class="ms-muted">{escape(said)}</p>'

    def use(self, session: AdaptersSession, choice: str, name: str, dtype: str) -> Iterator[Values]:
        """Load a base for a visitor, and hold the adapters that are there against it."""
        try:
            source = self.source(choice, name)
            yield {"base": '<p role="status">Loading.</p>', "busy": True}
            values = self.panel.rebase(session, source, dtype)
            base = describe(source, dtype)
        except MergeError as error:
            yield {"base": alert(error), "busy": False}
            return
        yield values | {"base": f'<p role="status">In use: {escape(described(base))}</p>', "busy": False}


@dataclass(frozen=True)
class BaseLayout:
    """The components of the choice."""

    choice: gr.Dropdown
    name: gr.Textbox
    dtype: gr.Radio
    use: gr.Button
    note: gr.HTML


def lay_out(handlers: BaseHandlers) -> BaseLayout:
    """Lay the choice out."""
    choices = handlers.choices
    with gr.Column(elem_id="ms-base"):
        choice = gr.Dropdown(choices, value=choices[0][1], label="Base model", elem_id="ms-base-choice")
        name = gr.Textbox(
            label="Hub id of the base",
            placeholder="user/name@revision",
            max_lines=1,
            visible=False,
            elem_id="ms-base-name",
        )
        dtype = gr.Radio(
            DTYPES, value="float32", label="Load it in", elem_id="ms-base-dtype", elem_classes="ms-segments"
        )
        note = html("ms-base-note", '<p role="status">In use: all-MiniLM-L6-v2.</p>')
        use = gr.Button("Use this base", size="sm", elem_id="ms-base-use")
    return BaseLayout(choice, name, dtype, use, note)


def wire(
    layout: BaseLayout,
    handlers: BaseHandlers,
    state: gr.State,
    shown: list[gr.components.Component],
    send: Callable[[Values], list[Any]],
) -> None:
    """Wire the choice.

    Parameters
    ----------
    shown, send : the components of the adapters' list, and what makes their updates of the handlers' values
    """
    asked = [layout.choice, layout.name, layout.dtype]
    layout.choice.input(
        lambda choice: gr.update(visible=choice == OTHER), layout.choice, layout.name, queue=False, **QUIET
    )
    gr.on([layout.choice.input, layout.name.submit, layout.dtype.input], handlers.look, asked, layout.note, **QUIET)

    def use(session: AdaptersSession, *values: str) -> Iterator[list[Any]]:
        for news in handlers.use(session, *values):
            yield [news["base"], gr.update(interactive=not news["busy"]), *send(news)]

    layout.use.click(use, [state, *asked], [layout.note, layout.use, *shown], **turns("loadings"), **QUIET)
