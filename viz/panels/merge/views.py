"""From the workbench's plain data to what the plot components show: figure, caption and table of each."""

from collections.abc import Sequence
from html import escape
from math import nan

import pandas as pd

from merging.diagnostics.leave_out import layer_of
from merging.experiments.sweep import averages
from merging.recipes.spec import MergeSpec
from merging.services.settings import Settings
from merging.services.workbench import MergeView, Workbench
from merging.shipped import POOLS
from viz.figures.accuracy import accuracy_per_task
from viz.figures.magnitude import magnitude_distribution, magnitude_quantiles
from viz.figures.overlap import overlap_matrix, subspace_overlap
from viz.figures.rank import rank_against_k
from viz.figures.sweep import average_against_scaling
from viz.figures.theme import pin_colour, task_colours
from viz.panels.kit.plot import payload
from viz.panels.merge.controls import Catalogue
from viz.panels.merge.session import Run, Score, on_same_rows, summarise

EVERY = "all"
ENDS = {"base": "base with the tasks' heads", "alone": "each adapter alone"}
"""What stands in a sweep's table beside methods, and what the figure calls it."""
SIDES = {"A": "A rows", "B": "B columns"}


def label(workbench: Workbench, task: str) -> str:
    """Give a task's title as figures take it: Plotly reads simple HTML, so markup in a name is escaped."""
    return escape(workbench.title(task), quote=False)


def accuracy_view(workbench: Workbench, run: Run, before: Run | None, pins: Sequence[Run]) -> str:
    """Show the accuracy per task of `run` so far."""
    table = on_same_rows(run.scores, workbench.references(run.settings.pool))[["task", "base", "single"]]
    missing = Score(nan, nan, nan, done=0, total=0)
    scores = [run.scores.get(task, missing) for task in table["task"]]
    table = table.assign(
        accuracy=[score.accuracy for score in scores],
        low=[score.low for score in scores],
        high=[score.high for score in scores],
        rows=[score.done for score in scores],
    )
    drawn = table.assign(task=[label(workbench, task) for task in table["task"]])
    previous = None
    if before is not None and run.state != "done":
        previous = pd.Series(
            {label(workbench, task): score.accuracy for task, score in before.scores.items()}, dtype=float
        )
    titles = {pin.name: escape(pin.title or pin.label, quote=False) for pin in pins}
    pinned = pd.DataFrame(
        [
            (pin.name, titles[pin.name], pin_colour(pin.name), label(workbench, task), score.accuracy)
            for pin in pins
            for task, score in pin.scores.items()
        ],
        columns=["name", "run", "colour", "task", "accuracy"],
    )
    for pin in pins:
        known = [pin.scores[task].accuracy if task in pin.scores else float("nan") for task in table["task"]]
        table[pin.called] = known
    caption = (
        "Grey: the base with the task's head. Ring: the task's own adapter. Dot: the merge, with its 95 % interval; "
        "the gap to the ring is the price of sharing one model. All on the same "
        f"rows.{' Diamonds: pinned runs, by letter.' if pins else ''}"
    )
    if run.state == "unmeasured":
        caption = (
            "These adapters were opened without tasks: they can be merged, looked at and exported, but nothing "
            "is measured."
        )
    return payload(
        accuracy_per_task(drawn, previous, pinned),
        caption,
        table,
        filename(run.settings, "accuracy", *dict(run.settings.spec.params)),
    )


