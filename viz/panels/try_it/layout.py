"""Where everything is on the Try it panel: the text and the merge at the left, the answers and the reasons at the
right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from merging.services.limits import LIMITS
from viz.panels.kit.picked import picked
from viz.panels.kit.plot import plot
from viz.panels.osrm.plan import html

HEARD = '<div role="status" aria-live="polite">${value}</div>'


@dataclass(frozen=True)
class Layout:
    """The components of the panel, by what they do: `controls` by name, `outputs` by name."""

    written: gr.Textbox
    linked: gr.Checkbox
    controls: dict[str, Any]
    clear: gr.Button
    outputs: dict[str, gr.HTML]


def lay_out(scaling: dict[str, Any], below: Callable[[], Any]) -> tuple[Layout, Any]:
    """Lay the panel out; `scaling` are the options of the slider of λ, `below` lays out what comes last."""
    outputs: dict[str, gr.HTML] = {}
    controls: dict[str, Any] = {}
    with gr.Row(elem_id="ms-try"):
        with gr.Column(elem_id="ms-try-controls"):
            html("ms-try-heading", "<h2>Your text</h2>")
            written = gr.Textbox(
                label=f"A text, or up to {LIMITS.texts}, one a line",
                lines=4,
                max_lines=10,
                max_length=LIMITS.text_characters + 1,
                placeholder="Where is the Louvre?",
                elem_id="ms-try-text",
            )
            linked = gr.Checkbox(label="Text in the link", elem_id="ms-try-linked")
            controls["picture"] = gr.Image(
                type="pil", label="A picture", sources=["upload", "clipboard"], visible=False, elem_id="ms-try-picture"
            )
            controls["text"] = gr.Dropdown([], label="Text that is looked at", visible=False, elem_id="ms-try-which")
            controls["task"] = gr.Dropdown([], label="Task that is looked at", elem_id="ms-try-task")
            controls["examples"] = gr.Dropdown([], label="Examples (test rows)", elem_id="ms-try-examples")
            with gr.Row(elem_classes="ms-buttons"):
                controls["random"] = gr.Button("Random test row", size="sm", elem_id="ms-try-random")
                clear = gr.Button("Clear", size="sm", elem_id="ms-try-clear")
            html("ms-try-merge", "<h2>The merge</h2>")
            outputs["about"] = html("ms-try-about")
            controls["scaling"] = gr.Slider(**scaling, elem_id="ms-try-scaling", elem_classes="ms-slider")
            with gr.Row(elem_classes="ms-buttons"):
                controls["use"] = gr.Button("Use this λ on the Merge tab", size="sm", elem_id="ms-try-use")
            outputs["note"] = html("ms-try-note")
            outputs["work"] = html("ms-try-work")
        with gr.Column(elem_id="ms-try-figures"):
            with gr.Column(elem_classes=["ms-card", "ms-full"]):
                html("ms-try-says-title", "<h2>What everybody says</h2>")
                outputs["summary"] = gr.HTML(
                    html_template=HEARD,
                    elem_id="ms-try-summary",
                    apply_default_css=False,
                    container=False,
                    padding=False,
                )
                outputs["bars"] = picked("ms-try-bars")
            with gr.Column(elem_classes=["ms-card", "ms-half"]):
                outputs["labels"] = plot("ms-try-labels", "Every label of the task")
            with gr.Column(elem_classes=["ms-card", "ms-half"]):
                outputs["blame"] = plot("ms-try-blame", "Who did it")
            with gr.Column(elem_classes=["ms-card", "ms-half"]):
                outputs["story"] = plot("ms-try-story", "The answer over λ")
            with gr.Column(elem_classes=["ms-card", "ms-half"]):
                outputs["layers"] = plot("ms-try-layers", "Where it is decided")
            with gr.Column(elem_classes=["ms-card", "ms-full", "ms-loud"]):
                outputs["loudness"] = plot("ms-try-loudness", "How loud each update is on this text")
            last = below()
    return Layout(written, linked, controls, clear, outputs), last
