"""Chat: what the Try it tab asks of a pool whose base writes. Prompts pass through and are kept by nobody here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..evaluation.accuracy import own_head
from ..evaluation.verbalisers import Verbaliser
from ..features.progress import Progress
from ..models.load import language_model_kind
from ..models.shared import describe
from ..playground.answers import predictions
from ..playground.chat import Answer, Decoding, Prompt, after_prompt, generate, has_template, prompt_of
from ..playground.questions import Question, question_of
from ..playground.weights import BASE, Weights, weights_of
from ..shipped import SHIPPED
from .playground import Desk, Playground
from .settings import Settings

OWN = "own:"
"""Begins the name of a task's own adapter among those who answer."""
Labels = tuple[tuple[str, float], ...]
"""(label, its probability) of a task's labels."""


class Chat:
    """Answers of a base, its adapters and merges to one prompt, on the playground's weights.

    The model is held for a token at a time, so visitors take turns at it.
    """

    def __init__(self, playground: Playground) -> None:
        self.playground, self.workbench = playground, playground.workbench

    def writes(self, pool: str) -> bool:
        """Tell whether a pool's base has a language-model head; it is not loaded for that."""
        shipped = SHIPPED.get(pool)
        return shipped.words if shipped else describe(*self.workbench.base_of(pool)).writes

    def _desk(self, pool: str) -> Desk:
        return self.playground._desks(pool, "chat")

    def templated(self, pool: str) -> bool:
        """Tell whether the base's tokenizer has a chat template."""
        return has_template(self._desk(pool).tokenizer)

    def ready(self, *merges: Settings) -> Iterator[Progress]:
        """Load the base and read the tasks' texts that merges need, as far as nobody has."""
        for settings in merges:
            yield from self.playground.ready(settings)

    def prompt(self, pool: str, written: str, template: bool) -> Prompt:
        """Return what the base reads of a prompt, see `merging.playground.chat.prompt_of`."""
        desk = self._desk(pool)
        return prompt_of(desk.tokenizer, written, template, language_model_kind(desk.model))

    def voices(self, pool: str, task: str, merges: Mapping[str, Settings]) -> dict[str, Weights]:
        """Return {who answers: with which weights}: "base", `OWN` + task of every adapter, then the merges.

        Parameters
        ----------
        task : whose weights a method takes that has others for each task
        merges : {name: a merge}
        """
        found = {"base": BASE}
        found |= {f"{OWN}{adapter.task}": weights_of(adapter) for adapter in self.workbench.adapters(pool)}
        for name, settings in merges.items():
            by_task = self.playground.weights(settings)
            if task in by_task:
                found[name] = by_task[task]
        return found

    def answers(
        self, pool: str, prompt: Prompt, voices: Mapping[str, Weights], decoding: Decoding
    ) -> Iterator[dict[str, Answer]]:
        """Yield what everybody has written so far, a token more each time; closing the iterator stops."""
        desk = self._desk(pool)
        yield from generate(desk.model, desk.tokenizer, prompt, voices, decoding, desk.lock)

    def labels(
        self, pool: str, prompt: Prompt, voices: Mapping[str, Weights], task: str
    ) -> Iterator[tuple[str, Labels]]:
        """Yield (who, the labels' probabilities by the likelihood of their words right after the prompt).

        Nothing for a task that is not answered in words.
        """
        question, desk = self._in_words(pool, task), self._desk(pool)
        if question is None:
            return
        for name, weights in voices.items():
            sources = {name: {question.task: weights}}
            with desk.lock:
                frame = predictions(desk.model, desk.tokenizer, [prompt.text], [after_prompt(question)], sources)
            yield name, tuple(zip(frame["label"], frame["probability"], strict=True))

    def asked(self, pool: str, task: str, text: str) -> str | None:
        """Return a text in the prompt of a task; None where it is not answered in words."""
        question = self._in_words(pool, task)
        return question.read(text) if question else None

    def _in_words(self, pool: str, task: str) -> Question | None:
        adapter = next(a for a in self.workbench.adapters(pool) if a.task == task)
        if not isinstance(own_head(adapter), Verbaliser):
            return None
        known = self.workbench.lab.task(task) if self.workbench.measured(pool) else None
        return question_of(adapter, known)
