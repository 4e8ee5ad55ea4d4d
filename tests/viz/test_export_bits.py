"""Export, "Does it survive 4 or 8 bits?": the figure, the table and the advice are of the Merge tab's merge."""

from __future__ import annotations

import json

import gradio as gr
import pytest

from merging.diagnostics.quantisation import quantisation
from merging.methods import METHODS as CATALOGUE
from merging.services.workbench import Workbench
from viz.panels.export.bits import bits_section
from viz.panels.merge.controls import opening, restored
from viz.panels.merge.panel import MergeTab
from viz.panels.merge.session import Session


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


def measured(bench: Workbench, heads: list[str], **changes: object) -> list[list]:
    settings = opening(bench, CATALOGUE).changed(**changes)
    values = {name: options.get("value") for name, options in restored(bench, CATALOGUE, settings).items()}
    with gr.Blocks() as demo:
        form = {name: gr.State(value) for name, value in values.items()}
        tab = MergeTab(form, form, lambda event: None, lambda event: None, gr.State(Session()))
        bits_section(bench, CATALOGUE, tab, gr.Radio(["adapter", "model"]), gr.Dropdown([""]))
    measure = next(fn.fn for fn in demo.fns.values() if fn.fn.__name__ == "measure")
    return [*measure(heads, *values.values())]


def test_what_is_drawn_is_the_merge_of_the_merge_tab(bench: Workbench) -> None:
    *steps, last = measured(bench, [], method="task_arithmetic", orthogonalize="off", decouple=0.0)
    assert any("modules" in step[0] for step in steps)
    settings = opening(bench, CATALOGUE).changed(method="task_arithmetic", orthogonalize="off", decouple=0.0)
    expected = quantisation(bench.merged(settings), "minilm")
    shown = json.loads(last[1])
    assert len(shown["table"]["rows"]) == len(expected)
    assert shown["figure"]["data"][0]["y"] == pytest.approx(expected.nf4_error.tolist())
    assert last[0].count("<li>") == 2
    assert last[2]["visible"] is True


def test_a_method_with_a_merge_per_task_asks_which(bench: Workbench) -> None:
    changes = {"method": "emr", "orthogonalize": "off", "decouple": 0.0}
    *_, last = measured(bench, [], **changes)
    assert "choose whose head" in last[0]
    assert last[2]["visible"] is False
    *_, last = measured(bench, ["movie"], **changes)
    assert "<li>" in last[0]
