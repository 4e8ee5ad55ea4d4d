"""One part of a panel at a time: a row of buttons that shows what belongs to the chosen one (assets/js/one_of.js)."""

from collections.abc import Sequence
from html import escape

import gradio as gr

from viz.panels.kit.plot import EARLY_HEAD

TEMPLATE = """
<style>{rule}</style>
<div class="ms-one-of" role="radiogroup" aria-label="{label}" data-part="{part}" data-shown="{first}">{buttons}</div>
"""


def one_of(
    panel: str, name: str, label: str, options: Sequence[tuple[str, str]], classes: Sequence[str] = ()
) -> gr.HTML:
    """Make the buttons; the event `pick` tells which part is seen from now on.

    Parameters
    ----------
    panel, name : its elem_id is ms-panel-name; the choice stands in the page's address as ``panel.name``
    options : (title, key) each; the key "all" shows every part
    """
    part, first = f"ms-{panel}-{name}", options[0][1]
    buttons = "".join(
        f'<button type="button" role="radio" data-key="{key}" aria-checked="{str(key == first).lower()}" '
        f'tabindex="{0 if key == first else -1}">{escape(title)}</button>'
        for title, key in options
    )
    rule = f".{part}:not(.{part}-{first}) {{ display: none !important; }}"
    return gr.HTML(
        html_template=TEMPLATE.format(rule=rule, label=escape(label), part=part, first=first, buttons=buttons),
        js_on_load=f'window.mergescopeOneOf(element, (name) => trigger("pick", {{ name }}), "{panel}.{name}")',
        head=EARLY_HEAD,
        elem_id=part,
        elem_classes=["ms-full", *classes],
        apply_default_css=False,
        container=False,
        padding=False,
    )


def part_of(panel: str, name: str, *keys: str) -> list[str]:
    """Give the classes of what is seen with any of the keys."""
    part = f"ms-{panel}-{name}"
    return [part, *(f"{part}-{key}" for key in keys)]
