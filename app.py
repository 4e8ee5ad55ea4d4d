"""Mergescope's app: `python app.py`, then open the address it prints; `--public` for a server that strangers use."""

import os
import sys
from argparse import ArgumentParser

if __name__ == "__main__":  # before anything reads the limits
    asked = ArgumentParser(description=__doc__)
    asked.add_argument("--public", action="store_true", help="with the limits of a public server")
    if asked.parse_args().public:
        os.environ.setdefault("MERGESCOPE_PROFILE", "public")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if os.environ.get("SPACE_ID"):
    # what strangers name is fetched as a stranger: the Space's own login could read its owner's private repositories
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    if os.access("/data", os.W_OK):  # a Space's volume: what was fetched is still there after a restart
        os.environ.setdefault("MERGESCOPE_CACHE", "/data/mergescope")
        os.environ.setdefault("HF_HOME", "/data/huggingface")
# an evaluation and a moving slider share the cores: threads that spin while they wait would make both many times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from merging.services.memory import limit_arenas

# many threads allocate and free whole models here: left alone, glibc would keep 10 of 13 GB that nobody uses
limit_arenas()

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

try:
    import spaces
except ImportError:  # only Spaces has it
    spaces = None

import gradio as gr
import pandas as pd

from merging.evaluation.accuracy import Estimate
from merging.features.progress import Progress
from merging.playground.rows import Outcome
from merging.services.chat import Chat
from merging.services.limits import LIMITS, profile_of
from merging.services.plan import Plan, Trained
from merging.services.playground import Playground
from merging.services.settings import Settings
from merging.services.tuning import TunePlan, sweep_scaling, tune
from merging.services.visitor import clear_killed
from merging.services.workbench import Workbench
from merging.tuning.search import Candidate
from viz.panels.adapters.handlers import AdaptersHandlers
from viz.panels.diagnose.demand import Demand
from viz.panels.kit.look import launch_options
from viz.panels.merge.controls import opening
from viz.panels.merge.handlers import REFERENCE
from viz.panels.osrm.handlers import OsrmHandlers
from viz.panels.page import page
from viz.panels.programs.endpoints import Programs
from viz.panels.server.health import Health
from viz.panels.server.jobs import log_jobs
from viz.panels.try_it.broke import BrokeHandlers
from viz.panels.try_it.chat import ChatHandlers
from viz.panels.try_it.handlers import TryHandlers


