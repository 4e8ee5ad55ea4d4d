"""From the playground's frames to what the plot components show: figure, caption and table of each."""

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from merging.playground.scales import flips
from merging.services.settings import Settings
from viz.figures.theme import task_colours
from viz.figures.try_it import label_probabilities, loudness_per_layer, probability_lines, pulls, story
from viz.panels.kit.plot import payload
from viz.panels.try_it.session import SOURCES

Titles = Mapping[str, str]


def plain(name: str) -> str:
    """Give a name as figures take it: Plotly reads simple HTML, so markup in it is escaped."""
    return escape(name, quote=False)


def labels_view(said: pd.DataFrame, text: int, task: str, titles: Titles) -> str:
    """Show every label of one task for one text; its table and file hold the answers to all texts and tasks.

    Parameters
    ----------
    said : of `merging.playground.predictions`, with the text itself as `written`
    """
    rows = said[(said["text"] == text) & (said["task"] == task)]
    drawn = rows.assign(label=rows["label"].map(plain))
    figure = label_probabilities(drawn, SOURCES, task_colours(list(titles))[task])
    caption = f"{titles[task]}: how probable each label is. The table and the file hold all tasks and texts."
    table = said.assign(text=said["written"], task=said["task"].map(titles), source=said["source"].map(SOURCES))
    table = table.drop(columns="written")
    return payload(figure, caption, table, "mergescope_answers")


def blame_view(frame: pd.DataFrame, task: str, label: str, titles: Titles) -> str:
    """Show each adapter's pull at one label, and say who pulls most."""
    rows = frame[frame["label"] == label]
    colours = {plain(titles[name]): colour for name, colour in task_colours(list(titles)).items()}
    figure = pulls(rows.assign(left_out=rows["left_out"].map(titles).map(plain)), colours)
    caption = (
        f"{_who(rows, task, label, titles)} A bar is the logit of “{label}” in the merge minus that in the merge "
        "without the adapter, merged anew; percent: its share of all these moves."
    )
    return payload(figure, caption, frame.assign(left_out=frame["left_out"].map(titles)), "mergescope_who_did_it")


def _who(rows: pd.DataFrame, task: str, label: str, titles: Titles) -> str:
    least = rows.loc[rows["effect"].idxmin()]
    most = rows.loc[rows["effect"].idxmax()]
    said = []
    if least.effect < 0:
        said.append(f"“{titles[least.left_out]}” pulls this away from “{titles[task]}: {label}” most")
    if most.effect > 0:
        said.append(f"“{titles[most.left_out]}” pulls towards it most")
    return "; ".join(said) + "." if said else "No adapter moves this answer."


def loudness_view(frame: pd.DataFrame, task: str, titles: Titles) -> str:
    """Show how loud the updates are on the text, layer by layer."""
    colours = {plain(titles[name]): colour for name, colour in task_colours(list(titles)).items()}
    drawn = frame.assign(adapter=frame["adapter"].map(titles).map(plain))
    figure = loudness_per_layer(drawn, colours, plain(titles[task]))
    caption = (
        "The output of every update on this very text, as it enters the merge, relative to that of the task's own "
        "(1, dotted): OSRM's figure 1 on one's own sentence. Inputs are the base's."
    )
    return payload(figure, caption, frame.assign(adapter=frame["adapter"].map(titles)), "mergescope_loudness")


def story_view(frame: pd.DataFrame, settings: Settings, task: str, labels: Sequence[str], titles: Titles) -> str:
    """Show the answer over λ."""
    present = settings.spec.scaling
    assert present is not None
    found = flips(frame)
    drawn = frame.assign(label=frame["label"].map(plain))
    figure = story(drawn, [plain(label) for label in labels], present, found)
    at = [f"at λ {row.scaling:.2f} from “{row.before}” to “{row.after}”" for row in found.itertuples()]
    words = f"It flips {', '.join(at)}." if at else "It never flips."
    caption = f"{titles[task]} over λ: 0 is the base with the task's head. Dashed: your λ {present:g}. {words}"
    return payload(figure, caption, frame.drop(columns="text"), "mergescope_over_lambda")


def layers_view(frame: pd.DataFrame, task: str, labels: Sequence[str], titles: Titles) -> str:
    """Show the answer when only the layers up to each one are merged."""
    drawn = frame.assign(label=frame["label"].map(plain))
    figure = probability_lines(drawn, "layer", "merged up to layer", [plain(label) for label in labels])
    caption = (
        f"{titles[task]} when only the layers up to each are merged and the rest is the base's: it is decided where "
        "a line turns."
    )
    return payload(figure, caption, frame.drop(columns="text"), "mergescope_up_to_layer")
