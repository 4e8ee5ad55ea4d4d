"""Export, "Put it on the hub": first what would go up, where and for whom, then the push. No token is typed, shown or
kept.

On a Space the visitor signs in and the push is theirs; the Space's own login is never used. On one's own machine it is
the login of huggingface_hub, and only for a browser on that machine.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import urlsplit

import gradio as gr

from merging.errors import MergeError
from merging.export.push import pusher
from merging.services.bundle import contents, push_zip
from viz.panels.export.session import ExportSession, Pending
from viz.panels.kit.alert import alert
from viz.panels.kit.events import QUIET, turns
from viz.panels.osrm.plan import html

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
SHUT = gr.update(interactive=False)
Login = Callable[[], Any]
"""Gives huggingface_hub's HfApi with the right login, or raises MergeError."""


@dataclass(frozen=True)
class PushSection:
    """The section's components that the rest of the panel resets."""

    preview: gr.HTML
    push: gr.Button
    note: gr.HTML


def way() -> str:
    """Say whose login a push has: "oauth" (the visitor's), "local" (this machine's), or "none" (a Space without
    sign-in).
    """
    if not os.environ.get("SPACE_ID"):
        return "local"
    return "oauth" if os.environ.get("OAUTH_CLIENT_ID") else "none"


def signed_in(token: gr.OAuthToken | None) -> Any:
    """Return the hub as the visitor who has signed in sees it; nobody else's login stands in for theirs."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - pulls in an HTTP client

    if token is None:
        raise MergeError("Nobody is signed in: use the button above, then show the push again.")
    return HfApi(token=token.token)


def this_machine(request: gr.Request) -> Any:
    """Return the hub with this machine's login, for a browser on this machine only."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - pulls in an HTTP client

    host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    client = request.client.host if request.client else ""
    if client not in LOOPBACK or host not in LOOPBACK or "x-forwarded-for" in request.headers:
        raise MergeError(
            "Only a browser on the machine that runs the app may push with its login: open it at localhost, or "
            "download the zip."
        )
    return HfApi()


def show(session: ExportSession, target: str, private: bool, login: Login) -> str:
    """Return what a push would do, and note that it was shown.

    Raises
    ------
    MergeError
        If nothing is written yet, the target is no name, or nobody is logged in.
    """
    session.pending = None
    if session.current is None or not session.current.exists():
        raise MergeError("There is no file of this merge yet: write it first.")
    target = target.strip()
    name = pusher(target, login())
    session.pending = Pending(session.current, target, private)
    rows = "".join(
        f'<tr><td>{escape(file)}</td><td class="ms-number">{size:,}</td></tr>'
        for file, size in contents(session.current).items()
    )
    seen = "private: only its owner sees it" if private else "public: everybody sees it"
    return (
        f"<p>To <b>{escape(target)}</b>, {seen}, as {escape(name)}:</p>"
        '<div class="ms-scroll"><table><thead><tr><th>file</th><th>bytes</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def push(session: ExportSession, login: Login) -> str:
    """Push exactly what was shown, once; return the repository's address.

    Raises
    ------
    MergeError
        If nothing was shown since the form has changed, or as `merging.export.push.push_to_hub`.
    """
    pending, session.pending = session.pending, None
    if pending is None or pending.file != session.current or not pending.file.exists():
        raise MergeError("Nothing has been shown that could be pushed: show it first.")
    return push_zip(pending.file, pending.target, pending.private, login())


def push_section(state: gr.State, whose: str) -> PushSection:
    """Lay the section out and wire it; ``whose`` as `way` says."""
    with gr.Column(elem_id="ms-push", elem_classes=["ms-card", "ms-full"]):
        html("ms-push-heading", "<h2>Put it on the hub</h2>")
        usable = whose != "none"
        if whose == "oauth":
            gr.LoginButton(size="sm", elem_id="ms-push-login")
        elif not usable:
            html(
                "ms-push-none",
                "<p>This Space has no sign-in, so nothing can be pushed from here: download the zip.</p>",
            )
        target = gr.Textbox(label="Repository (user/name)", max_lines=1, elem_id="ms-push-target", visible=usable)
        private = gr.Checkbox(True, label="Private", elem_id="ms-push-private", visible=usable)
        with gr.Row(elem_classes="ms-buttons", visible=usable):
            look = gr.Button("Show what would be pushed", size="sm", elem_id="ms-push-show")
            button = gr.Button("Push", variant="primary", size="sm", interactive=False, elem_id="ms-push-push")
        preview = html("ms-push-preview")
        note = html("ms-push-note")
    if usable:
        shown, pushed = _with_token() if whose == "oauth" else _on_this_machine()
        look.click(
            shown,
            [state, target, private],
            [preview, button, note],
            **turns("pushes"),
            **QUIET,
        )
        button.click(pushed, state, [note, button], **turns("pushes"), **QUIET)
        gr.on([target.input, private.input], _other, state, [preview, button, note], queue=False, **QUIET)
    return PushSection(preview, button, note)


def _with_token() -> tuple[Callable[..., Any], Callable[..., Any]]:
    def shown(session: ExportSession, target: str, private: bool, token: gr.OAuthToken | None) -> list[Any]:
        return _shown(session, target, private, lambda: signed_in(token))

    def pushed(session: ExportSession, token: gr.OAuthToken | None) -> Iterator[list[Any]]:
        yield from _pushed(session, lambda: signed_in(token))

    return shown, pushed


def _on_this_machine() -> tuple[Callable[..., Any], Callable[..., Any]]:
    def shown(session: ExportSession, target: str, private: bool, request: gr.Request) -> list[Any]:
        return _shown(session, target, private, lambda: this_machine(request))

    def pushed(session: ExportSession, request: gr.Request) -> Iterator[list[Any]]:
        yield from _pushed(session, lambda: this_machine(request))

    return shown, pushed


def _other(session: ExportSession) -> list[Any]:
    session.pending = None
    return ["", SHUT, ""]


def _shown(session: ExportSession, target: str, private: bool, login: Login) -> list[Any]:
    try:
        return [show(session, target, private, login), gr.update(interactive=True), ""]
    except MergeError as error:
        return ["", SHUT, alert(error)]


def _pushed(session: ExportSession, login: Login) -> Iterator[list[Any]]:
    yield ['<p role="status">Pushing.</p>', SHUT]
    try:
        url = escape(push(session, login))
        yield [f'<p role="status">Pushed: <a href="{url}" target="_blank" rel="noopener">{url}</a></p>', SHUT]
    except MergeError as error:
        yield [alert(error), SHUT]
