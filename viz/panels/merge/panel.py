"""The Merge panel: its layout and its wiring; what happens on it is in handlers.py."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from merging.plugins.orthogonalize import Orthogonalize
from merging.services.results import Stream
from merging.services.workbench import Workbench
from viz.panels.kit.address import Address
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.kit.picked import picked
from viz.panels.kit.plot import plot
from viz.panels.merge import views
from viz.panels.merge.controls import Catalogue, Controls, Plugins, choose, controls
from viz.panels.merge.handlers import ACCURACY, OUTPUTS, STREAMED, MergeHandlers
from viz.panels.merge.recipe import Paste, paste_box, recipe
from viz.panels.merge.scaling import SweepScaling, wire_scaling
from viz.panels.merge.session import Session
from viz.panels.merge.tune import Tune, TuneCard, tune_card, wire_tune
from viz.panels.merge.verdict import verdict


@dataclass(frozen=True)
class Layout:
    """The components of the panel, by what they do."""

    controls: Controls
    outputs: dict[str, gr.HTML]
    paste: Paste
    cancel: gr.Button
    again: gr.Button
    part: list[Any]
    rank: gr.HTML
    rank_choice: list[Any]
    tune: TuneCard


@dataclass(frozen=True)
class MergeTab:
    """What other panels may use of this one.

    `form` are the controls that decide the merge, `controls` those and how many rows are tested; `after(event)` merges
    and evaluates again when an event has changed them, `opened(event)` takes the tuned values of the chosen pool first.
    `session` holds the visitor's `Session`, with the current run.
    """

    form: dict[str, Any]
    controls: dict[str, Any]
    after: Callable[[Any], None]
    opened: Callable[[Any], None]
    session: gr.State


def merge_panel(
    demo: gr.Blocks,
    address: Address,
    workbench: Workbench,
    methods: Catalogue,
    plugins: Plugins,
    stream: Stream,
    tune: Tune,
    sweep: SweepScaling,
) -> MergeTab:
    """Lay the panel out inside `demo` and wire it."""
    panel = MergeHandlers(workbench, methods, stream)
    layout = _layout(workbench, methods, plugins, panel.story())
    merging = _wire(demo, address, layout, panel)
    shown = {name: layout.outputs[name] for name in (*ACCURACY, "notes")}
    wire_scaling(layout.controls, panel, sweep, merging.session, shown, merging.after)
    wire_tune(layout.tune, workbench, methods, tune, merging.form, merging.after)
    return merging


def _layout(workbench: Workbench, methods: Catalogue, plugins: Plugins, story: str) -> Layout:
    pool = next(iter(workbench.pools))
    layers, kinds = views.parts(workbench.modules(pool))
    outputs: dict[str, gr.HTML] = {}
    gr.HTML(story, elem_id="ms-story", apply_default_css=False, container=False, padding=False, visible=bool(story))
    with gr.Row(elem_id="ms-merge"):
        with gr.Column(elem_id="ms-result"):
            outputs["verdict"] = verdict()
            # the style sheet shows the one that the verdict's state calls for
            cancel = gr.Button("Cancel", size="sm", elem_id="ms-cancel", elem_classes="ms-run")
            again = gr.Button("Evaluate again", size="sm", elem_id="ms-again", elem_classes="ms-run")
        with gr.Column(elem_id="ms-controls"):
            settings = controls(workbench, methods, plugins)
        with gr.Column(elem_id="ms-figures"):
            with gr.Column(elem_classes=["ms-card", "ms-half"]):
                outputs["accuracy"] = plot("ms-accuracy", "Accuracy per task")
            with gr.Column(elem_classes=["ms-card", "ms-half"]):
                outputs["sweep"] = plot("ms-sweep", "Average accuracy against λ")
            with gr.Column(elem_classes=["ms-card", "ms-full"]):
                outputs["compare"] = picked("ms-compare")
            card = tune_card()
            with gr.Column(elem_classes="ms-card"):
                outputs["magnitude"] = plot("ms-magnitude", "Magnitude distribution")
            with gr.Column(elem_classes="ms-card"):
                outputs["overlap"] = plot("ms-overlap", "Subspace overlap")
                with gr.Row(elem_classes="ms-choices"):
                    sides = [(name, side) for side, name in views.SIDES.items()]
                    side = gr.Dropdown(sides, value="A", label="Factor", elem_id="ms-overlap-side")
                    layer = gr.Dropdown(
                        [views.EVERY, *layers], value=views.EVERY, label="Layer", elem_id="ms-overlap-layer"
                    )
                    kind = gr.Dropdown(
                        [views.EVERY, *kinds], value=views.EVERY, label="Module", elem_id="ms-overlap-kind"
                    )
            with gr.Column(elem_classes="ms-card"):
                rank = plot("ms-rank", "Feature rank against k")
                with gr.Row(elem_classes="ms-choices"):
                    tasks = [(workbench.title(task), task) for task in workbench.tasks(pool)]
                    task = gr.Dropdown(tasks, value=tasks[0][1], label="Task", elem_id="ms-rank-task")
                    deep = layers[len(layers) // 2]
                    depth = gr.Dropdown(layers, value=deep, label="Layer", elem_id="ms-rank-layer")
                    part = gr.Dropdown(kinds, value=kinds[0], label="Input of", elem_id="ms-rank-kind")
            with gr.Column(elem_classes=["ms-card", "ms-full"]):
                outputs["recipe"] = recipe()
                paste = paste_box()
    outputs |= {"teaches": settings.teaches, "about": settings.about, "page": settings.page, "notes": settings.notes}
    return Layout(settings, outputs, paste, cancel, again, [side, layer, kind], rank, [task, depth, part], card)


def _wire(demo: gr.Blocks, address: Address, layout: Layout, panel: MergeHandlers) -> MergeTab:
    state = gr.State(Session())
    form, part = layout.controls.form, layout.part
    controls = form | {"limit": layout.controls.limit}
    outputs, figures, streamed = ([layout.outputs[name] for name in names] for names in (OUTPUTS, ACCURACY, STREAMED))
    weights, inputs = layout.controls.weights, [state, layout.controls.limit, *part, *form.values()]

    def send(values: dict[str, str], names: tuple[str, ...] = OUTPUTS) -> list[Any]:
        return [values.get(name, gr.skip()) for name in names]

    def redraw(session: Session, limit: int, side: str, layer: str, kind: str, *values: Any) -> list[Any]:
        return send(panel.redraw(session, dict(zip(form, values, strict=True)), int(limit), (side, layer, kind)))

    def evaluate(session: Session) -> Iterator[list[Any]]:
        for values in panel.evaluate(session):
            yield send(values, STREAMED)
        yield send({}, STREAMED)  # a generator that never yields would empty its outputs

    def opened(
        request: gr.Request, session: Session, limit: int, side: str, layer: str, kind: str, *values: Any
    ) -> list[Any]:
        start = dict(zip(form, values, strict=True))
        news, options, wrong = panel.open(session, start, int(limit), (side, layer, kind), str(request.query_params))
        return [wrong, *send(news), *become(controls, options)]

    def tuned(pool: str, method: str) -> list[Any]:
        return become(form, choose(panel.workbench, panel.methods, pool, method))

    def default_penalty(mode: str) -> Any:
        return gr.skip() if mode == "off" else Orthogonalize(mode).g

    def again(session: Session, *values: Any) -> list[Any]:
        session.again()
        return redraw(session, *values)

    followed = []

    def follow(event: Any) -> None:
        waits = turns("evaluations", layout.outputs["verdict"])
        followed.append(event.then(evaluate, state, streamed, **QUIET | waits))
        followed[-1].failure(lambda session: send(panel.crowded(session), ACCURACY), state, figures, **NOW)

    # most merges take milliseconds; the style sheet shows the clock only where one takes longer
    clock = QUIET | {"show_progress": "minimal", "show_progress_on": layout.outputs["about"], "queue": False}

    def after(event: Any) -> None:
        follow(event.then(redraw, inputs, outputs, **clock))

    chosen = [form["pool"], form["method"]]
    mode = form["orthogonalize"]
    moving = [component for component in form.values() if component not in (*chosen, mode)]
    moved = [component.input for component in [*moving, layout.controls.limit, *part]]
    loaded = demo.load(opened, inputs, [address.link, *outputs, *controls.values()], **clock)
    applied = _wire_paste(layout.paste, panel, controls)
    follow(loaded)
    after(applied)
    follow(gr.on(moved, redraw, inputs, outputs, **clock))
    choosing = [component.input for component in chosen] + [layout.controls.tuned.click]
    after(gr.on(choosing, tuned, chosen, list(form.values()), queue=False, **QUIET))
    after(mode.input(default_penalty, mode, form["penalty"], queue=False, **QUIET))
    after(layout.controls.equal.click(None, None, weights, js=f"() => Array({len(weights)}).fill(1)", **QUIET))
    follow(layout.again.click(again, inputs, outputs, **clock))
    _wire_cancel(layout, panel, state, figures, followed)
    for button, work in ((layout.controls.pin, panel.pin), (layout.controls.unpin, panel.unpin)):
        button.click(lambda session, work=work: send(work(session), ACCURACY), state, figures, **NOW)
    _wire_compare(layout, panel, state, figures)
    _wire_turns(layout, panel, state, controls, after)
    _wire_rank(layout, panel, loaded, applied)
    _wire_address(address, layout, panel, controls, loaded, after)
    return MergeTab(
        form,
        controls,
        after,
        lambda event: after(event.then(tuned, chosen, list(form.values()), queue=False, **QUIET)),
        state,
    )


def _wire_cancel(
    layout: Layout, panel: MergeHandlers, state: gr.State, figures: list[Any], evaluations: list[Any]
) -> None:
    """Let a visitor stop an evaluation, or give its place in the queue up: who waits behind moves up at once."""

    def cancelled(session: Session) -> list[Any]:
        values = panel.cancel(session)
        return [values.get(name, gr.skip()) for name in ACCURACY]

    stopped = layout.cancel.click(cancelled, state, figures, **NOW)
    stopped.then(None, js="() => document.querySelector('#ms-again').focus()", **QUIET)
    layout.cancel.click(None, None, None, cancels=evaluations)


def _wire_compare(layout: Layout, panel: MergeHandlers, state: gr.State, figures: list[Any]) -> None:
    """Let the buttons of the comparison choose and drop pins."""

    def compared(session: Session, event: gr.EventData) -> list[Any]:
        values = panel.compare(session, str(event.name))
        return [values.get(name, gr.skip()) for name in ACCURACY]

    layout.outputs["compare"].pick(compared, state, figures, **NOW)


def _wire_turns(
    layout: Layout,
    panel: MergeHandlers,
    state: gr.State,
    controls: dict[str, gr.components.Component],
    after: Callable[[Any], None],
) -> None:
    """Let the controls go back to what they said before, and forward again."""

    def turned(back: bool) -> Callable[[Session], list[Any]]:
        def turn(session: Session) -> list[Any]:
            return become(controls, panel.turn(session, back))

        return turn

    for button, back in ((layout.controls.undo, True), (layout.controls.redo, False)):
        after(button.click(turned(back), state, list(controls.values()), **NOW))


def _wire_address(
    address: Address,
    layout: Layout,
    panel: MergeHandlers,
    controls: dict[str, Any],
    loaded: Any,
    after: Callable[[Any], None],
) -> None:
    """Let the address bring a merge, and keep what is chosen below the figures."""

    def restore(event: gr.EventData) -> list[Any]:
        options, news = panel.restore(event.query)
        return [news, *become(controls, options)]

    back = address.restore(restore, [address.link, *controls.values()])
    after(back)
    address.arrive(back)
    parts = dict(zip(("factor", "layer", "module"), layout.part, strict=True))
    address.keep(
        "merge", parts | dict(zip(("task", "rank_layer", "rank_module"), layout.rank_choice, strict=True)), after
    )
    address.start(loaded)


def _wire_paste(paste: Paste, panel: MergeHandlers, controls: dict[str, Any]) -> Any:
    """Let the controls take over a pasted recipe; gives the event, after which they have."""

    def pasted(text: str) -> list[Any]:
        options, news = panel.paste(text)
        return [news, *become(controls, options)]

    return paste.apply.click(pasted, paste.text, [paste.said, *controls.values()], queue=False, **QUIET)


def _wire_rank(layout: Layout, panel: MergeHandlers, *restored: Any) -> None:
    """Draw the rank again after its choices, and after what may have moved pool and k."""
    pool, k = (layout.controls.form[name] for name in ("pool", "k"))

    def rank(pool: str, k: int, task: str, layer: str, kind: str) -> str:
        return views.rank_view(panel.workbench, pool, int(k), task, layer, kind)

    drawn = {
        "fn": rank,
        "inputs": [pool, k, *layout.rank_choice],
        "outputs": layout.rank,
        "concurrency_limit": 2,
        **QUIET,
    }
    gr.on([pool.change, k.input, *(choice.input for choice in layout.rank_choice)], **drawn)
    for event in restored:
        event.then(**drawn)


def become(components: Iterable[str], options: dict[str, dict[str, Any]]) -> list[Any]:
    """Give Gradio's update of each component that has new options."""
    return [gr.update(**options[name]) if name in options else gr.skip() for name in components]
