"""The OSRM panel: its wiring; where things are is in osrm_layout.py, what happens in osrm_handlers.py and
osrm_training.py.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from viz.panels.kit.address import Address
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.osrm.found import FOUND, Found
from viz.panels.osrm.handlers import SUBSPACE, OsrmHandlers
from viz.panels.osrm.layout import Layout, lay_out
from viz.panels.osrm.plan import variant_help
from viz.panels.osrm.session import OsrmSession
from viz.panels.osrm.training import CURVES

PLAN = (*SUBSPACE, "note")
TRAINING = ("training", *CURVES, "sets")


def osrm_panel(
    demo: gr.Blocks, tab: gr.Tab, address: Address, panel: OsrmHandlers, found: Found, pool: gr.Radio
) -> None:
    """Lay the panel out inside `tab` and wire it; `pool` is the Merge panel's choice, to which own sets are added."""
    _wire(demo, tab, address, lay_out(panel, found), panel, found, pool)


def _wire(
    demo: gr.Blocks,
    tab: gr.Tab,
    address: Address,
    layout: Layout,
    panel: OsrmHandlers,
    found: Found,
    pool: gr.Radio,
) -> None:
    state = gr.State(OsrmSession())
    form = layout.plan.form
    inputs = [state, *layout.parts, *form.values()]

    def components(names: tuple[str, ...]) -> list[Any]:
        return [layout.outputs[name] for name in names]

    def redraw(session: OsrmSession, task: str, layer: str, part: str, *values: Any) -> list[Any]:
        news = panel.redraw(session, dict(zip(form, values, strict=True)), (task, layer, part))
        # only with new options: an answer that repeats what was picked would undo what has been picked meanwhile
        fits = zip(news["parts"], session.part, strict=True) if "parts" in news else ()
        updates = [gr.update(choices=options, value=value) for options, value in fits]
        return [*_send(news, PLAN), *(updates or [gr.skip()] * len(layout.parts))]

    def opened(session: OsrmSession, method: str | None, *values: Any) -> list[Any]:
        news = session.changed(
            **panel.training(session),
            **panel.sets(session),
            **found.views(method, _seen(session)),
            found=_sentence(found),
        )
        tasks = gr.update(choices=[(title, name) for name, title in panel.titles(session).items()])
        return [*_send(news, (*TRAINING, *FOUND, "found")), *redraw(session, *values), tasks]

    def add_task(session: OsrmSession, chosen: list[str], path: str) -> list[Any]:
        news = panel.add_task(session, path)
        if "added" not in news:
            return [
                gr.skip(),
                session.changed(**news)["note"] if session.sent.get("note") != news["note"] else gr.skip(),
            ]
        return [gr.update(choices=news["tasks"], value=[*chosen, news["added"]]), gr.skip()]

    # -- the plan and the figures that answer to it
    planned = [*components(PLAN), *layout.parts]

    def look(event: Any) -> None:
        event.then(_stream(panel.look, PLAN), state, components(PLAN), **turns("readings"), **QUIET)

    demo.load(lambda session: session.sent.clear(), state, **NOW)  # a reloaded page shows nothing yet
    everything = components((*TRAINING, *FOUND, "found"))
    shown = [*everything, *planned, form["tasks"]]
    look(address.opened(tab, "osrm", opened, [state, layout.method, *inputs[1:]], shown))
    base = form["base"]
    moved = [component.input for component in [*form.values(), *layout.parts] if component is not base]
    look(gr.on(moved, redraw, inputs, planned, **NOW))
    rebased = base.input(_rebased(panel), base, [form["modules"], layout.plan.note], **QUIET)
    look(rebased.success(redraw, inputs, planned, **QUIET))  # it may fetch the base first
    form["variant"].input(variant_help, form["variant"], layout.plan.help, **NOW)
    uploaded = layout.plan.upload.upload(
        add_task, [state, form["tasks"], layout.plan.upload], [form["tasks"], layout.plan.note], **QUIET
    )

    def added(session: OsrmSession, *values: Any) -> list[Any]:
        # what is wrong with a file stays on the page: nothing else has changed
        return [gr.skip()] * len(planned) if session.refused else redraw(session, *values)

    look(uploaded.success(added, inputs, planned, **NOW))
    layout.plan.stop.click(lambda session: _send(panel.stop_reading(session), PLAN), state, components(PLAN), **NOW)
    again = layout.plan.read.click(panel.read_again, state, **NOW)
    look(again.then(redraw, inputs, planned, **NOW))

    _wire_training(layout, panel, state, pool)
    _wire_found(address, layout, found, state, lambda event: look(event.then(redraw, inputs, planned, **NOW)))


