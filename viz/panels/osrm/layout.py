"""Where everything is on the OSRM panel: the plan at the left; training, figures, sets and findings at the right."""

from dataclasses import dataclass

import gradio as gr

from viz.panels.kit.one_of import one_of, part_of
from viz.panels.kit.plot import plot
from viz.panels.osrm.found import FOUND, Found
from viz.panels.osrm.handlers import SUBSPACE, OsrmHandlers
from viz.panels.osrm.plan import PlanControls, html, plan_controls
from viz.panels.osrm.training import CURVES

TITLES = {
    "spectrum": "Others' input spectrum",
    "seen": "What A sees of each task",
    "rank": "Input rank against k",
    "loss": "Training loss",
    "validation": "Validation accuracy",
    "drift": "Drift of A",
    "found_arms": "Gap recovered, by initialisation",
    "found_effects": "What each change brings",
    "found_scaling": "Average accuracy against λ, by initialisation",
    "found_drift": "Drift of A, by initialisation",
    "found_interference": "Interference, by initialisation",
    "found_tasks": "Average accuracy against the number of tasks",
    "found_k": "Average accuracy against k",
    "found_rank": "Average accuracy against the rank",
    "found_epochs": "Average accuracy against training time",
    "found_frozen": "A trained or frozen",
}


QUESTIONS = (
    ("Where does A start?", "start"),
    ("How does it train, and merge?", "training"),
    ("What was found?", "found"),
    ("All", "all"),
)
SHORT = {
    "found_arms": "By initialisation",
    "found_effects": "What each change brings",
    "found_scaling": "Against λ",
    "found_drift": "Drift of A",
    "found_interference": "Interference",
    "found_tasks": "Number of tasks",
    "found_k": "k",
    "found_rank": "Rank",
    "found_epochs": "Training time",
    "found_frozen": "A frozen",
    "all": "All",
}
START, TRAINED, SHOWN = (part_of("osrm", "question", key) for key in ("start", "training", "found"))


@dataclass(frozen=True)
class Layout:
    """The components of the panel, by what they do."""

    plan: PlanControls
    parts: list[gr.Dropdown]
    outputs: dict[str, gr.HTML]
    cancel: gr.Button
    scaling: gr.Slider
    choice: gr.Dropdown
    download: gr.DownloadButton
    method: gr.Dropdown
    question: gr.HTML
    figure: gr.HTML


def lay_out(panel: OsrmHandlers, found: Found) -> Layout:
    """Lay the panel out."""
    outputs: dict[str, gr.HTML] = {}

    def card(name: str, *classes: str) -> None:
        with gr.Column(elem_classes=["ms-card", *classes]):
            outputs[name] = plot(f"ms-{name.replace('_', '-')}", TITLES[name])

    with gr.Row(elem_id="ms-osrm"):
        with gr.Column(elem_id="ms-plan"):
            controls = plan_controls(panel.lab.titles(), panel.lab.kinds("minilm")[0])
        with gr.Column(elem_id="ms-training-card", elem_classes="ms-card"):
            outputs["training"] = html("ms-training", waits=True)
            cancel = gr.Button("Cancel training", size="sm", elem_id="ms-cancel-training")
        with gr.Column(elem_id="ms-osrm-figures"):
            question = one_of("osrm", "question", "Question", QUESTIONS)
            with gr.Column(elem_classes=["ms-section", "ms-full", *START]):
                html("ms-before", "<h2>Before training: where A starts</h2>")
                with gr.Row(elem_classes="ms-choices"):
                    parts = [
                        gr.Dropdown([], label=label, elem_id=f"ms-part-{place}")
                        for place, label in enumerate(("A of task", "Layer", "Input of"))
                    ]
            for name in SUBSPACE:
                card(name, *START)
            _section("ms-during", "While it trains")
            for name in CURVES:
                card(name, *TRAINED)
            _section("ms-after", "Your sets")
            with gr.Column(elem_classes=["ms-card", "ms-full", *TRAINED]):
                outputs["sets"] = html("ms-sets")
                with gr.Row(elem_classes="ms-sets-tools"):
                    info = "Task Arithmetic adds up all adapters of a set, times λ; moving it merges every set again."
                    scaling = gr.Slider(
                        0,
                        2,
                        0.5,
                        step=0.05,
                        label="λ of the merges",
                        info=info,
                        elem_id="ms-sets-scaling",
                        elem_classes="ms-slider",
                    )
                    choice = gr.Dropdown([], label="Set to download", elem_id="ms-sets-choice")
                    download = gr.DownloadButton(
                        "Download as zip", interactive=False, size="sm", elem_id="ms-sets-download"
                    )
            with gr.Column(elem_classes=["ms-section", "ms-full", *SHOWN]):
                html("ms-found", "<h2>What was found</h2>")
                outputs["found"] = html("ms-found-sentence")
                with gr.Row(elem_classes="ms-choices"):
                    swept = found.methods
                    method = gr.Dropdown(
                        swept,
                        value=swept[0][1] if swept else None,
                        label="Merged with",
                        elem_id="ms-found-method",
                        visible=bool(swept),
                    )
            figure = one_of("osrm", "figure", "Figure", [(title, key) for key, title in SHORT.items()], SHOWN)
            for name in FOUND:
                wide = "ms-full" if name == "found_effects" else "ms-half"
                card(name, "ms-found", wide, *SHOWN, *part_of("osrm", "figure", name))
    outputs |= {"note": controls.note}
    return Layout(controls, parts, outputs, cancel, scaling, choice, download, method, question, figure)


def _section(elem_id: str, title: str) -> None:
    """Begin a section of the training's figures."""
    with gr.Column(elem_classes=["ms-section", "ms-full", *TRAINED]):
        html(elem_id, f"<h2>{title}</h2>")
