"""Mergescope's app: `python app.py`, then open the address it prints."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# an evaluation and a moving slider share the cores: threads that spin while they wait would make both many times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable, Iterator
from functools import cache
from threading import Thread
from typing import Any

try:
    import spaces
except ImportError:  # only Spaces has it
    spaces = None

import gradio as gr

from viz.panels.controls import opening
from viz.panels.look import launch_options
from viz.panels.page import page
from viz.panels.services import Estimate, Progress, Settings, Workbench

LONGEST = 120


def seconds(settings: dict[str, Any], limit: int) -> int:
    """Estimate how long a GPU is needed, so that short runs wait less."""
    return min(LONGEST, 15 + limit // 20)


def on_gpu(function: Callable) -> Callable:
    """Run a generator on a borrowed GPU where the host lends them (ZeroGPU); elsewhere leave it as it is."""
    return spaces.GPU(duration=seconds)(function) if spaces else function


@cache
def workbench() -> Workbench:
    """Open the pools that ship with Mergescope, once per process."""
    from merging.workbench import Workbench as Opened

    return Opened()


@on_gpu
def stream_accuracy(settings: dict[str, Any], limit: int) -> Iterator[Progress | Estimate]:
    """Evaluate a merge; plain values in and out, as a borrowed GPU lives in another process."""
    settings = Settings(**{**settings, "params": tuple(map(tuple, settings["params"]))})
    yield from workbench().evaluate(settings, limit)


def build() -> gr.Blocks:
    """Build the app on the pools that ship with Mergescope."""
    from merging.methods import METHODS
    from merging.plugins import PLUGINS

    return page(workbench(), METHODS, PLUGINS, stream_accuracy)


def main() -> None:
    """Serve the app; host and port come from GRADIO_SERVER_NAME and GRADIO_SERVER_PORT."""
    from merging.methods import METHODS

    demo = build()
    Thread(target=workbench().warm_up, args=[opening(workbench(), METHODS)], daemon=True).start()
    demo.launch(**launch_options())


if __name__ == "__main__":
    main()
