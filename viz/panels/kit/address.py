"""The page's address: which tab is open, which merge it shows, what was chosen (assets/js/address.js keeps it).

A choice is a key ``panel.name`` of the query. The browser writes it when a visitor makes it, and sends it to the server
when a link, Back or Forward brings it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
import orjson

from merging.errors import MergeError
from viz.panels.kit.alert import alert
from viz.panels.kit.events import NOW, QUIET
from viz.panels.kit.plot import EARLY_HEAD

PANELS = ("merge", "try", "diagnose", "osrm", "export")
RESTORE = "restore"
LONGEST = 80
"""Characters of a choice that is read from a stranger's link."""
Refresh = Callable[[Any], Any]


class Address:
    """The component that speaks with the browser.

    Its value is what a link could not choose; that of `link` is what is wrong with a link's merge.
    """

    def __init__(self) -> None:
        bare: dict[str, Any] = {"apply_default_css": False, "container": False, "padding": False}
        self.link = gr.HTML(elem_id="ms-link-said", **bare)
        listen = f"window.mergescopeAddress.connect(trigger, {_js(RESTORE)}, {_js(PANELS)})"
        self.said = gr.HTML(js_on_load=listen, head=EARLY_HEAD, elem_id="ms-address", **bare)

    def restore(self, work: Callable[[gr.EventData], list[Any]], outputs: list[Any]) -> Any:
        """Call `work` when Back or Forward bring another merge, the event's `query`; give the event."""
        return getattr(self.said, RESTORE)(work, None, outputs, **NOW)

    def opened(self, tab: gr.Tab, panel: str, work: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> Any:
        """Call `work` when a tab is opened, or is open when the address brings a merge; give the event."""
        again = gr.Button(elem_id=f"ms-again-{panel}", visible="hidden")  # the address presses it
        return gr.on([tab.select, again.click], work, inputs, outputs, **NOW)

    def keep(self, panel: str, chosen: Mapping[str, Any], refresh: Refresh, agreed: gr.Checkbox | None = None) -> None:
        """Keep what is chosen in the components {name: component} in the address.

        Parameters
        ----------
        panel : one of PANELS
        refresh : makes the panel draw what they choose, after the event that it is given
        agreed : must be ticked for what is written in a text box to be part of the address
        """
        for name, component in chosen.items():
            if isinstance(component, gr.Textbox):
                self._keep_text(f"{panel}.{name}", component, agreed)
                continue
            moves = isinstance(component, (gr.Slider, gr.Number, gr.CheckboxGroup))
            key = _js(f"{panel}.{name}")
            write = f"value => void window.mergescopeAddress.choose({{[{key}]: value}}, {_js(not moves)})"
            component.input(None, component, None, js=write, **QUIET)
        keys = [f"{panel}.{name}" for name in chosen]

        def brought(event: gr.EventData) -> list[Any]:
            updates, said = [], ""
            for key, component in zip(keys, chosen.values(), strict=True):
                try:
                    updates.append(became(component, key, event.values[key]) if key in event.values else gr.skip())
                except MergeError as error:
                    updates.append(gr.skip())
                    said += alert(error)
            if agreed is None:
                return [said, *updates]
            texts = [key for key, one in zip(keys, chosen.values(), strict=True) if isinstance(one, gr.Textbox)]
            return [said, *updates, gr.update(value=True) if any(map(event.values.get, texts)) else gr.skip()]

        outputs = [self.said, *chosen.values(), *([] if agreed is None else [agreed])]
        restored = getattr(self.said, panel)(brought, None, outputs, **NOW)
        refresh(restored)
        self.arrive(restored, panel)

    @staticmethod
    def _keep_text(key: str, component: gr.Textbox, agreed: gr.Checkbox | None) -> None:
        write = f"(text, on) => void window.mergescopeAddress.choose({{[{_js(key)}]: on && text ? text : null}}, false)"
        assert agreed is not None
        gr.on([component.change, agreed.input], None, [component, agreed], None, js=write, **QUIET)

    def arrive(self, event: Any, panel: str = RESTORE) -> None:
        """Tell the browser that what the address brought has been taken up."""
        event.then(None, None, None, js=f"() => void window.mergescopeAddress.arrived({_js(panel)})", **QUIET)

    def start(self, event: Any) -> None:
        """Let the browser open what the address names, after the event in which the page got its merge."""
        event.then(None, None, None, js="() => void window.mergescopeAddress.start()", **QUIET)


def became(component: Any, key: str, text: str | None) -> Any:
    """Give Gradio's update of a component for the text of a link; None is what the page opens with.

    Raises
    ------
    MergeError
        If the component cannot show it.
    """
    if text is None:
        return gr.update(value=component.value)
    if isinstance(component, gr.Textbox):
        if component.max_length and len(text) > component.max_length:
            raise MergeError(f"The link's {key} has {len(text)} characters; there is room for {component.max_length}.")
        return gr.update(value=text)
    if isinstance(component, (gr.Slider, gr.Number)):
        return gr.update(value=_number(component, key, text))
    # a list that the server fills begins with nothing, or with "none", and is checked by its panel
    choices = [value for _, value in component.choices if value]
    values = text.split(",") if isinstance(component, gr.CheckboxGroup) else [text]
    for value in values:
        if len(value) > LONGEST or (choices and value not in choices):
            raise MergeError(f"The link's {key} = {value[:LONGEST]!r} is not one of {', '.join(map(str, choices))}.")
    if isinstance(component, gr.CheckboxGroup):
        return gr.update(value=values)
    return gr.update(value=text) if choices else gr.update(value=text, choices=[*component.choices, text])


def _number(component: Any, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise MergeError(f"The link's {key} = {text[:LONGEST]!r} is no number.") from None
    least, most = component.minimum, component.maximum
    if not (least is None or value >= least) or not (most is None or value <= most):
        raise MergeError(f"The link's {key} = {value:g} is not between {least} and {most}.")
    return value


def _js(value: Any) -> str:
    return orjson.dumps(value).decode()