def sweep_view(
    methods: Catalogue,
    references: pd.DataFrame,
    sweep: pd.DataFrame,
    run: Run,
    pins: Sequence[Run],
    curve: pd.DataFrame | None = None,
) -> str:
    """Show the average accuracy against λ, with `run` and the pins; `curve` is what was measured here of this merge."""
    settings = run.settings
    if curve is not None and len(curve):
        measured = averages(curve)
        sweep = pd.concat([sweep[~sweep["method"].isin(measured["method"])], measured], ignore_index=True)
    scaled = {name for name, method in methods.items() if any(param.name == "scaling" for param in method.params)}
    ends = {end: sweep[sweep["method"] == end]["average"] for end in ENDS}
    sweep = sweep[~sweep["method"].isin(ENDS)]
    sweep = sweep.assign(scaling=sweep["scaling"].where(sweep["method"].isin(scaled)))
    pinned = []
    for pin in pins:
        result = summarise(pin.scores, references)
        if result is not None and result.tasks == len(pin.tasks) and pin.scaling is not None:
            run_of = (pin.called, pin_colour(pin.name), pin.scaling)
            pinned.append((*run_of, result.average, result.low, result.high))
    points = pd.DataFrame(pinned, columns=["run", "colour", "scaling", "average", "low", "high"])
    result = summarise(run.scores, references)
    complete = result is not None and result.tasks == len(run.tasks)
    figure = average_against_scaling(
        sweep,
        settings.spec.method,
        {name: method.title for name, method in methods.items()},
        scaling=run.scaling,
        current=(result.average, result.low, result.high) if complete and result else None,
        pins=points.assign(run=points["run"].map(lambda name: escape(name, quote=False))),
        levels={ENDS[end]: float(values.iloc[0]) for end, values in ends.items() if len(values)},
    )
    caption = (
        "Lines: average on validation, band: 95 % for your method. Level lines: the base with the tasks' heads, below "
        "which merging harms, and each adapter alone. Dashed: your λ. Dot: this merge on test. Good methods are high, "
        f"and flat around their best λ.{_know_more(methods, sweep)}"
    )
    if curve is not None and len(curve):
        caption += f" Your line was measured here, as the merge stands, on {curve['total'].max()} rows a task at most."
    if sweep.empty:
        caption = (
            "No sweep was run for this set of adapters: “Tune λ” measures one. Dashed: your λ. Dot: this merge on "
            "test; pin runs to compare several λ."
        )
    table = sweep if points.empty else pd.concat([sweep, points.drop(columns="colour")], ignore_index=True)
    return payload(figure, caption, table, filename(settings, "sweep"))


def _know_more(methods: Catalogue, sweep: pd.DataFrame) -> str:
    """Say which of the methods drawn were given more than the adapters."""
    drawn = [methods[name] for name in sweep["method"].unique() if name in methods]
    given = {"data": "sees training texts", "task_id": "is told the task of each text"}
    notes = [f"{method.title} {given[need]}" for method in drawn for need in sorted(method.needs)]
    return f" {'; '.join(notes)}." if notes else ""


def magnitude_view(workbench: Workbench, settings: Settings, view: MergeView, trained: MergeView) -> str:
    """Show how large the columns of each task's update are, as trained and as they enter the merge."""
    tasks = workbench.tasks(settings.pool)
    names = {task: label(workbench, task) for task in tasks}
    assert view.magnitude is not None and trained.magnitude is not None
    assert view.magnitude_variance is not None and trained.magnitude_variance is not None
    after, before = (magnitude_quantiles(state, tasks) for state in (view.magnitude, trained.magnitude))
    figure = magnitude_distribution(after.rename(columns=names), before.rename(columns=names), list(names.values()))
    variance, was = (state["variance"].mean() for state in (view.magnitude_variance, trained.magnitude_variance))
    caption = (
        f"Colour: as merged; grey: as trained. Variance across tasks / mean²: {variance:.2f}, as trained {was:.2f}. "
        "The DO-Merging paper finds: the larger, the worse the merge."
    )
    table = after.merge(before, on="quantile", suffixes=("", " as trained"))
    return payload(figure, caption, table, filename(settings, "magnitude"))


def as_trained(workbench: Workbench, methods: Catalogue, pool: str) -> MergeView:
    """Look at a pool without plug-ins and weights (through a method that takes every adapter as it is)."""
    return workbench.update(Settings(pool, MergeSpec.of(next(iter(methods)))))


