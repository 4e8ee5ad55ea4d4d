"""One thread an event. Gradio hands every value of an event to a thread and waits for it, one value after the other:
forty waits for a moved slider, each as long as the event loop is behind, which made seconds of milliseconds on a busy
server.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, get_args, get_type_hints

import gradio as gr
from gradio.context import LocalContext

_TYPED = (gr.Checkbox, gr.CheckboxGroup, gr.Dropdown, gr.Number, gr.Radio, gr.Slider, gr.State, gr.Textbox)
_SHOWN = (gr.Button, gr.Column, gr.HTML, gr.Tabs, gr.Timer)
PLAIN = {*_TYPED, *_SHOWN}
"""Components whose values are what the browser sends and takes: no files, no pictures."""
GIVEN = (gr.Request, gr.EventData, gr.OAuthProfile, gr.OAuthToken)
"""What Gradio gives a handler beside its inputs, where its signature asks for it; defaults of parameters come last."""


def in_one_thread(demo: gr.Blocks) -> None:
    """Let events of plain values check them in the very thread that does their work, and send them as they are."""
    for listener in demo.fns.values():
        if listener.fn is not None and {*map(type, listener.inputs)} <= PLAIN:
            listener.fn, listener.preprocess = prepared(listener.fn, listener.inputs), False
        if {*map(type, listener.outputs)} <= PLAIN:
            listener.postprocess = False


def prepared(work: Callable[..., Any], inputs: Sequence[Any]) -> Callable[..., Any]:
    """Return a function or generator that does the same with what the browser has sent; raises what the components say
    of values that they do not take.
    """
    besides = _given_besides(work)

    def ready(given: tuple[Any, ...]) -> list[Any]:
        session = LocalContext.blocks_config.get(None)  # whose choices and limits may have changed
        left = iter(inputs)
        return [
            _taken(None if place in besides else next(left, None), session, value) for place, value in enumerate(given)
        ]

    if inspect.isgeneratorfunction(work):

        @wraps(work)
        def steps(*given: Any) -> Iterator[Any]:
            yield from work(*ready(given))

        return steps

    @wraps(work)
    def once(*given: Any) -> Any:
        return work(*ready(given))

    return once


def _given_besides(work: Callable[..., Any]) -> set[int]:
    """Return the places of the parameters that are no inputs."""
    hints = get_type_hints(work)
    kinds = [(hints.get(name), *get_args(hints.get(name))) for name in inspect.signature(work).parameters]
    return {
        place
        for place, kind in enumerate(kinds)
        if any(inspect.isclass(one) and issubclass(one, GIVEN) for one in kind)
    }


def _taken(component: Any, session: Any, value: Any) -> Any:
    if component is None or component.stateful:
        return value
    now = session.blocks.get(component._id, component) if session else component
    return now.preprocess(value)
