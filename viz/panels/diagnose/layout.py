"""Where everything is on the Diagnose panel: the merge at the left; linked figures, tests on demand and the
diagnostics' own test at the right.
"""

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from merging.plugins.orthogonalize import MODES
from merging.recipes.spec import K
from merging.services.settings import MOST_TASKS
from viz.panels.diagnose.bank import BankViews
from viz.panels.diagnose.do_views import DoViews, heading
from viz.panels.kit.one_of import one_of, part_of
from viz.panels.kit.plot import DIAGNOSE_HEAD, TEMPLATE, plot
from viz.panels.merge.controls import PLUGIN_SLIDERS, Plugins, plugin_slider

TITLES = {
    "pairs": "Who disturbs whom",
    "map": "Where",
    "error": "Error of the merge on each task",
    "magnitude": "Magnitude: log₁₀ column norms",
    "variance": "Magnitude variance across tasks",
    "spectra": "Energy kept after truncation",
    "signs": "Sign conflict",
}
QUESTIONS = (
    ("Who disturbs whom?", "who"),
    ("What does it cost?", "cost"),
    ("How do updates differ?", "updates"),
    ("Do diagnostics predict?", "predict"),
    ("DO-Merging's figures", "papers"),
    ("All", "all"),
)
UPDATES = (
    ("Magnitude", "magnitude"),
    ("Variance", "variance"),
    ("Spectrum", "spectra"),
    ("Signs", "signs"),
    ("Side by side", "all"),
)
LINKED = ("who", "cost", "updates")
ANSWERS = {"pairs": "who", "map": "who", "error": "cost"}
"""Linked figure -> the question that it answers; the others are of the updates."""
SELECTS = (
    ("metric", "Measure", ()),
    (
        "view",
        "Shown",
        (
            ("entering", "as it enters the merge"),
            ("trained", "as trained"),
            ("change", "change by the plug-ins"),
            ("pinned", "minus pinned"),
        ),
    ),
    ("above", "Magnitudes beside", (("trained", "as trained"), ("full", "full fine-tunes"), ("pinned", "pinned"))),
    ("source", "Update of", ()),
    ("target", "On texts of", ()),
    ("layer", "Layer", ()),
    ("kind", "Module", ()),
)
ASKED = {"metric": ("who",), "view": ("who",), "above": ("updates",)}
"""Select -> the questions that it is of; the others are of all linked ones."""
BUTTONS = (("pin", "Pin as A"), ("unpin", "Clear pin"), ("clear", "Clear selection (Esc)"))
CELL = (
    '<div class="ms-card ms-cell {classes}"><div class="ms-scroll" tabindex="0" role="region" aria-label="The selected '
    'cell"><table><caption></caption>'
    '<thead><tr><th scope="col">measure</th><th scope="col">this cell</th><th scope="col">this module, all pairs</th>'
    '<th scope="col">this pair, all modules</th><th '
    'scope="col">everywhere</th></tr></thead><tbody></tbody></table></div></div>'
)


@dataclass(frozen=True)
class Layout:
    """The components of the panel, by what they do."""

    form: dict[str, Any]
    about: gr.HTML
    note: gr.HTML
    use: gr.Button
    settled: gr.Button
    question: gr.HTML
    linked: gr.HTML
    on_demand: dict[str, Any]
    found: dict[str, Any]
    do_merging: dict[str, Any]


def template() -> str:
    """Write the linked figures' part of the page; assets/js/diagnose.js fills it."""
    selects = "".join(
        f'<label class="{" ".join(part_of("diagnose", "question", *ASKED.get(name, LINKED)))}">{label}<select '
        f'data-choice="{name}">'
        + "".join(f'<option value="{value}">{text}</option>' for value, text in options)
        + "</select></label>"
        for name, label, options in SELECTS
    )
    buttons = "".join(f'<button type="button" data-do="{name}">{escape(text)}</button>' for name, text in BUTTONS)
    cards = "".join(
        f'<div class="{" ".join(("ms-card", "ms-half", *_parts(name)))}" data-figure="{name}">'
        f"{TEMPLATE.format(id=f'ms-diag-{name}', title=escape(title), empty='')}</div>"
        for name, title in TITLES.items()
    )
    linked, who = (" ".join(part_of("diagnose", "question", *keys)) for keys in (LINKED, ("who",)))
    tools = (
        f'<div class="ms-card ms-full ms-linked-tools {linked}" role="group" aria-label="What the figures '
        f'show">{selects}<span>{buttons}</span></div>'
    )
    return f'<div class="ms-linked {linked}">{tools}{cards}{CELL.format(classes=who)}</div>'


def _parts(figure: str) -> list[str]:
    if figure in ANSWERS:
        return part_of("diagnose", "question", ANSWERS[figure])
    return [*part_of("diagnose", "question", "updates"), *part_of("diagnose", "figure", figure)]


