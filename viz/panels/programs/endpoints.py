"""The endpoints: `/methods`, `/inspect`, `/merge`, `/evaluate` and `/predict`.

Their docstrings are what programs and agents read, in the form that Gradio takes apart ("Args:", "Returns:").
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio.events import api

from merging.features.progress import Progress
from merging.services.api import (
    catalogue,
    evaluated,
    inspected,
    merge_of,
    pool_named,
    pool_of,
    predicted,
    shelf_of,
)
from merging.services.bundle import write_zip
from merging.services.playground import Playground
from merging.services.results import Stream
from viz.panels.kit.events import paced, turns
from viz.panels.programs.endpoint import Upload, endpoint, uploaded

PAUSE = 0.5  # seconds between two results of a running evaluation
Plain = dict[str, Any]


class Programs:
    """What programs may ask of the pools that ship and of adapters that they upload.

    Parameters
    ----------
    ground : answers texts, on the workbench's pools
    stream : `stream(settings, limit)` yields the steps of `Workbench.evaluate`
    """

    def __init__(self, ground: Playground, stream: Stream) -> None:
        self.ground, self.bench, self.stream = ground, ground.workbench, stream

    def register(self) -> None:
        """Make the endpoints, within a `gr.Blocks`."""
        for function in (self.methods, self.inspect, self.merge, self.evaluate, self.predict):
            # programs wait for each other and never take the place of somebody at a page
            api(endpoint(function), api_name=function.__name__, **turns("programs"))

    def methods(self) -> Iterator[Plain]:
        """List the merging methods with their parameters and papers, the plug-ins, and the pools of LoRA adapters that
        ship with Mergescope. Begin here: the "merge" of a method is a whole merge, to be changed and given to the
        other tools.

        Returns:
            {"methods": [..], "plugins": [..], "pools": [..]}
        """
        yield catalogue(self.bench)

    def inspect(self, pool: str = "", adapters: list[Upload] | None = None, base: str = "minilm") -> Iterator[Plain]:
        """Tell whether LoRA adapters can be merged, what hurts their merge, and their ranks and norms in every module.

        Args:
            pool: A pool that ships, by its name in /methods; leave it out where adapters are given.
            adapters: Zip files of PEFT LoRA adapters, at most 8, uploaded before.
            base: Base model of these adapters: minilm or smollm2.

        Returns:
            {"ok", "problems" (each blocks a merge), "warnings", "adapters" (a row each), "modules" (a row per adapter
                and module)}
        """
        shelf = shelf_of(self.bench, uploaded(adapters), base)
        if shelf:
            usable = [one.adapter for one in shelf if one.adapter is not None and not one.problem]
            yield inspected(usable, [one for one in shelf if one.problem])
            return
        with pool_of(self.bench, pool, shelf, base) as key:
            yield inspected(self.bench.published(key))

    def merge(
        self,
        merge: Plain | str,
        pool: str = "",
        adapters: list[Upload] | None = None,
        base: str = "minilm",
        rank: int | None = None,
        head: str = "",
    ) -> Iterator[Progress | gr.FileData]:
        """Merge LoRA adapters into one PEFT adapter: a zip file with its weights, model card and recipe.

        Args:
            merge: How: values as /methods shows them, {"method": "ties", "scaling": 0.5}, left out = the method's
                default; or a link of the app, "method=ties&scaling=0.5".
            pool: A pool that ships, by its name in /methods; leave it out where adapters are given.
            adapters: Zip files of PEFT LoRA adapters, 2 to 8, uploaded before.
            base: Base model of these adapters: minilm or smollm2.
            rank: Rank of the result; none = exact.
            head: Task whose classification head goes into the file; none = no head.

        Returns:
            The zip file.
        """
        with self._pool(merge, pool, adapters, base) as key, TemporaryDirectory() as folder:
            settings, _ = merge_of(self.bench, merge, key, None)
            steps = write_zip(self.bench, settings, "adapter", rank, head or None, Path(folder))
            for number, step in enumerate(steps):
                yield Progress(step.what, number, 0)
                if step.file is not None:
                    # Gradio copies it before this goes on and the folder goes
                    yield gr.FileData(path=str(step.file), orig_name=step.file.name)

    def evaluate(
        self,
        merge: Plain | str,
        pool: str = "",
        adapters: list[Upload] | None = None,
        base: str = "minilm",
        rows: int | None = None,
    ) -> Iterator[Progress | Plain]:
        """Measure the accuracy of a merge on the test rows of its tasks, with 95 % intervals. Results stream in until
        "finished" is true; where that takes too long, what is known by then is the result.

        Args:
            merge: How: values as /methods shows them, {"method": "ties", "scaling": 0.5}, left out = the method's
                default; or a link of the app, "method=ties&scaling=0.5".
            pool: A pool that ships, by its name in /methods; leave it out where adapters are given.
            adapters: Zip files of PEFT LoRA adapters, 2 to 8, uploaded before, that record an embedded task and bring
                a head.
            base: Base model of these adapters: minilm or smollm2.
            rows: Test rows per task, 50 to 1000; none = as a link says, else 200.

        Returns:
            {"merge" (in words), "finished", "tasks" (a row each; base and alone: without adapters, and each task's
                own), "average", "gap_recovered" ((merge - base) / (alone - base))}
        """
        with self._pool(merge, pool, adapters, base) as key:
            settings, limit = merge_of(self.bench, merge, key, rows)
            for step, due in paced(evaluated(self.bench, self.stream, settings, limit), PAUSE):
                if isinstance(step, Progress) or due or step["finished"]:
                    yield step

    def predict(
        self,
        texts: list[str],
        merge: Plain | str,
        pool: str = "",
        adapters: list[Upload] | None = None,
        base: str = "minilm",
        task: str = "",
    ) -> Iterator[Progress | list[Plain]]:
        """Answer texts of your own by the base model, each task's own adapter and the merge.

        Args:
            texts: At most 20 texts, of 20,000 characters in all, unless this server has other limits.
            merge: How: values as /methods shows them, {"method": "ties", "scaling": 0.5}, left out = the method's
                default; or a link of the app, "method=ties&scaling=0.5".
            pool: A pool that ships, by its name in /methods; leave it out where adapters are given.
            adapters: Zip files of PEFT LoRA adapters, 2 to 8, uploaded before.
            base: Base model of these adapters: minilm or smollm2.
            task: Whose question is answered; none = the questions of all tasks.

        Returns:
            A row per text, task and source ("base", "own", "merge"): the most probable label and its probability.
        """
        with self._pool(merge, pool, adapters, base) as key:
            settings, _ = merge_of(self.bench, merge, key, None)
            yield from predicted(self.ground, settings, texts, task)

    def _pool(self, merge: Plain | str, pool: str, adapters: list[gr.FileData] | None, base: str) -> Any:
        shelf = shelf_of(self.bench, uploaded(adapters), base)
        return pool_of(self.bench, pool or ("" if shelf else pool_named(merge)), shelf, base)
