"""How the app looks: theme, style sheet, scripts and the page's header."""

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.themes.utils import fonts
from starlette.routing import BaseRoute

from merging.services.limits import LIMITS
from viz.panels.kit.glossary import as_json
from viz.panels.kit.plot import EARLY, SCRIPTS, STYLES, address
from viz.panels.kit.sentences import misfit

# Gradio's stock blue and orange are too pale for text on white (WCAG AA).
BLUE = gr.themes.Color(
    name="mergescope",
    c50="#eef5fc",
    c100="#d9e8f8",
    c200="#b3d2f1",
    c300="#7db8f5",
    c400="#4f9ae6",
    c500="#0b5cad",
    c600="#0b5cad",
    c700="#094c90",
    c800="#083f77",
    c900="#072f59",
    c950="#051f3b",
)


HINT = (
    '<aside id="ms-hint" hidden aria-label="First visit"><p>Here adapters that were trained for one task each are '
    "added up into one model, and you see what every task loses. Move a slider: the figures follow at once, the "
    "accuracy a moment later. Dotted words explain themselves when you point at them, tap them or go to them by Tab."
    "</p>"
    '<button type="button">Got it</button></aside>'
)


def theme() -> gr.themes.Base:
    """Make the theme: one accent, and fonts that ship whole (the SemiBold files of Gradio 6 lack most letters)."""
    return gr.themes.Default(
        primary_hue=BLUE,
        secondary_hue=BLUE,
        neutral_hue=gr.themes.colors.slate,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        font=[fonts.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[fonts.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    ).set(
        body_background_fill="#fbfbfc",
        body_background_fill_dark="#12151a",
        body_text_color="#1b1f24",
        body_text_color_dark="#e8ebef",
        body_text_color_subdued="#59636e",
        body_text_color_subdued_dark="#9aa5b1",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1a1f26",
        background_fill_secondary="#fbfbfc",
        background_fill_secondary_dark="#12151a",
        border_color_primary="#dfe3e8",
        border_color_primary_dark="#2c333d",
        slider_color="#0b5cad",
        slider_color_dark="#7db8f5",
        button_primary_background_fill="#0b5cad",
        button_primary_background_fill_hover="#094c90",
        button_primary_background_fill_dark="#7db8f5",
        button_primary_background_fill_hover_dark="#b3d2f1",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#12151a",
    )


def header(device: str, base: str) -> gr.HTML:
    """Make the page's header."""
    return gr.HTML(
        header_html(device, base), elem_id="ms-header", apply_default_css=False, container=False, padding=False
    )


def header_html(device: str, base: str) -> str:
    """Write the header with what the app runs on and the base of the adapters that are open."""
    chips = "".join(f'<span class="ms-chip">{escape(text)}</span>' for text in (device, base))
    return (
        f'<a class="ms-skip" href="#ms-tabs">Skip to the content</a>'
        f'<header class="ms-header"><h1>Mergescope</h1><p>see why LoRA merges fail, and merge them well</p>'
        f'<div class="ms-chips">{chips}</div></header>{HINT}'
    )


def head() -> str:
    """Write what goes into the page's head: the style sheets as they are (`css_paths` would rewrite its selectors),
    the glossary, and which scripts to fetch first.
    """
    scripts = f'<script type="application/json" id="ms-glossary">{as_json()}</script>'
    # the components that need them put them in, and wait for them
    scripts += "".join(f'<link rel="preload" as="script" href="{address(path)}">' for path in (*EARLY, *SCRIPTS))
    return "".join(f'<link rel="stylesheet" href="{address(path)}">' for path in STYLES) + scripts


def launch_options(routes: Sequence[BaseRoute] = ()) -> dict[str, Any]:
    """Collect what `launch` needs for look, programs and privacy: no request leaves the page's origin.

    Parameters
    ----------
    routes : what the server answers beside the page
    """
    return {
        "theme": theme(),
        "head": head(),
        "ssr_mode": False,
        "run_history": False,
        "state_session_capacity": LIMITS.sessions,
        # as much as is read of an adapter (merging.adapters.fetch); own tasks may have less, their panels say so
        "max_file_size": LIMITS.upload_bytes,
        "mcp_server": True,
        "app_kwargs": {"routes": [*routes], "exception_handlers": {Exception: misfit}},
        "footer_links": ["api", "settings"],
    }