def overlap_view(workbench: Workbench, settings: Settings, side: str, layer: str, kind: str) -> str:
    """Show how far the adapters' subspaces overlap, in the chosen part of the model."""
    modules = workbench.modules(settings.pool)
    chosen = pick(modules, layer, kind)
    pairs, chance = workbench.overlap(settings, side, chosen or modules)
    matrix = overlap_matrix(pairs, workbench.tasks(settings.pool))
    names = [label(workbench, task) for task in matrix.index]
    figure = subspace_overlap(matrix.set_axis(names, axis=0).set_axis(names, axis=1))
    mean = matrix.stack().mean()
    caption = (
        f"Mean cos² of the angles between two adapters' subspaces, 0 to 1; here {mean:.2f} on average, by chance "
        f"{chance:.2f}. {_meaning(workbench.starts(settings.pool), side, mean, chance)}"
    )
    if not chosen:
        caption = f"These adapters do not change that module, so all are shown. {caption}"
    return payload(figure, caption, matrix.rename_axis("adapter").reset_index(), filename(settings, f"overlap_{side}"))


def _meaning(starts: set[str], side: str, mean: float, chance: float) -> str:
    """Say whether this overlap hurts: what two A's share is harmless where no text goes."""
    if side == "B":
        return "Shared columns of B write into the same outputs: there updates add up or cancel."
    if "osrm" in starts:
        return (
            "Here it is harmless: OSRM starts every A where the other tasks' texts have least energy, and tasks have "
            "the same quiet directions. What counts is what a foreign update does to a task's texts (Diagnose: "
            "interference)."
        )
    if mean > 5 * chance:
        return (
            "These A's started from one seed and kept it: every task's texts reach every update through the same "
            "directions."
        )
    return (
        "Directions that A's share let one task's texts reach another's update; random A's of their own share "
        "hardly any."
    )


def rank_view(workbench: Workbench, pool: str, k: int, task: str, *part: str) -> str:
    """Show the rank of a task's features at one module against the number of texts."""
    layer, kind = part
    own = pool not in POOLS
    pool = next(iter(workbench.pools)) if own else pool
    module = pick(workbench.modules(pool), layer, kind)[0]
    curve = workbench.rank_curve(pool, task, module, k)
    colour = task_colours(workbench.tasks(pool))[task]
    caption = (
        f"Mean inputs of layer {layer}, {kind}, one per text. On y = x every text still adds a direction (the OSRM "
        "paper's figure 2, k = 100 there). Dashed: how many hold 99 % of the energy."
    )
    if own:
        caption = (
            f"Of the shipped tasks on all-MiniLM; the OSRM panel draws this for the tasks of your own sets. {caption}"
        )
    figure = rank_against_k(curve, label(workbench, task), colour)
    return payload(figure, caption, curve, f"mergescope_rank_{task}_layer{layer}_{kind}")


def parts(modules: Sequence[str]) -> tuple[list[str], list[str]]:
    """List the layers and the kinds of module (last part of the name) that occur."""
    layers = sorted({layer_of(module) for module in modules}, key=lambda layer: (len(layer), layer))
    return layers, list(dict.fromkeys(module.rsplit(".", 1)[-1] for module in modules))


def pick(modules: Sequence[str], layer: str, kind: str) -> list[str]:
    """Select modules by layer and kind; `all` selects every one."""
    return [
        module
        for module in modules
        if layer in {EVERY, layer_of(module)} and kind in {EVERY, module.rsplit(".", 1)[-1]}
    ]


def filename(settings: Settings, figure: str, *params: str) -> str:
    """Name a download after figure, pool and method, and after those parameters that the figure depends on."""
    values = [
        f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}"
        for name, value in settings.spec.params
        if name in params
    ]
    return "_".join(["mergescope", figure, settings.pool, settings.spec.method, *values])
