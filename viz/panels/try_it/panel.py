"""The Try it panel: its wiring; where things are is in layout.py, what happens in handlers.py."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from viz.panels.kit.address import Address
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.merge.controls import Catalogue, form_of, read
from viz.panels.merge.panel import MergeTab, become
from viz.panels.merge.session import Session
from viz.panels.try_it.broke import BrokeHandlers
from viz.panels.try_it.broke_panel import Section, lay_out_broke, wire_broke
from viz.panels.try_it.chat import ChatHandlers
from viz.panels.try_it.chat_panel import ChatSection, lay_out_chat, wire_chat
from viz.panels.try_it.handlers import OUTPUTS, Options, TryHandlers
from viz.panels.try_it.layout import Layout, lay_out
from viz.panels.try_it.session import TrySession

Handlers = tuple[TryHandlers, BrokeHandlers, ChatHandlers]


def try_panel(tab: gr.Tab, address: Address, tried: Handlers, methods: Catalogue, merging: MergeTab) -> None:
    """Lay the panel out inside `tab` and wire it; it asks the merge that the Merge tab shows."""
    layout, sections = lay_out(_slider(methods), lambda: (lay_out_chat(), lay_out_broke()))
    _wire(tab, address, layout, sections, tried, methods, merging, gr.State(TrySession()))


def _slider(methods: Catalogue) -> dict[str, Any]:
    scaling = next(p for method in methods.values() for p in method.params if p.name == "scaling")
    limits = {"minimum": scaling.minimum, "maximum": scaling.maximum, "step": scaling.step, "value": 1.0}
    return limits | {"label": "Scaling λ"}


def _wire(
    tab: gr.Tab,
    address: Address,
    layout: Layout,
    sections: tuple[ChatSection, Section],
    tried: Handlers,
    methods: Catalogue,
    merging: MergeTab,
    state: gr.State,
) -> None:
    panel, broke, chat = tried
    outputs, controls = list(layout.outputs.values()), layout.controls
    names = list(layout.outputs)
    assert set(names) == set(OUTPUTS)

    def send(values: dict[str, str]) -> list[Any]:
        return [values.get(name, gr.skip()) for name in names]

    def both(values: dict[str, str], options: Options) -> list[Any]:
        return [*send(values), *become(controls, options)]

    def opened(session: TrySession, merge: Session, *values: Any) -> list[Any]:
        settings = read(panel.workbench, methods, dict(zip(merging.form, values, strict=True)))
        return both(*panel.open(session, settings, merge))

    def begin(session: TrySession) -> Iterator[list[Any]]:
        for values in panel.explain(session):
            yield both(values, {})
        if session.settings is not None and session.examples_of != session.settings.pool:
            session.examples_of = session.settings.pool
            choices = panel.examples(session.settings)
            yield both({}, {"examples": {"choices": choices, "value": None, "visible": bool(choices)}})
        yield both({}, {})

    def typed(session: TrySession, written: str) -> list[Any]:
        return both(*panel.write(session, written))

    def placed(text: str, values: dict[str, str], options: Options) -> list[Any]:
        return [text, *both(values, options)]

    def looked(session: TrySession, picture: Any) -> list[Any]:
        return both(panel.look(session, picture), {})

    def drawn(session: TrySession) -> list[Any]:
        return placed(*panel.random(session))

    def example(session: TrySession, text: str | None) -> list[Any]:
        return placed(text or "", *panel.write(session, text or ""))

    def moved(session: TrySession, scaling: float) -> list[Any]:
        return both(panel.scale(session, scaling), {})

    def chosen_task(session: TrySession, task: str) -> list[Any]:
        return both(panel.choose(session, task=task), {})

    def clicked(session: TrySession, event: gr.EventData) -> list[Any]:
        if session.settings is None or event.name not in panel.titles_of(session.settings):
            return both({}, {})
        return both(panel.choose(session, task=event.name), {"task": {"value": event.name}})

    def cleared(session: TrySession) -> list[Any]:
        return placed("", *panel.write(session, ""))

    def use(session: TrySession) -> list[Any]:
        options = form_of(methods, session.settings) if session.settings else {}
        session.taken = session.settings
        return become(merging.form, options)

    everything, written = [*outputs, *controls.values()], layout.written

    def follow(event: Any) -> None:
        event.then(begin, state, everything, **turns("answers"), **QUIET)

    def put(session: TrySession, row: tuple[str, str, str]) -> list[Any]:
        return placed(*panel.put(session, *row))

    taken = address.opened(tab, "try", opened, [state, merging.session, *merging.form.values()], everything)
    wire_chat(sections[0], chat, state, taken)
    wire_broke(sections[1], broke, merging, state, taken, put, [written, *everything], follow)
    follow(taken)
    # not `input`, which Gradio gives for keys alone and not for a paste
    follow(written.change(typed, [state, written], everything, **NOW))
    follow(layout.clear.click(cleared, state, [written, *everything], **NOW))
    follow(controls["random"].click(drawn, state, [written, *everything], **NOW))
    follow(controls["examples"].input(example, [state, controls["examples"]], [written, *everything], **NOW))
    follow(controls["picture"].change(looked, [state, controls["picture"]], everything, **NOW))
    follow(controls["scaling"].input(moved, [state, controls["scaling"]], everything, **NOW))
    follow(controls["task"].input(chosen_task, [state, controls["task"]], everything, **NOW))
    address.keep(
        "try",
        {"task": controls["task"], "text": written},
        lambda event: follow(event.then(chosen_task, [state, controls["task"]], everything, **NOW)),
        layout.linked,
    )
    follow(
        controls["text"].input(
            lambda session, place: both(panel.choose(session, text=place), {}),
            [state, controls["text"]],
            everything,
            **NOW,
        )
    )
    follow(layout.outputs["bars"].pick(clicked, state, everything, **NOW))
    merging.after(controls["use"].click(use, state, list(merging.form.values()), **NOW))
