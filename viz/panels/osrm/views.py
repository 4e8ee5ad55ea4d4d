"""From the lab's plain data to what the OSRM panel's figures show: figure, caption and table of each."""

from collections.abc import Mapping
from html import escape

import pandas as pd

from merging.diagnostics.leave_out import layer_of
from merging.services.plan import Plan, SubspaceView
from merging.training.variants import VARIANTS
from viz.figures import training as curves
from viz.figures.rank import rank_against_k
from viz.figures.spectrum import seen_by_A, spectrum
from viz.figures.theme import Figure, layout, task_colours
from viz.panels.kit.plot import payload
from viz.panels.osrm.session import Training

Titles = Mapping[str, str]


def named(titles: Titles, task: str) -> str:
    """Give a task's title as figures take it: Plotly reads simple HTML, so markup in a name is escaped."""
    return escape(titles.get(task, task), quote=False)


def nothing(sentence: str, filename: str) -> str:
    """Show a sentence in the place of a figure that has no data yet."""
    bare: Figure = {"data": [], "layout": layout(24, {"visible": False}, {"visible": False}, uirevision="none")}
    return payload(bare, sentence, pd.DataFrame(), filename)


def place(module: str) -> tuple[str, str]:
    """Split a module's full name into its layer and what follows."""
    layer = layer_of(module)
    return layer, module.partition(f".{layer}.")[2] or module


def spectrum_view(titles: Titles, plan: Plan, task: str, module: str, view: SubspaceView) -> str:
    """Show the spectrum of the other tasks' inputs at one module, and the directions that A starts from."""
    others = ", ".join(named(titles, name) for name in plan.tasks if name != task)
    zero, width = view.null_dimension, len(view.spectrum)
    caption = f"Energy of the other tasks' inputs along each direction; null space: {zero} of {width}"
    caption += " (left of the dotted line)." if zero else "."
    if view.spectrum["chosen"].any():
        caption += (
            f" Dots: the {plan.rank} directions that OSRM gives A; together they hold {100 * view.energy:.2g} % of the "
            f"energy. All texts that were read would turn this subspace by {max(view.change or 0.0, 0.0):.0%} (100 %: "
            "orthogonal)."
        )
    else:
        caption += (
            f" This initialisation does not look at it: A is random and holds {100 * view.energy:.2g} % of the energy."
        )
    figure = spectrum(
        view.spectrum, view.null_dimension, f"inputs of {others}" if len(others) < 60 else "inputs of the others"
    )
    return payload(figure, caption, view.spectrum, _filename("spectrum", plan, task, module))


def seen_view(titles: Titles, plan: Plan, task: str, module: str, view: SubspaceView) -> str:
    """Show how much of each task's inputs the A of one task sees."""
    colours = {named(titles, name): colour for name, colour in task_colours(plan.tasks).items()}
    seen = view.seen.assign(task=[named(titles, name) for name in view.seen["task"]])
    own, random = float(seen[seen["own"]]["share"].iloc[0]), float(seen["random"].iloc[0])
    caption = (
        "Share of the inputs' norm that reaches B at the start. Dashed: a random A; below it a task disturbs the "
        f"others less than by chance. Own inputs (outlined): {own:.3f}, by chance {random:.3f}; an A that avoids the "
        "others may avoid its own task too."
    )
    if view.erased is not None:
        caption += (
            " Post-hoc, the released script would project the adapter of the first pool onto this A: "
            f"{view.erased:.1%} of its energy here would be left. Soft OSRM μ in the Merge panel keeps it."
        )
    return payload(seen_by_A(seen, colours), caption, view.seen, _filename("seen", plan, task, module))


def rank_view(titles: Titles, plan: Plan, task: str, module: str, curve: pd.DataFrame) -> str:
    """Show the rank of a task's mean inputs at one module against the number of texts."""
    layer, part = place(module)
    caption = (
        f"Mean inputs of layer {layer}, {part}, one per text. On y = x every further text adds a direction (the "
        "paper's figure 2). Dashed: how many hold 99 % of the energy."
    )
    figure = rank_against_k(curve, named(titles, task), task_colours(plan.tasks)[task])
    return payload(figure, caption, curve, _filename("rank", plan, task, module))


def training_views(titles: Titles, training: Training) -> dict[str, str]:
    """Show the curves of a training as far as it is: `loss`, `validation`, `drift`."""
    plan = training.plan
    colours = {named(titles, name): colour for name, colour in task_colours(plan.tasks).items()}
    steps, epochs = (
        frame.assign(task=[named(titles, name) for name in frame["task"]])
        for frame in (training.steps, training.epochs)
    )
    last = max([training.last.steps if training.last else 1, *training.steps["step"]])
    frozen = " A is frozen: it stays where it is." if plan.freeze_A else ""
    captions = {
        "loss": "Loss of each batch. The classifier is new and learns together with the adapter, so the curve starts "
        "at chance.",
        "validation": "After each epoch, on up to 300 rows; the best epoch is kept.",
        "drift": "‖A − A₀‖ / ‖A₀‖ after each epoch. Solid: as it is. Dashed: up to a rotation of A's rows "
        f"(Procrustes), which leaves the subspace alone.{frozen}",
    }
    figures = {
        "loss": (curves.loss_curve(steps, colours, last), training.steps),
        "validation": (curves.validation_curve(epochs, colours, last), training.epochs[["task", "step", "validation"]]),
        "drift": (
            curves.drift_curve(epochs, colours, last),
            training.epochs[["task", "step", "frobenius", "procrustes"]],
        ),
    }
    return {
        name: payload(figure, captions[name], table, f"mergescope_{name}_{plan.variant}_seed{plan.seed}")
        for name, (figure, table) in figures.items()
    }


def warnings(titles: Titles, plan: Plan, view: SubspaceView) -> list[str]:
    """Say what a visitor should know before trusting a subspace."""
    said = []
    if VARIANTS[plan.variant].init == "osrm" and not view.unique:
        more = "No k changes that." if VARIANTS[plan.variant].pooling == "official" else "More texts or a larger k may."
        said.append(
            f"The solution is not unique: {view.null_dimension} directions carry nothing of the other tasks' inputs "
            f"and A has {plan.rank} rows, so these texts do not decide which of them are taken. {more}"
        )
    short = [f"{titles.get(name, name)} has {count}" for name, count in view.texts.items() if count < plan.k]
    if short:
        said.append(f"k = {plan.k}, but fewer texts could be read: {', '.join(short)}. All of them are used.")
    return said


def _filename(figure: str, plan: Plan, task: str, module: str) -> str:
    layer, part = place(module)
    return f"mergescope_{figure}_{plan.variant}_{task}_layer{layer}_{part.replace('.', '-')}_k{plan.k}"
