"""A piece of HTML whose buttons are events (assets/js/said.js)."""

import gradio as gr

from viz.panels.kit.plot import ASSETS


def picked(elem_id: str) -> gr.HTML:
    """Make a piece of HTML whose buttons with `data-pick` give the event `pick`."""
    return gr.HTML(
        html_template='<div class="ms-filled"></div>',
        js_on_load=(ASSETS / "js" / "said.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        apply_default_css=False,
        container=False,
        padding=False,
    )
