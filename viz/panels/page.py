"""The page: header and panels, and the options that Gradio takes at launch."""

import gradio as gr

from viz.panels.component import serve_files
from viz.panels.controls import Catalogue, Plugins
from viz.panels.handlers import Stream
from viz.panels.look import header
from viz.panels.merge_panel import merge_panel
from viz.panels.services import Workbench


def page(workbench: Workbench, methods: Catalogue, plugins: Plugins, stream: Stream) -> gr.Blocks:
    """Put the page together.

    Parameters
    ----------
    workbench : Workbench
        Pools, merges and measurements.
    methods, plugins : mapping
        Name -> method or plug-in with its `params`.
    stream : callable
        `stream(settings, limit)` yields the steps of `Workbench.evaluate`.
    """
    serve_files()
    with gr.Blocks(title="Mergescope", fill_width=True, analytics_enabled=False) as demo:
        header(workbench.device, workbench.base_title)
        merge_panel(demo, workbench, methods, plugins, stream)
    return demo
