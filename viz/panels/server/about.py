"""About this server: a fold at the foot of the page that says what goes on, what is full and what is allowed."""

import os
from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from merging.services.held import bound, size
from merging.services.limits import LIMITS, PREFIX, UNBOUNDED, described, profile_of
from viz.panels.kit.events import NOW
from viz.panels.server.health import PATH, Health

EVERY = 3.0
"""Seconds between two looks while the fold is open."""
OF_A_VISITOR = (
    "upload_bytes",
    "table_bytes",
    "uploads",
    "own_tasks",
    "visitor_memory_bytes",
    "visitor_disk_bytes",
    "base_bytes",
    "training_rows",
    "training_epochs",
    "search_seconds",
    "texts",
)
HARDWARE = {
    "laptop": "for one person",
    "cpu": "for everybody, without a GPU",
    "gpu": "for everybody, with a GPU",
    "zerogpu": "for everybody, GPUs are lent for a while",
}


def about_server(health: Health) -> None:
    """Lay the fold out and wire it."""
    with gr.Accordion("About this server", open=False, elem_id="ms-server") as fold:
        shown = gr.HTML(apply_default_css=False, container=False, padding=False)
        clock = gr.Timer(EVERY, active=False)

    def look() -> str:
        return server_html(health.now())

    fold.expand(lambda: (look(), gr.Timer(active=True)), None, [shown, clock], **NOW)
    fold.collapse(lambda: gr.Timer(active=False), None, clock, **NOW)
    clock.tick(look, None, shown, **NOW)


def server_html(now: Mapping[str, Any]) -> str:
    """Write how a server is, and what a visitor may ask of it."""
    minutes = now["uptime_seconds"] // 60
    running = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    pages = f"{now['visitors']} {'page is' if now['visitors'] == 1 else 'pages are'} open"
    state = "Some of it is full." if now["status"] == "full" else "Nothing is full."
    return (
        f'<p role="status" data-status="{now["status"]}"><b>{state}</b> {pages}; running for {running}, set up '
        f"{HARDWARE[profile_of(os.environ)]}.</p>"
        f'<div class="ms-server"><section><h2>What goes on</h2>{_work(now["queue"])}</section>'
        f"<section><h2>What is held</h2>{_held('Memory, all visitors', now['memory'])}"
        f"{_held('Files, all visitors', now['disk'])}"
        f'<p class="ms-muted">When memory is full, what nobody has used for longest goes first; then what idle pages '
        f"can load again. The process takes {size(now['memory']['process_bytes'])}.</p></section>"
        f"<section><h2>What you may bring and ask</h2>{_limits()}</section></div>"
        f'<p class="ms-muted">The same for programs: <a href=".{PATH}">{PATH}</a>. No text, no name of a file and no '
        "address of a visitor is written down.</p>"
    )


def _work(queue: Mapping[str, Mapping[str, int]]) -> str:
    rows = "".join(
        f'<tr data-kind="{kind}"><th scope="row">{escape(_kind(kind))}</th>'
        f"<td>{turns['running']} of {turns['at_once']}</td><td>{turns['waiting'] or '–'}</td></tr>"
        for kind, turns in queue.items()
    )
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("work", "now", "waiting"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _kind(kind: str) -> str:
    return described(f"{PREFIX}{kind}".upper()).removesuffix(" at once")


def _held(name: str, bytes_of: Mapping[str, int]) -> str:
    held, limit = bytes_of["held_bytes"], bytes_of["limit_bytes"]
    if limit >= UNBOUNDED:
        return f"<p>{name}: <b>{size(held)}</b>, no limit</p>"
    return (
        f"<p>{name}: <b>{size(held)}</b> of {size(limit)}"
        f'<progress max="{limit}" value="{held}" aria-label="{name}"></progress></p>'
    )


def _limits() -> str:
    rows = []
    for name in OF_A_VISITOR:
        what = described(f"{PREFIX}{name}".upper()).removeprefix("bytes of ")
        rows.append(f'<tr><th scope="row">{escape(what)}</th><td>{bound(name, getattr(LIMITS, name))}</td></tr>')
    return f"<table><tbody>{''.join(rows)}</tbody></table>"
