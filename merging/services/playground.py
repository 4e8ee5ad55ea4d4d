"""Playground: what the Try it tab asks of the core. Texts pass through and are kept by nobody here."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..adapters.lowrank import LowRank
from ..engine import merge_spec, plugged
from ..errors import MergeError
from ..evaluation.accuracy import applied, hits
from ..evaluation.verbalisers import Verbaliser
from ..features.progress import Progress
from ..models.layers import working_copy
from ..models.shared import describe
from ..playground.answers import picture_predictions, predictions
from ..playground.blame import compared, loudness, up_to_layer
from ..playground.questions import Question, question_of, require_characters
from ..playground.rows import Outcome, outcome
from ..playground.scales import SCALINGS, over_scaling
from ..playground.weights import BASE, Weights, weights_by_task, weights_of
from ..plugins.base import Updates
from ..recipes.spec import MergeSpec
from ..shipped import SHIPPED
from .limits import LIMITS
from .settings import Settings
from .workbench import NO_TEXTS, Workbench

ENDS = ("base", "own")
"""Who answers beside merges: the base with the tasks' heads, and each task's own adapter."""
PASSES = 8
"""Points of a language model's story over λ: each is a pass of its own."""


@dataclass(eq=False)
class Desk:
    """A model that one thread at a time may read texts with."""

    model: nn.Module
    tokenizer: Any
    lock: Lock = field(default_factory=Lock)


def texts_of(written: str) -> list[str]:
    """Return the texts in what somebody wrote: one a line, empty lines left out.

    Raises
    ------
    MergeError
        For more lines or characters than `Limits` allows, and for what is no text.
    """
    texts = [line.strip() for line in written.splitlines() if line.strip()]
    if len(written) > LIMITS.text_characters:
        raise MergeError(
            f"That is {len(written):,} characters; at most {LIMITS.text_characters:,} are read at once: take a part."
        )
    if len(texts) > LIMITS.texts:
        raise MergeError(
            f"That is {len(texts)} lines; at most {LIMITS.texts} are read at once, a text each: take a part."
        )
    require_characters(written)
    return texts


