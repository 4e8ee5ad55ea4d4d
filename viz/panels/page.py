"""The page: header and panels, and the options that Gradio takes at launch."""

from collections.abc import Sequence
from threading import Thread
from typing import Any

import gradio as gr

from merging.experiments.sweep import CONTENDERS
from merging.services.governor import Governor
from merging.services.limits import LIMITS
from merging.services.results import Stream
from merging.services.visitor import Visitor
from merging.services.workbench import Workbench
from viz.panels.adapters.handlers import AdaptersHandlers
from viz.panels.adapters.panel import adapters_panel
from viz.panels.diagnose.bank import BankViews
from viz.panels.diagnose.demand import Demand
from viz.panels.diagnose.handlers import DiagnoseHandlers
from viz.panels.diagnose.panel import diagnose_panel
from viz.panels.export.panel import export_panel
from viz.panels.kit.address import Address
from viz.panels.kit.events import QUIET
from viz.panels.kit.hops import in_one_thread
from viz.panels.kit.look import header, header_html
from viz.panels.kit.plot import serve_files
from viz.panels.kit.sentences import Sentences
from viz.panels.lessons.gallery import Drawings
from viz.panels.lessons.panel import lessons_card, lessons_tab
from viz.panels.merge.controls import Catalogue, Plugins
from viz.panels.merge.panel import merge_panel
from viz.panels.merge.scaling import SweepScaling
from viz.panels.merge.tune import Tune
from viz.panels.osrm.found import Found
from viz.panels.osrm.handlers import OsrmHandlers
from viz.panels.osrm.panel import osrm_panel
from viz.panels.programs.endpoints import Programs
from viz.panels.server.about import about_server
from viz.panels.server.health import Health
from viz.panels.server.jobs import watch
from viz.panels.try_it.panel import Handlers, try_panel

STATUS_EVERY = 2.0
"""Seconds between two words to those who wait of their place."""


def page(
    workbench: Workbench,
    methods: Catalogue,
    plugins: Plugins,
    stream: Stream,
    demand: Demand,
    osrm: OsrmHandlers,
    brought: AdaptersHandlers,
    tried: Handlers,
    tune: Tune,
    sweep: SweepScaling,
    programs: Programs,
    health: Health,
    bases: Sequence[str] = (),
) -> gr.Blocks:
    """Put the page together.

    Parameters
    ----------
    workbench : Workbench
        Pools, merges and measurements.
    methods, plugins : mapping
        Name -> method or plug-in with its `params`.
    stream : callable
        `stream(settings, limit)` yields the steps of `Workbench.evaluate`.
    demand : Demand
        What the Diagnose panel measures on demand.
    osrm : OsrmHandlers
        The OSRM panel's services.
    brought : AdaptersHandlers
        The Adapters panel's.
    tried : Handlers
        The Try it panel's.
    tune : callable
        `tune(plan)` yields the steps of `merging.services.tuning.tune`.
    sweep : callable
        `sweep(settings, rows)` yields those of `merging.services.tuning.sweep_scaling`.
    programs : Programs
        What programs ask.
    health : Health
        What the server says of itself.
    bases : sequence of str
        Folders with further base models that visitors may choose.
    """
    serve_files()
    found = Found(workbench.tables, {name: contender.title for name, contender in CONTENDERS.items()})
    bank = BankViews(workbench.tables)

    def leave(visitor: Visitor) -> None:
        # apart: the loop that calls this for all visitors must not wait for a disk, and would end where one fails
        Thread(target=workbench.governor.part, args=[visitor]).start()

    # copies of what visitors download are removed after a day
    with Sentences(title="Mergescope", fill_width=True, analytics_enabled=False, delete_cache=(3600, 86_400)) as demo:
        programs.register()  # first, so that no listener of the page takes an endpoint's name
        visitor = gr.State(Visitor(), delete_callback=leave)
        top = header(workbench.device, workbench.base_title(next(iter(workbench.pools))))
        address = Address()
        with gr.Tabs(elem_id="ms-tabs") as tabs:
            with gr.Tab("Merge", id="merge"):
                merging = merge_panel(demo, address, workbench, methods, plugins, stream, tune, sweep)
            with gr.Tab("Lessons", id="lessons"):
                lessons_tab(Drawings(workbench, found, bank.do_merging))
            with gr.Tab("Try it", id="try") as tab:
                try_panel(tab, address, tried, methods, merging)
            with gr.Tab("Adapters", id="adapters") as tab:
                adapters_panel(tab, tabs, brought, merging, list(merging.form["pool"].choices), bases)
            with gr.Tab("Diagnose", id="diagnose") as tab:
                diagnose_panel(tab, address, DiagnoseHandlers(workbench, methods), demand, plugins, bank, merging)
            with gr.Tab("OSRM", id="osrm") as tab:
                osrm_panel(demo, tab, address, osrm, found, merging.form["pool"])
            with gr.Tab("Export", id="export") as tab:
                export_panel(tab, address, workbench, methods, merging)
        lessons_card(workbench, methods, merging)
        about_server(health)
        pool = merging.form["pool"]
        about = {
            "fn": lambda key: header_html(workbench.device, workbench.base_title(key)),
            "inputs": pool,
            "outputs": top,
        }
        pool.change(**about, queue=False, **QUIET)
        _register_states(demo, visitor, workbench.governor)
        in_one_thread(demo)
        watch(demo, workbench.governor)
        _note_closing(demo, workbench.governor)
    health.demo = demo
    # nobody passes by the queue: it is what keeps one visitor's work from taking another's turn
    return demo.queue(STATUS_EVERY, max_size=LIMITS.waiting, api_open=False)


def _register_states(demo: gr.Blocks, visitor: gr.State, governor: Governor) -> None:
    """Let every state be returned once: Gradio calls a state's delete_callback, and frees it, only if a handler has
    returned it.
    """
    others = [block for block in demo.blocks.values() if isinstance(block, gr.State) and block is not visitor]

    def opened(request: gr.Request, visitor: Visitor, *values: Any) -> tuple[Any, ...]:
        governor.welcome(visitor, str(request.session_hash))
        return _of_one_visitor(visitor, *values)

    demo.load(opened, [visitor, *others], [visitor, *others], queue=False, **QUIET)


def _note_closing(demo: gr.Blocks, governor: Governor) -> None:
    """Let the governor know of a page that has closed."""

    def closed(request: gr.Request) -> None:
        page = str(request.session_hash)
        # Gradio marks only pages that it knows: one that closes before its first event would be kept for ever
        demo.state_holder[page].is_closed = True
        governor.closed(page)

    demo.unload(closed)


def _of_one_visitor(visitor: Visitor, *values: Any) -> tuple[Any, ...]:
    """Give the sessions of a page's tabs one visitor: what is added on one tab is there on all, and goes at once."""
    visitor.take(value for value in values if hasattr(value, "visitor"))
    return (visitor, *values)
