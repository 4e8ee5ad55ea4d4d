"""The plan of a training: its controls, read back as a `Plan`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.models.embedded import EMBEDDED
from merging.services.limits import LIMITS
from merging.services.plan import Plan
from merging.services.settings import MOST_TASKS
from merging.training.variants import VARIANTS

DEFAULT_TASKS = ("trec", "sms_spam", "movie")  # few classes and short texts: quick to read and to train
RANGES = {
    "rank": (1, 4096),
    "epochs": (1, LIMITS.training_epochs),
    "rows": (1, LIMITS.training_rows),
    "seed": (0, 1_000_000),
    "k": (1, 600),
}
HELP = {
    "gaussian_shared": "PEFT's gaussian A, the same for all tasks: what OSRM's authors compare with. Long rows, long "
    "updates, and every task reads one space.",
    "gaussian_own": "PEFT's gaussian A, another one for each task. How much of the damage goes away by own directions "
    "alone, without looking at any text?",
    "default_own": "PEFT's default A, another one for each task: shorter rows than gaussian's, as in most adapters on "
    "the hub.",
    "orthonormal_own": "Random orthonormal rows of length 1, own seeds: the fair control for OSRM, with its length "
    "and an own A, but blind to the texts.",
    "orthonormal_scaled": "Random orthonormal rows, as long as gaussian's. Against the line above it shows what the "
    "length alone does.",
    "osrm": "Rows in which the other tasks' inputs have least energy, from all their tokens. Does looking at the "
    "texts beat an own random A?",
    "osrm_scaled": "OSRM's rows, as long as gaussian's: what is left of its gain when the length is not on its side?",
    "osrm_official": "OSRM as its authors' code computes it, from one mean vector per task: the solution is not "
    "unique. Is it better than a random A?",
}


@dataclass(frozen=True)
class PlanControls:
    """The components: `form` decides the plan (by name, in a fixed order)."""

    form: dict[str, Any]
    upload: gr.UploadButton
    help: gr.HTML
    note: gr.HTML
    train: gr.Button
    read: gr.Button
    stop: gr.Button


def plan_controls(titles: Mapping[str, str], kinds: Sequence[str]) -> PlanControls:
    """Lay out the controls, at a plan that trains in a few minutes on two cores.

    Parameters
    ----------
    titles : {name: title} of the tasks
    kinds : the kinds of modules that the first base has
    """
    start = Plan(DEFAULT_TASKS)
    form: dict[str, Any] = {}

    def add(name: str, kind: type[gr.components.Component], label: str, value: Any, **options: Any) -> None:
        form[name] = kind(label=label, value=value, container=True, elem_id=f"ms-plan-{name}", **options)

    bases = [(base.title, source) for source, base in EMBEDDED.items()]
    add("base", gr.Dropdown, "Base", start.base, choices=bases)
    tasks = [(title, name) for name, title in titles.items()]
    add("tasks", gr.CheckboxGroup, "Tasks", list(start.tasks), choices=tasks, elem_classes="ms-checks")
    upload = gr.UploadButton(
        "Add your own task (CSV, TSV, JSONL)",
        file_types=[".csv", ".tsv", ".jsonl"],
        size="sm",
        elem_id="ms-plan-upload",
        elem_classes="ms-link",
    )
    variants = [(variant.title, name) for name, variant in VARIANTS.items()]
    add("variant", gr.Radio, "Initialisation of A", start.variant, choices=variants, elem_classes="ms-list")
    explained = html("ms-plan-help", variant_help(start.variant))
    add("freeze_A", gr.Radio, "A in training", "trained", choices=["trained", "frozen"], elem_classes="ms-segments")
    info = "Training texts of each task that OSRM looks at. The figures are solved again while it moves."
    limits = {"minimum": 5, "maximum": RANGES["k"][1], "step": 5}
    add("k", gr.Slider, "Texts per task k", start.k, **limits, info=info, elem_classes="ms-slider")
    add(
        "modules",
        gr.CheckboxGroup,
        "Adapted modules",
        list(start.modules),
        choices=list(kinds),
        elem_classes="ms-checks",
    )
    with gr.Row(elem_classes="ms-numbers"):
        add("rank", gr.Number, "Rank", start.rank, precision=0, min_width=80)
        add("epochs", gr.Number, "Epochs", min(start.epochs, LIMITS.training_epochs), precision=0, min_width=80)
        add(
            "rows",
            gr.Number,
            "Training rows per task",
            min(start.rows, LIMITS.training_rows),
            precision=0,
            min_width=80,
        )
        add("learning_rate", gr.Number, "Learning rate", start.learning_rate, min_width=80, step=0.0005)
        add("seed", gr.Number, "Seed", start.seed, precision=0, min_width=80)
    with gr.Row(elem_classes="ms-buttons"):
        train = gr.Button("Train", variant="primary", size="sm", elem_id="ms-train")
        read = gr.Button("Read texts", size="sm", elem_id="ms-read")
        stop = gr.Button("Stop reading", size="sm", elem_id="ms-stop-reading")
    note = html("ms-plan-note")
    return PlanControls(form, upload, explained, note, train, read, stop)


def html(elem_id: str, value: str = "", waits: bool = False) -> gr.HTML:
    """Make a bare piece of HTML; one that `waits` says a place in the queue, see `viz.panels.kit.events.turns`."""
    bare: dict[str, Any] = {"apply_default_css": False, "container": False, "padding": False}
    return gr.HTML(value, elem_id=elem_id, elem_classes="ms-waits" if waits else None, **bare)


def variant_help(variant: str) -> str:
    """Say in a sentence what an initialisation is, and which question it answers."""
    return f"<p>{HELP[variant]}</p>"


def read_plan(form: Mapping[str, Any]) -> Plan:
    """Read a plan off the form's values by name.

    Raises
    ------
    MergeError
        If a number is missing or outside its limits, or nothing is chosen where something must be.
    """
    numbers: dict[str, Any] = {name: _number(name, form[name]) for name in RANGES}
    if not form["tasks"]:
        raise MergeError("Choose at least one task.")
    if len(form["tasks"]) > MOST_TASKS:
        raise MergeError(f"{len(form['tasks'])} tasks are chosen: at most {MOST_TASKS} can be trained as one set.")
    if not form["modules"]:
        raise MergeError("Choose at least one kind of module to adapt.")
    rate = form["learning_rate"]
    if rate is None or not 0 < rate < 1:
        raise MergeError("The learning rate must be above 0 and below 1.")
    return Plan(
        base=form["base"],
        tasks=tuple(form["tasks"]),
        variant=form["variant"],
        modules=tuple(form["modules"]),
        learning_rate=float(rate),
        freeze_A=form["freeze_A"] == "frozen",
        **numbers,
    )


def _number(name: str, value: float | None) -> int:
    least, most = RANGES[name]
    if value is None or not least <= value <= most:
        given = "is empty" if value is None else f"is {value:g}"
        raise MergeError(f"{'k' if name == 'k' else name.capitalize()} {given}: give a number from {least} to {most}.")
    return int(value)
