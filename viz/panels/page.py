"""The page: header and panels, and the options that Gradio takes at launch."""

import gradio as gr

from merging.search import CONTENDERS
from viz.panels.component import serve_files
from viz.panels.controls import Catalogue, Plugins
from viz.panels.handlers import Stream
from viz.panels.look import header
from viz.panels.merge_panel import merge_panel
from viz.panels.osrm_found import Found
from viz.panels.osrm_handlers import OsrmHandlers
from viz.panels.osrm_panel import osrm_panel
from viz.panels.services import Workbench


def page(workbench: Workbench, methods: Catalogue, plugins: Plugins, stream: Stream, osrm: OsrmHandlers) -> gr.Blocks:
    """Put the page together.

    Parameters
    ----------
    workbench : Workbench
        Pools, merges and measurements.
    methods, plugins : mapping
        Name -> method or plug-in with its `params`.
    stream : callable
        `stream(settings, limit)` yields the steps of `Workbench.evaluate`.
    osrm : OsrmHandlers
        The OSRM panel's services.
    """
    serve_files()
    found = Found(workbench.tables, {name: contender.title for name, contender in CONTENDERS.items()})
    # copies of what visitors download are removed after a day
    with gr.Blocks(title="Mergescope", fill_width=True, analytics_enabled=False, delete_cache=(3600, 86_400)) as demo:
        header(workbench.device, workbench.base_title)
        with gr.Tabs(elem_id="ms-tabs"):
            with gr.Tab("Merge", id="merge"):
                pool = merge_panel(demo, workbench, methods, plugins, stream)
            with gr.Tab("OSRM", id="osrm") as tab:
                osrm_panel(demo, tab, osrm, found, pool)
    return demo
