"""Export, "Does it survive 4 or 8 bits?": what quantising the merged full model would leave of the merge."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from merging.diagnostics.quantisation import advice
from merging.errors import MergeError
from merging.services.bundle import quantised
from merging.services.workbench import Workbench
from viz.figures.quantisation import surviving_update
from viz.panels.kit.alert import alert
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.kit.plot import payload, plot
from viz.panels.merge.controls import Catalogue, read
from viz.panels.merge.panel import MergeTab
from viz.panels.osrm.plan import html

CAPTION = (
    "One point per module. The error is the distance between what arrives of the update once base plus update is "
    "quantised and the update itself; above the dashed line rounding is larger than the update. Kept apart as an "
    "adapter on the quantised base, the update would arrive whole."
)
HEADINGS = {
    "module": "module",
    "size": "‖ΔW‖ / ‖W₀‖",
    "nf4_error": "error, 4 bits",
    "nf4_unchanged": "codes unchanged, 4 bits",
    "int8_error": "error, 8 bits",
    "int8_unchanged": "codes unchanged, 8 bits",
}


def bits_section(
    workbench: Workbench, methods: Catalogue, merging: MergeTab, kind: gr.Radio, head: gr.Dropdown
) -> tuple[gr.HTML, gr.Column]:
    """Lay the section out and wire it; return what another merge makes stale: the note and the figure's column."""
    with gr.Column(elem_id="ms-bits", elem_classes=["ms-card", "ms-full"], visible=False) as section:
        html("ms-bits-heading", "<h2>Does it survive 4 or 8 bits?</h2>")
        html(
            "ms-bits-help",
            "<p>Many full models are quantised after the merge. This measures, module by module and in plain "
            "arithmetic, how much of the merge that would leave.</p>",
        )
        with gr.Row(elem_classes="ms-buttons"):
            ask = gr.Button("Measure", size="sm", elem_id="ms-bits-measure")
        note = html("ms-bits-note")
        with gr.Column(visible=False) as drawn:
            figure = plot("ms-bits-figure", "What 4 and 8 bits leave of the merge")

    def measure(heads: list[str], *values: Any) -> Iterator[list[Any]]:
        settings = read(workbench, methods, dict(zip(merging.form, values, strict=True)))
        yield ['<p role="status">Merging.</p>', gr.skip(), gr.update(visible=False)]
        try:
            for step in quantised(workbench, settings, heads):
                if isinstance(step, pd.DataFrame):
                    lines = "".join(f"<li>{escape(line)}</li>" for line in advice(step))
                    drawing = payload(surviving_update(step), CAPTION, step.rename(columns=HEADINGS), "quantisation")
                    yield [f'<ul role="status">{lines}</ul>', drawing, gr.update(visible=True)]
                else:
                    yield [f'<p role="status">{escape(step.what)}</p>', gr.skip(), gr.skip()]
        except MergeError as error:
            yield [alert(error), gr.skip(), gr.update(visible=False)]

    inputs, shown = [head, *merging.form.values()], [note, figure, drawn]
    ask.click(measure, inputs, shown, **turns("exports"), **QUIET)
    kind.change(lambda form: gr.update(visible=form == "model"), kind, section, **NOW)
    return note, drawn