def lay_out(plugins: Plugins, found: BankViews) -> Layout:
    """Lay the panel out."""
    form: dict[str, Any] = {}

    def slider(name: str, label: str, low: float, high: float, step: float, value: float, **options: Any) -> None:
        form[name] = gr.Slider(
            low,
            high,
            value,
            step=step,
            label=label,
            elem_id=f"ms-diag-at-{name}",
            elem_classes=["ms-slider", *options.pop("classes", ())],
            **options,
        )

    def html(elem_id: str, value: str = "") -> gr.HTML:
        return gr.HTML(value, elem_id=elem_id, apply_default_css=False, container=False, padding=False)

    with gr.Row(elem_id="ms-diagnose"):
        with gr.Column(elem_id="ms-diag-controls"):
            html("ms-diag-heading", "<h2>The merge of the Merge tab</h2>")
            about = html("ms-diag-about")
            slider("scaling", "Scaling λ", 0, 2, 0.025, 0.5)
            for name, (plugin, param) in PLUGIN_SLIDERS.items():
                if name == "penalty":
                    form["orthogonalize"] = gr.Radio(
                        list(MODES),
                        value="off",
                        label=plugins["orthogonalize"].title,
                        elem_id="ms-diag-mode",
                        elem_classes="ms-segments",
                    )
                options = plugin_slider(plugins[plugin], param)
                low, high, step = (options[key] for key in ("minimum", "maximum", "step"))
                slider(name, options["label"], low, high, step, 0.0)
            slider(
                "k",
                "Texts per task k",
                5,
                600,
                5,
                K,
                info="Texts from which the second moments are taken: what is measured on data answers to it.",
            )
            html("ms-diag-weights", "<h2>Weights</h2>")
            for place in range(MOST_TASKS):
                slider(f"weight_{place}", "", 0, 2, 0.05, 1, classes=["ms-weight", f"ms-task-{place % 8}"])
            with gr.Row(elem_classes="ms-buttons"):
                use = gr.Button(
                    "Use these values on the Merge tab", variant="primary", size="sm", elem_id="ms-diag-use"
                )
            settled = gr.Button("The sliders rest", size="sm", elem_id="ms-diag-settled")
            note = html("ms-diag-note")
        with gr.Column(elem_id="ms-diag-figures"):
            question = one_of("diagnose", "question", "Question", QUESTIONS)
            one_of("diagnose", "figure", "Figure", UPDATES, part_of("diagnose", "question", "updates"))
            linked = gr.HTML(
                html_template=template(),
                js_on_load="window.mergescopeDiagnose(element, props, watch)",
                head=DIAGNOSE_HEAD,
                elem_id="ms-diag",
                elem_classes="ms-full",
                apply_default_css=False,
                container=False,
                padding=False,
            )
            on_demand = _on_demand(html)
            shown = _found(found, html)
            do_merging = _do_merging(found.do_merging, html)
    return Layout(form, about, note, use, settled, question, linked, on_demand, shown, do_merging)


def _on_demand(html: Any) -> dict[str, Any]:
    """Lay out what costs evaluations: what leaving something out does."""
    part = part_of("diagnose", "question", "cost")
    with gr.Column(elem_classes=["ms-section", "ms-full", *part]):
        html("ms-demand", "<h2>On demand: measured, not estimated</h2>")
        with gr.Row(elem_classes="ms-buttons"):
            parts: dict[str, Any] = {
                "adapters": gr.Button("Leave one adapter out", size="sm", elem_id="ms-leave-adapter"),
                "layers": gr.Button("Leave one layer out", size="sm", elem_id="ms-leave-layer"),
                "cancel": gr.Button("Cancel", size="sm", elem_id="ms-cancel-demand", interactive=False),
            }
    with gr.Column(elem_classes=["ms-card", "ms-full", *part]):
        parts["left_out"] = plot(
            "ms-left-out", "What leaving one out changes", "Leave something out with a button above: it takes a minute."
        )
    return parts


def _found(found: BankViews, html: Any) -> dict[str, Any]:
    """Lay out what the bank of merges says about the diagnostics themselves."""
    part = part_of("diagnose", "question", "predict")
    with gr.Column(elem_classes=["ms-section", "ms-full", *part]):
        html("ms-bank", "<h2>Do the diagnostics mean anything?</h2>")
        parts: dict[str, Any] = {"sentence": html("ms-bank-sentence")}
    with gr.Column(elem_classes=["ms-card", "ms-half", *part]):
        parts["forest"] = plot("ms-bank-forest", "Which diagnostics go with the gap recovered")
    with gr.Column(elem_classes=["ms-card", "ms-half", *part]):
        parts["scatter"] = plot("ms-bank-scatter", "One diagnostic against the gap recovered")
        names = found.diagnostics
        first = next((name for _, name in names if name == "magnitude_variance"), names[0][1] if names else None)
        with gr.Row(elem_classes="ms-choices"):
            parts["choice"] = gr.Dropdown(
                names, value=first, label="Diagnostic", elem_id="ms-bank-choice", visible=bool(names)
            )
    return parts


def _do_merging(views: DoViews, html: Any) -> dict[str, Any]:
    """Lay out the paper's figures as measured here, one at a time."""
    part = part_of("diagnose", "question", "papers")
    with gr.Column(elem_classes=["ms-section", "ms-full", *part]):
        html("ms-do-heading", heading())
        with gr.Row(elem_classes="ms-choices"):
            choice = gr.Dropdown(views.choices, value=views.first, label="Figure", elem_id="ms-do-choice")
    with gr.Column(elem_classes=["ms-card", "ms-full", *part]):
        figure = plot("ms-do-figure", "DO-Merging's figure, measured")
    return {"choice": choice, "figure": figure}
