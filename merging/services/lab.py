"""Lab: what the OSRM panel asks of the core. Read the texts, solve the subspace, fine-tune, compare; plain values
out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..adapters.adapter import Adapter
from ..diagnostics.measures import RANK_KS, rank_curve
from ..engine import merge
from ..errors import MergeError
from ..evaluation.accuracy import encode_task, evaluate
from ..features.moments import Features
from ..features.store import BaseOf, FeatureStore
from ..models.embedded import EMBEDDED
from ..models.layers import linear_layers, out_in, target_names, working_copy
from ..models.shared import base_of, describe
from ..osrm import Subspace, erase, official_init, osrm_subspace, random_orthonormal
from ..tasks.embedded import SOURCES
from ..tasks.task import Task, task_title
from ..training.lora import osrm_start
from ..training.settings import Progress
from ..training.trainer import fine_tune
from ..training.variants import VARIANTS
from .limits import LIMITS
from .plan import MAX_LENGTH, Plan, SubspaceView, Trained


@dataclass(eq=False)
class Lab:
    """Services of the OSRM panel; one per process, sessions share it.

    Parameters
    ----------
    base : returns a base (model, tokenizer) that is never changed
    reader : the same on the CPU, if ``base`` may be on a borrowed GPU: features are read in this process and kept
    trained : returns an adapter of a task that was trained without OSRM, or None: what the post-hoc variant is shown on
    admit : raises MergeError where an owner may bring no more, see `Governor.admit`
    """

    base: BaseOf
    reader: BaseOf | None = None
    trained: Callable[[str], Adapter | None] = lambda task: None
    admit: Callable[[str, int], None] = lambda owner, brings: None
    _own: dict[str, Task] = field(default_factory=dict, repr=False)
    store: FeatureStore = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.store = FeatureStore(self.reader or self.base, self.task, LIMITS.feature_bytes)

    def titles(self, owner: str = "") -> dict[str, str]:
        """Return {name: title} of what a visitor may choose: the embedded tasks, and those that ``owner`` added."""
        own = {name: task.title for name, task in self._own.items() if owner and name.startswith(f"{owner}-")}
        return {name: task_title(name) for name in SOURCES} | own

    def task(self, name: str) -> Task:
        """Return an embedded task or an added one."""
        return self._own[name] if name in self._own else Task.load(name)

    def title(self, name: str) -> str:
        """Return a task's name for people; an adapter that was given no task goes by its own name."""
        if name in SOURCES:
            return task_title(name)
        return self._own[name].title if name in self._own else name

    def add(self, task: Task, owner: str) -> str:
        """Make a visitor's own task available to that visitor; returns the name that it has here.

        Raises
        ------
        MergeError
            Where ``owner`` may bring no more.
        """
        self.admit(owner, 1)
        name = f"{owner}-{task.name}"
        self._own[name] = replace(task, name=name)
        return name

    def owned(self) -> Iterator[tuple[str, Task]]:
        """Yield (owner, task) of what visitors added."""
        for name, task in [*self._own.items()]:
            yield name.partition("-")[0], task

    def forget(self, owner: str) -> None:
        """Drop what ``owner`` added."""
        gone = [name for name in [*self._own] if name.startswith(f"{owner}-")]
        self.store.forget(gone)
        for name in gone:
            self._own.pop(name, None)

    def check(self, plan: Plan) -> None:
        """Raise MergeError with a sentence if a plan cannot be carried out."""
        if not plan.tasks:
            raise MergeError("Choose at least one task.")
        if len(set(plan.tasks)) < len(plan.tasks):
            raise MergeError("A task is chosen twice.")
        for name in plan.tasks:
            self.task(name)
        if plan.settings(plan.tasks[0]).init == "osrm" and len(plan.tasks) < 2:
            raise MergeError("OSRM keeps a task's A away from the other tasks' texts: choose at least two tasks.")
        model, _ = self.base(plan.base, plan.dtype)
        widths = {out_in(layer)[1] for layer in linear_layers(model, self.modules(plan)).values()}
        if not 1 <= plan.rank <= min(widths):
            raise MergeError(f"rank = {plan.rank}: A has between 1 and {min(widths)} rows, the layer's width.")
        if plan.k < 1 or plan.epochs < 1 or plan.rows < 1 or not plan.learning_rate > 0:
            raise MergeError("k, epochs and rows start at 1, and the learning rate is above 0.")

    def kinds(self, base: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return (the kinds of modules of a base that can be adapted, the usual ones), without loading it."""
        known = EMBEDDED[base] if base in EMBEDDED else describe(base)
        return known.kinds, known.usual

    def modules(self, plan: Plan) -> list[str]:
        """Return the full names of the modules that a plan adapts."""
        return target_names(self.base(plan.base, plan.dtype)[0], plan.modules)

    # -- before training -----------------------------------------------------------------------------------------------

    def ready(self, plan: Plan) -> bool:
        """Tell whether the texts of a plan have been read already."""
        return self.store.ready(plan.texts, plan.k)

    def reading(self, plan: Plan) -> Iterator[tuple[int, int]]:
        """Read the texts that a plan needs; yields (texts read, texts to read). Closing stops between two batches."""
        self.check(plan)
        yield from self.store.reading(plan.texts, plan.k)

    def features(self, plan: Plan) -> Features:
        """Return the features of a plan, limited to its k."""
        return self.store.features(plan.texts, plan.k)

    def subspace(self, plan: Plan, task: str, module: str) -> SubspaceView:
        """Solve the subspace of one task at one module from the first k texts; milliseconds once they have been
        read."""
        everything = replace(self.features(plan), limit=None)
        A, found = self._start(plan, everything, task, module)
        at_all = self._start(replace(plan, k=everything.k), everything, task, module)[0]
        count = len(found.eigenvalues)
        spectrum = pd.DataFrame({"index": range(1, count + 1), "eigenvalue": found.eigenvalues.clamp(min=0).numpy()})
        osrm = self._is_osrm(plan)
        spectrum["chosen"] = (spectrum["index"] <= plan.rank) & osrm
        return SubspaceView(
            spectrum=spectrum,
            seen=self._seen(plan, everything, task, module, A),
            null_dimension=found.null_dimension,
            unique=found.unique and VARIANTS[plan.variant].pooling != "official",
            energy=float((A.double() @ self._others(plan, everything, task, module)).mul(A.double()).sum()),
            change=1.0 - float((A.double() @ at_all.double().T).square().sum()) / len(A) if osrm else None,
            texts={name: min(plan.k, len(everything.samples(name, module))) for name in plan.tasks},
            erased=self._erased(plan, task, module, A),
        )

    def _erased(self, plan: Plan, task: str, module: str, A: Tensor) -> float | None:
        adapter = self.trained(task) if self._is_osrm(plan) else None
        update = adapter.deltas.get(module) if adapter is not None else None
        return erase(update, A)[1] if update is not None else None

    def rank_curve(self, plan: Plan, task: str, module: str) -> pd.DataFrame:
        """Return k, rank, energy_rank of the texts' mean inputs, up to the texts that were read."""
        features = replace(self.features(plan), limit=None)
        samples = features.samples(task, module)
        return rank_curve(samples, [k for k in RANK_KS if k <= len(samples)])

    def _start(self, plan: Plan, features: Features, task: str, module: str) -> tuple[Tensor, Subspace]:
        """Return (the A that the variant starts from, OSRM's solution for the figure)."""
        variant = VARIANTS[plan.variant]
        pooling = "task_mean" if variant.pooling == "official" else "token"
        found = osrm_subspace(features, task, plan.rank, module, pooling=pooling, k=plan.k)
        if variant.pooling == "official":
            return official_init(features.first(plan.k), task, plan.rank, module), found
        if variant.init == "osrm":
            return found.A, found
        # PEFT's A are random too: their rows span the same kind of subspace as orthonormal ones
        generator = torch.Generator().manual_seed(variant.seed(plan.tasks.index(task), plan.seed))
        return random_orthonormal(plan.rank, found.A.shape[1], generator), found

    def _seen(self, plan: Plan, features: Features, task: str, module: str, A: Tensor) -> pd.DataFrame:
        rows = []
        for name in plan.tasks:
            G = features.second_moment(name, module, k=plan.k)
            share = (float((A.double() @ G).mul(A.double()).sum()) / float(G.trace())) ** 0.5
            rows.append((name, name == task, share, (plan.rank / len(G)) ** 0.5))
        return pd.DataFrame(rows, columns=["task", "own", "share", "random"])

    @staticmethod
    def _others(plan: Plan, features: Features, task: str, module: str) -> Tensor:
        moments = [features.second_moment(name, module, k=plan.k) for name in plan.tasks if name != task]
        total = torch.stack([G / G.trace() for G in moments]).sum(0)
        return total / total.trace()

    # -- training ------------------------------------------------------------------------------------------------------

    def train(
        self, plan: Plan, root: Path, test_rows: int = 200, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Trained]:
        """Fine-tune one adapter per task into ``root/<task>``; a stopped training keeps what is done.

        Raises
        ------
        MergeError
            As `check`, and for a label that no training row has.
        """
        self.check(plan)
        model, tokenizer = self.base(plan.base, plan.dtype)
        modules = self.modules(plan)
        own = working_copy(model, modules)  # training attaches layers: never to the model that others evaluate
        for place, name in enumerate(plan.tasks):
            if stop():
                return
            task = self.task(name)
            A_init = (
                osrm_start(self.features(plan), name, plan.settings(name), modules) if self._is_osrm(plan) else None
            )
            progress: Progress | None = None
            for progress in fine_tune(own, tokenizer, task, plan.settings(name), A_init, stop=stop):
                if progress.adapter is None:
                    yield self._event(plan, place, progress)
            assert progress is not None and progress.adapter is not None
            yield self._keep(plan, place, progress, own, tokenizer, root, test_rows)

    def _keep(
        self, plan: Plan, place: int, progress: Progress, model: nn.Module, tokenizer: Any, root: Path, test_rows: int
    ) -> Trained:
        adapter, task = progress.adapter, self.task(plan.tasks[place])
        assert adapter is not None and adapter.head is not None
        test = encode_task(tokenizer, task, "test", test_rows, MAX_LENGTH)
        heads = {task.name: adapter.head}
        single, base = ([*evaluate(model, tokenizer, s, [test], heads=heads)][-1] for s in (adapter, None))
        metadata = adapter.metadata.changed(
            test_accuracy={"adapter": single.accuracy, "base": base.accuracy},
            test_marks={"adapter": single.marks, "base": base.marks},
            rows={
                "train": min(plan.rows, len(task.train)),
                "validation": min(300, len(task.validation)),
                "test": len(test.labels),
            },
            variant=plan.variant,
        )
        folder = replace(adapter, metadata=metadata).save(root / task.name)
        return replace(
            self._event(plan, place, progress), folder=str(folder), single=single.accuracy, base=base.accuracy
        )

    @staticmethod
    def _event(plan: Plan, place: int, progress: Progress) -> Trained:
        return Trained(
            plan.tasks[place],
            place,
            len(plan.tasks),
            progress.step,
            progress.steps,
            progress.loss,
            progress.validation,
            progress.drift,
            progress.seconds,
            progress.left,
        )

    # -- after training ------------------------------------------------------------------------------------------------

    def merged_accuracy(
        self,
        folders: Mapping[str, str],
        scaling: float,
        method: str = "task_arithmetic",
        rows: int = 100,
    ) -> Iterator[tuple[str, float, float, float, int, int]]:
        """Merge trained adapters {task: folder} and yield (task, accuracy, low, high, done, total) as `evaluate`
        does."""
        adapters = [Adapter.load(folder, task=task) for task, folder in folders.items()]
        model, tokenizer = self.base(base_of(adapters), "float32")
        merged = merge(adapters, method, scaling=scaling)
        tasks = [self.task(task) for task in folders]
        encoded = [encode_task(tokenizer, task, "test", rows, MAX_LENGTH) for task in tasks]
        for estimate in evaluate(working_copy(model, merged.modules), tokenizer, merged, encoded):
            yield estimate.task, estimate.accuracy, *estimate.interval, estimate.done, estimate.total

    def _is_osrm(self, plan: Plan) -> bool:
        return VARIANTS[plan.variant].init == "osrm"