def _wire_training(layout: Layout, panel: OsrmHandlers, state: gr.State, pool: gr.Radio) -> None:
    """Train what the plan says; offer what comes of it."""
    form, shipped = layout.plan.form, list(pool.choices)

    def components(names: tuple[str, ...]) -> list[Any]:
        return [layout.outputs[name] for name in names]

    def start(session: OsrmSession, *values: Any) -> list[Any]:
        news: dict[str, Any] = panel.start(session, dict(zip(form, values, strict=True)))
        return _send(news, (*TRAINING, "note"))

    def train(session: OsrmSession) -> Iterator[list[Any]]:
        for values in panel.train(session):
            offered = [gr.skip()] * 3
            if values.get("choice"):
                newest = values["choice"][0][1]
                file = gr.update(value=panel.archive(session, newest), interactive=True)
                choices = gr.update(choices=[*shipped, *values["pools"]])
                offered = [choices, gr.update(choices=values["choice"], value=newest), file]
            yield [*_send(values, TRAINING), *offered]
        yield [gr.skip()] * (len(TRAINING) + 3)

    begun = layout.plan.train.click(start, [state, *form.values()], components((*TRAINING, "note")), **NOW)
    begun.then(None, None, None, js="() => window.mergescopeShow('osrm.question', 'training')", **QUIET)
    offered = [pool, layout.choice, layout.download]
    waits = turns("trainings", layout.outputs["training"])
    trained = begun.then(train, state, [*components(TRAINING), *offered], **QUIET | waits)
    status = layout.outputs["training"]
    trained.failure(lambda session: _send(panel.crowded(session), ("training",)), state, status, **NOW)
    layout.cancel.click(
        lambda session: _send(panel.cancel(session), ("training",)), state, layout.outputs["training"], **NOW
    )
    _wire_sets(layout, panel, state, trained)


def _wire_found(address: Address, layout: Layout, found: Found, state: gr.State, replan: Callable[[Any], None]) -> None:
    """Draw what was found as far as it is seen; keep the panel's choices in the page's address."""
    outputs = [layout.outputs[name] for name in FOUND]
    inputs = [state, layout.method]

    def drawn(session: OsrmSession, method: str | None) -> list[Any]:
        return list(_send(found.views(method, _seen(session)), FOUND))

    def asked(session: OsrmSession, method: str | None, event: gr.EventData) -> list[Any]:
        session.question = event.name
        return drawn(session, method)

    def picked(session: OsrmSession, method: str | None, event: gr.EventData) -> list[Any]:
        session.figure = event.name
        return drawn(session, method)

    def views(event: Any) -> None:
        replan(event)
        event.then(drawn, inputs, outputs, **NOW)

    layout.question.pick(asked, inputs, outputs, **NOW)
    layout.figure.pick(picked, inputs, outputs, **NOW)
    layout.method.input(drawn, inputs, outputs, **NOW)
    chosen = dict(zip(("task", "layer", "part"), layout.parts, strict=True)) | {"method": layout.method}
    address.keep("osrm", layout.plan.form | chosen, views)


def _wire_sets(layout: Layout, panel: OsrmHandlers, state: gr.State, trained: Any) -> None:
    """Merge the visitor's sets after a training and at another λ, and let them be downloaded."""
    sets = layout.outputs["sets"]
    rescaled = layout.scaling.input(
        lambda session, scaling: _send(panel.rescale(session, scaling), ("sets",)),
        [state, layout.scaling],
        sets,
        **NOW,
    )
    for event in (trained, rescaled):
        measure = _stream(panel.measure, ("sets",))
        event.then(measure, state, sets, **turns("evaluations"), **QUIET)
    layout.choice.input(panel.archive, [state, layout.choice], layout.download, **NOW)


def _rebased(panel: OsrmHandlers) -> Callable[[str], list[Any]]:
    """Make what gives the kinds of modules of another base, or says why it cannot be had."""

    def rebased(base: str) -> list[Any]:
        news = panel.modules(base)
        return [gr.skip(), news["note"]] if "note" in news else [gr.update(**news), gr.skip()]

    return rebased


def _seen(session: OsrmSession) -> Sequence[str]:
    """Name the figures of what was found that are seen."""
    if session.question not in {"found", "all"}:
        return ()
    return FOUND if session.figure == "all" else [session.figure if session.figure in FOUND else FOUND[0]]


def _sentence(found: Found) -> str:
    return f'<p data-state="{"some" if found.methods else "none"}">{found.sentence}</p>'


def _send(values: dict[str, Any], names: tuple[str, ...]) -> Any:
    found = [values.get(name, gr.skip()) for name in names]
    return found if len(found) > 1 else found[0]


def _stream(work: Callable[..., Iterator[dict[str, Any]]], names: tuple[str, ...]) -> Callable[..., Iterator[Any]]:
    def run(session: OsrmSession) -> Iterator[Any]:
        for values in work(session):
            yield _send(values, names)
        # a generator's last value is sent once more when it ends, and one that never yields would empty its outputs
        yield _send({}, names)

    return run
