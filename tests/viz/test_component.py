"""The plot component's payload and the page's wiring."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pandas as pd
import pytest
from fake_lab import FakeLab, FakePools, merge, train
from fake_workbench import METHODS, FakeWorkbench
from gradio.state_holder import StateHolder

from merging.io.assets import assets_folder
from merging.plugins import PLUGINS
from merging.services.chat import Chat
from merging.services.limits import LIMITS
from merging.services.settings import MOST_TASKS
from viz.panels.adapters.handlers import AdaptersHandlers
from viz.panels.diagnose.demand import Demand
from viz.panels.kit.look import launch_options, theme
from viz.panels.kit.plot import DIAGNOSE, EARLY, SCRIPTS, STYLES, TEMPLATE, payload
from viz.panels.osrm.handlers import OsrmHandlers
from viz.panels.page import page
from viz.panels.programs.endpoints import Programs
from viz.panels.server.health import Health
from viz.panels.try_it.broke import BrokeHandlers
from viz.panels.try_it.chat import ChatHandlers
from viz.panels.try_it.handlers import TryHandlers

READ_LATER = {
    # the browser computes what the figures show of these, and presses a button for the server when they rest
    *(f"ms-diag-at-{name}" for name in ("scaling", "penalty", "decouple", "mu", "k")),
    *(f"ms-diag-at-weight_{place}" for place in range(MOST_TASKS)),
    # which task an adapter is of is read when the set is made
    *(f"ms-task-of-{place}" for place in range(MOST_TASKS)),
    # how many rows of an own task are kept is read when it is used
    "ms-task-rows",
    # how the chat answers is read when it is asked
    *(f"ms-chat-{name}" for name in ("temperature", "most", "seed")),
    # what a search is for is read when it begins
    *(f"ms-tune-{name}" for name in ("goal", "seconds", "rows", "rank")),
}
"""Controls that no handler follows while they move."""


def nothing(*arguments: Any) -> Iterator[Any]:
    return iter(())


@pytest.fixture(scope="module")
def demo() -> Iterator[gr.Blocks]:
    workbench = FakeWorkbench()
    workbench.tables = assets_folder() / "tables"  # the lessons' numbers are of the shipped ones
    demand = Demand(workbench, nothing)
    lab = FakeLab()
    pools = FakePools(lab)
    brought = AdaptersHandlers(lab, pools, lambda: (None, None), nothing)
    ground = SimpleNamespace(workbench=workbench)
    tried = TryHandlers(ground), BrokeHandlers(ground, nothing), ChatHandlers(Chat(ground))
    osrm, programs = OsrmHandlers(lab, pools, train, merge), Programs(ground, nothing)
    health, tuning = Health(workbench.governor), (nothing, nothing)
    blocks = page(workbench, METHODS, PLUGINS, nothing, demand, osrm, brought, tried, *tuning, programs, health)
    yield blocks
    blocks.close()


def test_payload_is_json_with_figure_caption_and_table() -> None:
    table = pd.DataFrame({"task": ["a", "b"], "accuracy": [0.5, float("nan")], "rows": [3, 4]})
    packed = json.loads(payload({"data": [], "layout": {}}, "how to read", table, "name"))
    assert packed["caption"] == "how to read"
    assert packed["table"] == {"columns": ["task", "accuracy", "rows"], "rows": [["a", 0.5, 3], ["b", None, 4]]}


def test_the_template_holds_nothing_that_gradio_would_run() -> None:
    assert "${" not in TEMPLATE
    assert "{{" not in TEMPLATE
    assert "`" not in TEMPLATE


def test_the_served_files_exist() -> None:
    assert all(path.is_file() for path in (*STYLES, *SCRIPTS, *EARLY, *DIAGNOSE))


def test_listeners_are_private_and_the_last_value_wins(demo: gr.Blocks) -> None:
    # what programs ask has no trigger on the page, see test_programs
    listeners = [listener for listener in demo.config["dependencies"] if listener["targets"]]
    assert listeners
    for listener in listeners:
        assert listener["api_visibility"] == "private"
        # what adds something is done once, however often its button is pressed; a page is closed once
        clicked = all(event in ("click", "unload") for _, event in listener["targets"])
        assert listener["trigger_mode"] == "always_last" or (listener["trigger_mode"] == "once" and clicked)
        assert listener["show_progress"] in {"hidden", "minimal"} or not listener["outputs"]


def test_a_page_that_closes_before_its_first_event_is_known_as_closed(demo: gr.Blocks) -> None:
    holder = StateHolder()
    holder.set_blocks(demo)
    closed = next(fn for fn in demo.fns.values() if any(event == "unload" for _, event in fn.targets))
    closed.fn(SimpleNamespace(session_hash="page"))
    assert holder["page"].is_closed
    assert not holder["another"].is_closed


def test_how_much_goes_on_at_once_is_one_of_the_limits(demo: gr.Blocks) -> None:
    turns = {fn.concurrency_id: fn.concurrency_limit for fn in demo.fns.values() if not fn.concurrency_id.isdigit()}
    assert turns.items() <= LIMITS.model_dump().items()
    assert {"evaluations", "trainings", "programs"} <= turns.keys()


def test_every_control_answers_to_input(demo: gr.Blocks) -> None:
    answered = {
        target for listener in demo.config["dependencies"] for target, event in listener["targets"] if event == "input"
    }
    kinds = {"slider", "radio", "dropdown", "number"}
    moving = {c["id"]: c["props"].get("elem_id") for c in demo.config["components"] if c["type"] in kinds}
    assert moving
    assert {name for place, name in moving.items() if place not in answered} == READ_LATER


def test_no_gradio_plot_is_on_the_page(demo: gr.Blocks) -> None:
    assert not any(component["type"] == "plot" for component in demo.config["components"])


def test_fonts_are_files_that_ship_with_gradio() -> None:
    look = theme()
    assert not look._stylesheets
    assert all("https:" not in rule for rule in look._font_css)


def test_nothing_is_recorded_or_rendered_elsewhere() -> None:
    options = launch_options()
    assert options["ssr_mode"] is False
    assert options["run_history"] is False
