"""Mergescope's app: `python app.py`, then open the address it prints."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# an evaluation and a moving slider share the cores: threads that spin while they wait would make both many times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

try:
    import spaces
except ImportError:  # only Spaces has it
    spaces = None

import gradio as gr

from viz.panels.controls import opening
from viz.panels.look import launch_options
from viz.panels.osrm_handlers import OsrmHandlers
from viz.panels.osrm_services import Plan, Trained
from viz.panels.page import page
from viz.panels.services import Estimate, Progress, Settings, Workbench

LONGEST = 120
LONGEST_TRAINING = 300


def seconds(settings: dict[str, Any], limit: int) -> int:
    """Estimate how long a GPU is needed, so that short runs wait less."""
    return min(LONGEST, 15 + limit // 20)


def training_seconds(plan: dict[str, Any], root: str, stop: str) -> int:
    """Estimate how long a set takes to train on a GPU, with its features and tests."""
    return min(LONGEST_TRAINING, 30 + len(plan["tasks"]) * (10 + plan["epochs"] * plan["rows"] // 200))


def merging_seconds(folders: dict[str, str], scaling: float) -> int:
    """Estimate how long merging and testing a set takes on a GPU."""
    return 15 + 2 * len(folders)


def on_gpu(duration: Callable[..., int]) -> Callable[[Callable], Callable]:
    """Run a generator on a borrowed GPU where the host lends them (ZeroGPU); elsewhere leave it as it is."""
    return spaces.GPU(duration=duration) if spaces else lambda function: function


@cache
def workbench() -> Workbench:
    """Open the pools that ship with Mergescope, once per process."""
    from merging.workbench import Workbench as Opened

    return Opened()


@on_gpu(seconds)
def stream_accuracy(settings: dict[str, Any], limit: int) -> Iterator[Progress | Estimate]:
    """Evaluate a merge; plain values in and out, as a borrowed GPU lives in another process."""
    settings = Settings(**{**settings, "params": tuple(map(tuple, settings["params"]))})
    yield from workbench().evaluate(settings, limit)


@on_gpu(training_seconds)
def stream_training(plan: dict[str, Any], root: str, stop: str) -> Iterator[Trained]:
    """Train a set of adapters into the folder `root`, until done or until the file `stop` exists."""
    yield from workbench().lab.train(Plan(**plan), Path(root), stop=Path(stop).exists)


@on_gpu(merging_seconds)
def stream_merge(folders: dict[str, str], scaling: float) -> Iterator[tuple[str, float, float, float, int, int]]:
    """Merge a set of adapters {task: folder} and stream its accuracy per task."""
    yield from workbench().lab.merged_accuracy(folders, scaling)


def build() -> gr.Blocks:
    """Build the app on the pools that ship with Mergescope."""
    from merging.methods import METHODS
    from merging.plugins import PLUGINS

    bench = workbench()
    osrm = OsrmHandlers(bench.lab, bench, stream_training, stream_merge)
    return page(bench, METHODS, PLUGINS, stream_accuracy, osrm)


def main() -> None:
    """Serve the app; host and port come from GRADIO_SERVER_NAME and GRADIO_SERVER_PORT."""
    from merging.methods import METHODS

    demo = build()
    Thread(target=workbench().warm_up, args=[opening(workbench(), METHODS)], daemon=True).start()
    demo.launch(**launch_options())


if __name__ == "__main__":
    main()