def seconds(settings: dict[str, Any], limit: int) -> int:
    """Estimate how long a GPU is needed, so that short runs wait less."""
    return min(LIMITS.gpu_seconds, 15 + limit // 20)


def training_seconds(plan: dict[str, Any], root: str, stop: str) -> int:
    """Estimate how long a set takes to train on a GPU, with its features and tests."""
    steps: int = plan["epochs"] * plan["rows"] // 200
    return min(LIMITS.gpu_training_seconds, 30 + len(plan["tasks"]) * (10 + steps))


def merging_seconds(folders: dict[str, str], scaling: float) -> int:
    """Estimate how long merging and testing a set takes on a GPU."""
    return 15 + 2 * len(folders)


def on_gpu(duration: Callable[..., int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a generator on a borrowed GPU where the host lends them (ZeroGPU); elsewhere leave it as it is."""
    return spaces.GPU(duration=duration) if spaces else lambda function: function


@cache
def workbench() -> Workbench:
    """Open the pools that ship with Mergescope, once per process."""
    from merging.services.workbench import Workbench as Opened

    return Opened()


@on_gpu(seconds)
def stream_accuracy(settings: dict[str, Any], limit: int) -> Iterator[Progress | Estimate]:
    """Evaluate a merge; plain values in and out, as a borrowed GPU lives in another process."""
    yield from workbench().evaluate(Settings.from_dict(settings), limit)


@on_gpu(training_seconds)
def stream_training(plan: dict[str, Any], root: str, stop: str) -> Iterator[Trained]:
    """Train a set of adapters into the folder `root`, until done or until the file `stop` exists."""
    yield from workbench().lab.train(Plan(**plan), Path(root), stop=Path(stop).exists)


@on_gpu(merging_seconds)
def stream_merge(folders: dict[str, str], scaling: float) -> Iterator[tuple[str, float, float, float, int, int]]:
    """Merge a set of adapters {task: folder} and stream its accuracy per task."""
    yield from workbench().lab.merged_accuracy(folders, scaling)


def leaving_seconds(settings: dict[str, Any], part: str, limit: int) -> int:
    """Estimate how long leaving everything out once takes on a GPU."""
    return min(LIMITS.gpu_training_seconds, 30 + limit // 4)


@on_gpu(leaving_seconds)
def stream_leave_out(settings: dict[str, Any], part: str, limit: int) -> Iterator[Any]:
    """Leave each adapter or layer out of a merge in turn."""
    yield from workbench().leave_out(Settings.from_dict(settings), part, limit)


def preparing_seconds(chosen: dict[str, Any], tasks: dict[str, Any], root: str, base: tuple[str, str]) -> int:
    """Estimate how long measuring brought adapters alone takes on a GPU."""
    return min(LIMITS.gpu_training_seconds, 30 + 20 * len(chosen))


@on_gpu(preparing_seconds)
def stream_prepare(chosen: dict[str, Any], tasks: dict[str, Any], root: str, base: tuple[str, str]) -> Iterator[Any]:
    """Measure the adapters {task: adapter} that a visitor brought for a base, and write them below the folder
    `root`."""
    from merging.models.layers import working_copy
    from merging.services.shelf import prepare

    model, tokenizer = workbench().base(*base)
    modules = {module for brought in chosen.values() for module in brought.adapter.deltas}
    yield from prepare(working_copy(model, modules), tokenizer, chosen, tasks, Path(root))


def tuning_seconds(plan: TunePlan) -> int:
    """Estimate how long a search takes on a GPU."""
    return min(LIMITS.gpu_training_seconds, 30 + int(plan.seconds))


@on_gpu(tuning_seconds)
def stream_tuning(plan: TunePlan) -> Iterator[Progress | Candidate]:
    """Search for the best merge of a pool."""
    yield from tune(workbench(), plan)


def sweeping_seconds(settings: Settings, rows: int) -> int:
    """Estimate how long measuring a merge over λ takes on a GPU."""
    return min(LIMITS.gpu_seconds, 30 + rows // 2)


@on_gpu(sweeping_seconds)
def stream_scaling(settings: Settings, rows: int) -> Iterator[Progress | pd.DataFrame]:
    """Measure a merge over λ."""
    yield from sweep_scaling(workbench(), settings, rows)


@cache
def playground() -> Playground:
    """Open what the Try it tab asks, once per process."""
    return Playground(workbench())


@cache
def health() -> Health:
    """Begin to look after the server, once per process."""
    return Health(workbench().governor)


def answering_seconds(pool: str, settings: dict[str, Any] | None, task: str, limit: int) -> int:
    """Estimate how long answering a task's rows takes on a GPU."""
    return min(LIMITS.gpu_seconds, 15 + limit // 40)


@on_gpu(answering_seconds)
def stream_outcome(pool: str, settings: dict[str, Any] | None, task: str, limit: int) -> Iterator[Progress | Outcome]:
    """Answer the test rows of a task by a merge, or by the task's own adapter (None)."""
    merge = Settings.from_dict(settings) if settings is not None else None
    yield from playground().outcome(pool, merge, task, limit)


def build(bases: Sequence[str] = ()) -> gr.Blocks:
    """Build the app on the pools that ship with Mergescope.

    Parameters
    ----------
    bases : sequence of str
        Folders with base models that visitors may choose beside the embedded ones.
    """
    from merging.methods import METHODS
    from merging.plugins import PLUGINS

    bench = workbench()
    osrm = OsrmHandlers(bench.lab, bench, stream_training, stream_merge)
    demand = Demand(bench, stream_leave_out)
    brought = AdaptersHandlers(bench.lab, bench, bench.base, stream_prepare)
    tried = TryHandlers(playground()), BrokeHandlers(playground(), stream_outcome), ChatHandlers(Chat(playground()))
    stream = bench.remembering(stream_accuracy)
    programs = Programs(playground(), stream)
    tuning = stream_tuning, stream_scaling
    return page(bench, METHODS, PLUGINS, stream, demand, osrm, brought, tried, *tuning, programs, health(), bases)


def get_ready() -> None:
    """Load what the first visitor needs; then compute and read, a batch at a time, what Diagnose, OSRM and Try it would
    first.
    """
    from merging.methods import METHODS

    start = opening(workbench(), METHODS)
    workbench().warm_up(start)
    if LIMITS.read_ahead:
        compared = start, opening(workbench(), METHODS, REFERENCE)
        for merge in compared:
            workbench().diagnosis(merge)
        for pool, side in product(workbench().pools, "AB"):
            workbench().overlaps(pool, side)
        example, _ = playground().row(start.pool, workbench().tasks(start.pool)[0], 0)
        playground().said(start.pool, [example], {"base": None, "own": None, "merge": start})
        for _ in workbench().read_moments(start):
            sleep(0.1)
            while workbench().governor.busy:  # visitors come first
                sleep(0.1)
        for merge in compared:  # on data, too
            workbench().diagnosis(merge)


def main(bases: Sequence[str] = ()) -> None:
    """Serve the app; host and port come from GRADIO_SERVER_NAME and GRADIO_SERVER_PORT."""
    demo = build(bases)
    clear_killed()
    if profile_of(os.environ) != "laptop":
        log_jobs()
    sys.setswitchinterval(0.001)  # Python's 5 ms are long where some threads compute and one answers
    Thread(target=get_ready, daemon=True).start()
    demo.launch(**launch_options([health().route()]))


if __name__ == "__main__":
    main()