class Playground:
    """Answers to a visitor's texts, on the workbench's pools; nothing that depends on a text is kept.

    Texts are read on the CPU, also where a GPU is only borrowed: a pass over one text takes milliseconds.
    """

    def __init__(self, workbench: Workbench) -> None:
        self.workbench = workbench
        self.questions = workbench._per_pool(self._questions)
        self._desks = workbench._per_pool(self._desk, 6)
        self._weighed = workbench._per_pool(self._weigh, LIMITS.merge_bytes, _bytes)
        self._without = workbench._per_pool(self._weigh_without, LIMITS.merge_bytes, _bytes)
        self._plugged_without = workbench._per_pool(self._plug_without, 64)

    # -- what is asked -------------------------------------------------------------------------------------------------

    def _questions(self, pool: str) -> dict[str, Question]:
        bench = self.workbench
        known = bench.measured(pool)
        tasks = [bench.lab.task(adapter.task) if known else None for adapter in bench.adapters(pool)]
        return {a.task: question_of(a, task) for a, task in zip(bench.adapters(pool), tasks, strict=True)}

    def reads(self, pool: str, text: str) -> dict[str, tuple[int, int]]:
        """Return {task: (tokens that are read, tokens of the text)} of tasks that do not read all of a text."""
        tokenizer = self._desks(pool).tokenizer
        count = len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
        questions = self.questions(pool).values()
        return {q.task: (q.max_length, count) for q in questions if q.max_length < count}

    def row(self, pool: str, task: str, seed: int | None = None) -> tuple[str, str]:
        """Return (text, true label) of a random test row of a task."""
        known, test = self.workbench.lab.task(task), self._test(pool, task)
        place = random.Random(seed).randrange(len(test.texts))
        return self._joined(test, place), known.labels[test.labels[place]]

    def examples(self, pool: str, each: int = 2, shortest: int = 30, of: int = 200) -> list[tuple[str, str]]:
        """Return (task, text) of some short test rows, ``each`` of every task with different labels."""
        found = []
        for task in self.workbench.tasks(pool):
            test, seen = self._test(pool, task), set[int]()
            texts = [self._joined(test, place) for place in range(min(of, len(test.labels)))]
            for place in sorted(range(len(texts)), key=lambda place: (len(texts[place]) < shortest, len(texts[place]))):
                if test.labels[place] not in seen and len(seen) < each:
                    seen.add(test.labels[place])
                    found.append((task, texts[place]))
        return found

    def _test(self, pool: str, task: str) -> Any:
        if not self.workbench.measured(pool):
            raise MergeError(f"A test row {NO_TEXTS}")
        return self.workbench.lab.task(task).test

    @staticmethod
    def _joined(test: Any, place: int) -> str:
        pair = f" || {test.pairs[place]}" if test.pairs else ""
        return " ".join((test.texts[place] + pair).split())

    # -- weights -------------------------------------------------------------------------------------------------------

    def _desk(self, pool: str, purpose: str = "answers") -> Desk:
        """Return a desk; reasons have one of their own, so that no keystroke waits for them."""
        model, tokenizer = self.workbench._base_reader(*self.workbench.base_of(pool))
        return Desk(working_copy(model, self.workbench.modules(pool)), tokenizer)

    def weights(self, settings: Settings) -> dict[str, Weights]:
        """Return {task: weights that answer for it in a merge}; its λ costs nothing, as the merge at 1 is kept."""
        scaling = settings.spec.scaling
        if scaling is None:
            return self._weighed(settings.pool, settings.canonical())
        at_one = self._weighed(settings.pool, self._at_one(settings))
        if any(weights.whole is not None for weights in at_one.values()):
            return self._weighed(settings.pool, settings.canonical())
        scaled = {id(weights): weights.scaled(scaling) for weights in at_one.values()}
        return {task: scaled[id(weights)] for task, weights in at_one.items()}

    @staticmethod
    def _at_one(settings: Settings) -> Settings:
        return replace(settings, spec=settings.spec.with_params(scaling=1.0)).canonical()

    def _weigh(self, pool: str, settings: Settings) -> dict[str, Weights]:
        return weights_by_task(self.workbench.merged(settings), self.workbench.tasks(pool))

    def _plug_without(self, pool: str, place: int, plugins: MergeSpec) -> Updates:
        rest = [a for i, a in enumerate(self.workbench.adapters(pool)) if i != place]
        return plugged(rest, plugins, self.workbench.texts(pool, plugins.k) if plugins.soft_osrm else None)

    def _weigh_without(self, pool: str, settings: Settings, place: int) -> dict[str, Weights]:
        spec, adapters = settings.spec, self.workbench.adapters(pool)
        rest = [a for i, a in enumerate(adapters) if i != place]
        weights = tuple(w for i, w in enumerate(spec.weights_for(len(adapters))) if i != place)
        features = self.workbench.texts(pool, spec.k) if spec.needs_data else None
        updates = self._plugged_without(pool, place, spec.plug_ins)
        merged = merge_spec(rest, replace(spec, weights=weights), features, updates=updates)
        return weights_by_task(merged, self.workbench.tasks(pool))

    # -- answers -------------------------------------------------------------------------------------------------------

    def ready(self, settings: Settings) -> Iterator[Progress]:
        """Load the base and read the tasks' texts that a merge needs, as far as nobody has."""
        yield from self.workbench.read(settings)

    def said(self, pool: str, texts: Sequence[str], who: Mapping[str, Settings | None]) -> pd.DataFrame:
        """Return what the sources in ``who`` answer, see `merging.playground.predictions`.

        Parameters
        ----------
        who : {name: a merge}; None for a name in `ENDS`
        """
        return self._said(pool, texts, who, predictions)

    def seen(self, pool: str, picture: Any, who: Mapping[str, Settings | None]) -> pd.DataFrame:
        """Return what the sources answer to a picture (of PIL), see `merging.playground.picture_predictions`."""
        return self._said(pool, [picture.convert("RGB")], who, picture_predictions)

    def sees(self, pool: str) -> bool:
        """Tell whether a pool's base reads pictures."""
        return pool not in SHIPPED and describe(*self.workbench.base_of(pool)).kind == "vision"

    def _said(self, pool: str, asked: Sequence[Any], who: Mapping[str, Settings | None], answer: Any) -> pd.DataFrame:
        questions, desk = self.questions(pool), self._desks(pool)
        sources = {name: self._ends(pool, name) if of is None else self.weights(of) for name, of in who.items()}
        with desk.lock:
            found: pd.DataFrame = answer(desk.model, desk.tokenizer, asked, [*questions.values()], sources)
        return found

    def _ends(self, pool: str, name: str) -> dict[str, Weights]:
        if name == "base":
            return dict.fromkeys(self.workbench.tasks(pool), BASE)
        return {adapter.task: weights_of(adapter) for adapter in self.workbench.adapters(pool)}

    def leave_one_out(self, settings: Settings, text: str, task: str) -> Iterator[Progress | pd.DataFrame]:
        """Yield how far re-merging is, at last the frame of `merging.playground.leave_one_out`."""
        pool, desk = settings.pool, self._desks(settings.pool, "reasons")
        adapters = self.workbench.adapters(pool)
        if len(adapters) < 2:
            raise MergeError("Leaving one adapter out needs two or more: without the only one there is no merge.")
        whole = self._weighed(pool, settings.canonical())
        without = {}
        for place, adapter in enumerate(adapters):
            yield Progress("merging", place, len(adapters))
            rest = self._without(pool, settings.canonical(), place)
            if task in rest:
                without[adapter.task] = rest[task]
        with desk.lock:
            frame = compared(desk.model, desk.tokenizer, [text], self.questions(pool)[task], whole[task], without)
        yield frame

    def layers(self, settings: Settings, text: str, task: str) -> pd.DataFrame:
        """Return the answer when only the layers up to each one are merged, see `merging.playground.up_to_layer`."""
        desk, question = self._desks(settings.pool, "reasons"), self.questions(settings.pool)[task]
        weights = self.weights(settings)[task]
        with desk.lock:
            return up_to_layer(desk.model, desk.tokenizer, [text], question, weights)

    def loudness(self, settings: Settings, text: str, task: str) -> pd.DataFrame:
        """Return how loud every update is on a text, as it enters the merge, see `merging.playground.loudness`."""
        pool, desk = settings.pool, self._desks(settings.pool, "reasons")
        adapters = self.workbench.adapters(pool)
        weights = settings.spec.weights_for(len(adapters))
        merged = self.workbench.merged(settings)
        updates: list[dict[str, LowRank]] = [
            {module: update * (weight if isinstance(weight, float | int) else 1.0) for module, update in each.items()}
            for each, weight in zip(merged.updates, weights, strict=True)
        ]
        with desk.lock:
            return loudness(desk.model, desk.tokenizer, text, self.questions(pool)[task], adapters, updates)

    def over_scaling(self, settings: Settings, text: str, task: str) -> pd.DataFrame:
        """Return what the merge answers over λ, see `merging.playground.over_scaling`.

        Raises
        ------
        MergeError
            For a method without λ.
        """
        if settings.spec.scaling is None:
            raise MergeError("This method has no λ.")
        desk, question = self._desks(settings.pool, "reasons"), self.questions(settings.pool)[task]
        at_one = self._weighed(settings.pool, self._at_one(settings))[task]
        step = len(SCALINGS) // PASSES if isinstance(question.head, Verbaliser) else 1
        with desk.lock:
            return over_scaling(desk.model, desk.tokenizer, [text], question, at_one, SCALINGS[::step])

    # -- rows of a task ------------------------------------------------------------------------------------------------

    def outcome(self, pool: str, settings: Settings | None, task: str, limit: int) -> Iterator[Progress | Outcome]:
        """Yield how far it is, at last what a merge (None: the task's own adapter) answers to the first test rows.

        The rows go through the very batches of an evaluation, so the answers are those that it counts.
        """
        self._test(pool, task)
        if settings is not None:
            yield from self.workbench.read(settings)
        base, tokenizer = self.workbench.base(*self.workbench.base_of(pool))
        encoded = self.workbench.encoded(pool, task, "test").first(limit)
        own = next(a for a in self.workbench.adapters(pool) if a.task == task)
        merged = self.workbench.merged(settings) if settings is not None else None
        subject = own if merged is None else merged.for_task(task)
        model = working_copy(base, self.workbench.modules(pool))
        heads = {task: self.questions(pool)[task].head}
        batches, done = [], 0
        with applied(model, subject):
            for batch in hits(model, tokenizer, None, [encoded], heads=heads):
                batches.append(batch)
                done += len(batch.rows)
                yield Progress("answering", done, batch.total)
        yield outcome(batches)

    def rows(self, pool: str, task: str, limit: int) -> tuple[list[str], list[int], tuple[str, ...]]:
        """Return (texts, true labels, names of the labels) of the first test rows of a task."""
        test = self._test(pool, task)
        count = min(limit, len(test.labels))
        texts = [self._joined(test, place) for place in range(count)]
        return texts, list(test.labels[:count]), self.questions(pool)[task].labels


def _bytes(found: Mapping[str, Weights]) -> int:
    """Return what the updates of some weights take in memory."""
    sets = {id(weights): weights for weights in found.values()}.values()
    return sum(_size(update) for weights in sets for update in weights.updates.values()) + 1


def _size(update: LowRank | torch.Tensor) -> int:
    tensors = (update.A, update.B) if isinstance(update, LowRank) else (update,)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
