"""The Diagnose panel: its wiring; where things are is in diagnose_layout.py, what happens in diagnose_handlers.py."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from viz.panels.diagnose.bank import BankViews
from viz.panels.diagnose.demand import Demand
from viz.panels.diagnose.handlers import DiagnoseHandlers, DiagnoseSession
from viz.panels.diagnose.layout import Layout, lay_out
from viz.panels.kit.address import Address
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.merge.controls import Plugins, read
from viz.panels.merge.panel import MergeTab

DRAWN = ("linked", "about", "note")
FOUND = ("sentence", "forest", "scatter")


def diagnose_panel(
    tab: gr.Tab,
    address: Address,
    panel: DiagnoseHandlers,
    demand: Demand,
    plugins: Plugins,
    found: BankViews,
    merging: MergeTab,
) -> None:
    """Lay the panel out inside `tab` and wire it; it looks at the merge that the Merge tab shows."""
    layout = lay_out(plugins, found)
    state = gr.State(DiagnoseSession())
    _wire_merge(tab, address, layout, panel, merging, state)
    _wire_demand(layout, panel, demand, state)
    _wire_found(address, layout, found)


def _wire_merge(
    tab: gr.Tab, address: Address, layout: Layout, panel: DiagnoseHandlers, merging: MergeTab, state: gr.State
) -> None:
    form = layout.form
    outputs = [getattr(layout, name) for name in DRAWN]
    controls = list(form.values())

    def send(values: dict[str, str]) -> list[Any]:
        return [values.get(name, gr.skip()) for name in DRAWN]

    def opened(session: DiagnoseSession, *values: Any) -> list[Any]:
        settings = read(panel.workbench, panel.methods, dict(zip(merging.form, values, strict=True)))
        news = panel.take(session, settings)
        options = news.pop("controls")
        return [*send(news), *(gr.update(**options[name]) if name in options else gr.skip() for name in form)]

    def moved(session: DiagnoseSession, *values: Any) -> list[Any]:
        return send(panel.move(session, dict(zip(form, values, strict=True))))

    def look(session: DiagnoseSession) -> Iterator[list[Any]]:
        for values in panel.look(session):
            yield send(values)
        yield send({})  # a generator that never yields would empty its outputs

    def use(session: DiagnoseSession, *values: Any) -> list[Any]:
        options = panel.given_back(session, dict(zip(form, values, strict=True)))
        return [gr.update(**options[name]) if name in options else gr.skip() for name in merging.form]

    def follow(event: Any) -> None:
        event.then(look, state, outputs, **turns("readings"), **QUIET)

    follow(address.opened(tab, "diagnose", opened, [state, *merging.form.values()], [*outputs, *controls]))
    # the sliders are the browser's: it presses `settled` when they rest
    follow(gr.on([layout.settled.click, form["orthogonalize"].input], moved, [state, *controls], outputs, **NOW))
    merging.after(layout.use.click(use, [state, *controls], list(merging.form.values()), **NOW))


def _wire_demand(layout: Layout, panel: DiagnoseHandlers, demand: Demand, state: gr.State) -> None:
    parts = layout.on_demand
    outputs = [parts["left_out"], parts["cancel"]]

    def send(values: dict[str, Any]) -> list[Any]:
        busy = gr.update(interactive=values["busy"]) if "busy" in values else gr.skip()
        return [values.get("left_out", gr.skip()), busy]

    def run(work: Callable[[DiagnoseSession], Iterator[dict[str, Any]]]) -> Callable[..., Iterator[list[Any]]]:
        def stream(session: DiagnoseSession, *values: Any) -> Iterator[list[Any]]:
            panel.keep(session, dict(zip(layout.form, values, strict=True)))
            for news in work(session):
                yield send(news)
            yield send({})

        return stream

    works = {
        "adapters": lambda session: demand.leave_out(session, "adapter"),
        "layers": lambda session: demand.leave_out(session, "layer"),
    }
    inputs = [state, *layout.form.values()]
    for name, work in works.items():
        parts[name].click(run(work), inputs, outputs, **turns("evaluations"), **QUIET)
    parts["cancel"].click(lambda session: send(demand.cancel(session)), state, outputs, **NOW)


def _wire_found(address: Address, layout: Layout, found: BankViews) -> None:
    """Draw what ships when its question is asked, and another choice of it."""
    bank, papers = layout.found, layout.do_merging

    def asked(diagnostic: str | None, figure: str | None, event: gr.EventData) -> list[Any]:
        views = [gr.skip()] * (len(FOUND) + 1)
        if event.name in {"predict", "all"}:
            views[:-1] = [f"<p>{found.sentence}</p>", found.forest(), found.scatter(diagnostic or "")]
        if event.name in {"papers", "all"}:
            views[-1] = found.do_merging.show(figure)
        return views

    choices = [bank["choice"], papers["choice"]]
    layout.question.pick(asked, choices, [*(bank[name] for name in FOUND), papers["figure"]], **QUIET)
    bank["choice"].input(found.scatter, bank["choice"], bank["scatter"], **NOW)
    papers["choice"].input(found.do_merging.show, papers["choice"], papers["figure"], **QUIET)

    def views(event: Any) -> None:
        event.then(found.do_merging.show, papers["choice"], papers["figure"], **QUIET)
        event.then(found.scatter, bank["choice"], bank["scatter"], **QUIET)

    address.keep("diagnose", {"do_figure": papers["choice"], "diagnostic": bank["choice"]}, views)
