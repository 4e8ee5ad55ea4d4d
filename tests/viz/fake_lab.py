"""A lab of seeded synthetic numbers, for the tests of the OSRM panel's figures and handlers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fake_workbench import TITLES

from merging.errors import MergeError
from merging.features.store import TextsOf
from merging.services.governor import Governor
from merging.services.plan import Plan, SubspaceView, Trained
from merging.tasks.task import Task
from merging.training.variants import VARIANTS

KINDS = ("query", "key", "value", "dense")
WIDTH = 384
TEXTS = 300
STEPS = 4


class FakeLab:
    def __init__(self) -> None:
        self.read: set[tuple[str, ...]] = set()
        self.own: dict[str, Task] = {}
        self.readings = 0

    def titles(self, owner: str = "") -> dict[str, str]:
        return TITLES | {name: task.title for name, task in self.own.items() if name.startswith(f"{owner}-")}

    def add(self, task: Task, owner: str) -> str:
        self.own[f"{owner}-{task.name}"] = replace(task, name=f"{owner}-{task.name}")
        return f"{owner}-{task.name}"

    def admit(self, owner: str, brings: int) -> None:
        """Nothing is full."""

    def forget(self, owner: str) -> None:
        self.own = {name: task for name, task in self.own.items() if not name.startswith(f"{owner}-")}

    def check(self, plan: Plan) -> None:
        if VARIANTS[plan.variant].init == "osrm" and len(plan.tasks) < 2:
            raise MergeError("choose at least two tasks.")
        if plan.rank > WIDTH:
            raise MergeError(f"rank = {plan.rank}: A has between 1 and {WIDTH} rows.")

    def kinds(self, base: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (
            (("q_proj", "v_proj", "o_proj"), ("q_proj", "v_proj")) if base == "smollm2" else (KINDS, ("query", "value"))
        )

    def modules(self, plan: Plan) -> list[str]:
        parts = {"query": ["attention.self.query"], "key": ["attention.self.key"], "value": ["attention.self.value"]}
        parts["dense"] = ["attention.output.dense", "intermediate.dense", "output.dense"]
        return [f"encoder.layer.{layer}.{part}" for layer in range(6) for kind in plan.modules for part in parts[kind]]

    def ready(self, plan: Plan) -> bool:
        return plan.tasks in self.read

    def reading(self, plan: Plan) -> Iterator[tuple[int, int]]:
        if self.ready(plan):
            return
        self.readings += 1
        for done in (100, 200, TEXTS):
            yield done, TEXTS
        self.read.add(plan.tasks)

    def subspace(self, plan: Plan, task: str, module: str) -> SubspaceView:
        if len(plan.tasks) < 2:
            raise MergeError("OSRM needs the features of at least one other task.")
        null = max(WIDTH - 4 * plan.k, 0)
        values = np.concatenate([np.zeros(null), np.logspace(-7, 0, WIDTH - null)])
        osrm = VARIANTS[plan.variant].init == "osrm"
        index = np.arange(1, WIDTH + 1)
        return SubspaceView(
            spectrum=pd.DataFrame({"index": index, "eigenvalue": values, "chosen": (index <= plan.rank) & osrm}),
            seen=pd.DataFrame(
                [(name, name == task, 0.08 if name == task else 0.01, 0.144) for name in plan.tasks],
                columns=["task", "own", "share", "random"],
            ),
            null_dimension=null,
            unique=null <= plan.rank,
            energy=1e-7,
            change=0.3 if osrm else None,
            texts={name: min(plan.k, TEXTS) for name in plan.tasks},
            erased=0.02 if osrm else None,
        )

    def rank_curve(self, plan: Plan, task: str, module: str) -> pd.DataFrame:
        k = np.array([1, 10, 100])
        return pd.DataFrame({"k": k, "rank": np.minimum(k, 90), "energy_rank": np.minimum(k, 40)})


class FakePools:
    def __init__(self, lab: FakeLab) -> None:
        self.lab = lab
        self.pools: dict[str, tuple[str, dict[str, str], Plan]] = {}
        self.governor = Governor(lambda: iter(()), lambda visitor: None)

    def add_pool(self, key: str, title: str, folders: dict[str, str], texts: TextsOf, measured: bool = True) -> None:
        self.pools[key] = (title, dict(folders), texts)

    def remove_pool(self, key: str) -> None:
        self.pools.pop(key, None)


def train(plan: dict[str, Any], root: str, stop: str) -> Iterator[Trained]:
    """Write a file per task, as `Lab.train` writes a folder; a stop file ends the current task early and starts no
    other.
    """
    made = Plan(**plan)
    for place, task in enumerate(made.tasks):
        if Path(stop).exists():
            return
        given = (task, place, len(made.tasks))
        for step in range(1, STEPS + 1):
            yield Trained(*given, step, STEPS, 1 / step, None, None, float(step), float(STEPS - step))
            if Path(stop).exists():
                break
        yield Trained(*given, step, STEPS, 1 / step, 0.8, (0.12, 0.1), float(step), 0.0)
        folder = Path(root) / task
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        yield Trained(
            *given, step, STEPS, 1 / step, 0.8, (0.12, 0.1), float(step), 0.0, str(folder), 0.8 + place / 100, 0.6
        )


def merge(folders: dict[str, str], scaling: float) -> Iterator[tuple[str, float, float, float, int, int]]:
    for done in (50, 100):
        for task in folders:
            yield task, 0.7 + scaling / 100, 0.65, 0.8, done, 100
