"""Several sets of weights answer one prompt, a token each at a time: one model, one batch, one random number for all.

The prompt stands in a batch once for each set (see `merging.playground.weights`), so the weights of the base are read
once for all answers. That is what a token costs on a CPU: nine answers together take about twice the time of one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn

from ..errors import MergeError
from ..evaluation.verbalisers import Verbaliser, lead_of, plain_ids
from ..models.load import language_model_kind
from .questions import Question, require_characters
from .weights import OtherRowsError, Weights, check_sets, row_by_row

PROMPT = 256
"""Tokens of a prompt; each set of weights reads all of them."""
ANSWER = 128
"""Tokens of an answer."""
HOTTEST = 2.0


@dataclass(frozen=True)
class Decoding:
    """How a token is chosen.

    Attributes
    ----------
    temperature : 0 = the most probable one; else one is drawn from softmax(logits / temperature)
    most : tokens of an answer
    seed : of the random numbers, which are the same for all sets of weights: what differs comes from the weights
    """

    temperature: float = 0.0
    most: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= HOTTEST:
            raise MergeError(f"temperature = {self.temperature:g}: choose one from 0 to {HOTTEST:g}.")
        if not 1 <= self.most <= ANSWER:
            raise MergeError(f"An answer of {self.most} tokens: choose 1 to {ANSWER}.")
        if not 0 <= self.seed < 1 << 63:
            raise MergeError(f"seed = {self.seed}: choose a whole number from 0 on.")


@dataclass(frozen=True)
class Prompt:
    """What a language model reads: the text, with the chat template if there is one, and its tokens."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What was written so far; ``ended`` tells that it came to its end by itself."""

    text: str
    tokens: tuple[int, ...]
    ended: bool


def prompt_of(tokenizer: Any, written: str, template: bool = False, kind: str = "causal") -> Prompt:
    """Return what a model reads of a written prompt.

    Parameters
    ----------
    template : put it into the tokenizer's chat template, as the user's turn
    kind : see `merging.models.load.language_model_kind`; behind what a decoder reads no end of the text is written

    Raises
    ------
    MergeError
        For an empty prompt, more than `PROMPT` tokens, and a template that is missing or refuses.
    """
    if not written.strip():
        raise MergeError("There is no prompt: write one.")
    require_characters(written)
    text, lead = written, lead_of(tokenizer)
    if template:
        if not has_template(tokenizer):
            raise MergeError("This base's tokenizer has no chat template: ask without one.")
        try:
            turn = [{"role": "user", "content": written}]
            text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise MergeError(f"The chat template refuses this prompt ({error}): ask without it.") from error
        if lead:  # what the tokenizer writes before every text, a template may have written already
            text = text.removeprefix(tokenizer.decode(lead))
    ids = lead + plain_ids(tokenizer, [text])[0] if kind == "causal" else tokenizer(text)["input_ids"]
    if len(ids) > PROMPT:
        raise MergeError(f"The prompt has {len(ids)} tokens; at most {PROMPT} are read at once: shorten it.")
    return Prompt(text, tuple(ids))


def has_template(tokenizer: Any) -> bool:
    """Tell whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def after_prompt(question: Question) -> Question:
    """Return a task's question with its label words right after a prompt as it stands, not in the task's template.

    Raises
    ------
    MergeError
        If the task is answered by a head.
    """
    if not isinstance(question.head, Verbaliser):
        raise MergeError(f"The task {question.task!r} is answered by a classifier: it has no label words.")
    head = Verbaliser("{text}", question.head.words, question.head.normalised)
    return replace(question, head=head, max_length=PROMPT, pairs=False)


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompt: Prompt,
    sets: Mapping[str, Weights],
    decoding: Decoding | None = None,
    lock: AbstractContextManager[Any] | None = None,
) -> Iterator[dict[str, Answer]]:
    """Yield what every set of weights has written, {its name: answer}, after each token; closing the iterator stops.

    Parameters
    ----------
    model : the base with its language-model head; between two tokens nothing is on it
    sets : {who answers: with which weights}
    lock : held while a token is computed, and not between two: who shares the model waits for one token at most

    Raises
    ------
    MergeError
        If the model is no language model, updates do not fit it, or the prompt leaves no room for an answer.
    """
    decoding, kind = decoding or Decoding(), language_model_kind(model)
    check_sets(model, sets.values())
    room = decoding.most
    if kind == "causal" and (longest := getattr(model.config, "max_position_embeddings", None)):
        room = min(room, longest - len(prompt.ids))
    if room < 1:
        raise MergeError(f"The prompt's {len(prompt.ids)} tokens leave no room for an answer: shorten it.")
    random = torch.Generator().manual_seed(decoding.seed)
    hold, ends = lock or nullcontext(), _ends(model, tokenizer)
    shared = [name for name, weights in sets.items() if weights.whole is None]
    batches = [_Batch(shared, sets, ends, False)] if shared else []
    batches += [_Batch([name], sets, ends, True) for name in sets if name not in shared]
    for _ in range(room):
        noise = _noise(model, decoding.temperature, random)
        written: list[_Batch] = []
        for batch in batches:
            written += batch.write(model, prompt, kind, noise, hold)
        batches = written
        answers = {name: answer for batch in batches for name, answer in batch.answers(tokenizer).items()}
        yield {name: answers[name] for name in sets}
        if all(answer.ended for answer in answers.values()):
            return


def _noise(model: Any, temperature: float, random: torch.Generator) -> tuple[float, Tensor] | None:
    """Return (temperature, Gumbel noise of the vocabulary): the largest of logits / temperature + noise is a draw from
    softmax(logits / temperature).
    """
    if not temperature:
        return None
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return temperature, -torch.empty(vocabulary, dtype=torch.float64).exponential_(generator=random).log()


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end an answer."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list | tuple) else [configured]
    return {token for token in (*several, tokenizer.eos_token_id) if token is not None}


@dataclass(eq=False)
class _Batch:
    """Sets of weights that write together, a row each; ``alone``: one whose weights are put into the model."""

    names: list[str]
    sets: Mapping[str, Weights]
    ends: set[int]
    alone: bool
    tokens: list[list[int]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)

    def write(
        self,
        model: Any,
        prompt: Prompt,
        kind: str,
        noise: tuple[float, Tensor] | None,
        lock: AbstractContextManager[Any],
    ) -> list[_Batch]:
        """Write one token more; give the batches that go on, which are others where a layer mixes the rows."""
        if self.ended and all(self.ended):
            return [self]
        weights = [self.sets[name] for name in self.names]
        try:
            with lock, torch.no_grad():
                under = weights[0].put_into(model) if self.alone else row_by_row(model, weights, len(weights))
                with under:
                    logits = (_causal if kind == "causal" else _seq2seq)(model, prompt, self)
        except OtherRowsError:
            apart = [_Batch([name], self.sets, self.ends, True) for name in self.names]
            return [part for one in apart for part in one.write(model, prompt, kind, noise, lock)]
        scores = logits.double() / noise[0] + noise[1] if noise else logits
        self.tokens = self.tokens or [[] for _ in weights]
        self.ended = self.ended or [False] * len(weights)
        for row, token in enumerate(scores.argmax(-1).tolist()):
            self.tokens[row].append(token)  # a row that has ended goes on unread
            self.ended[row] = self.ended[row] or token in self.ends
        return [self]

    def answers(self, tokenizer: Any) -> dict[str, Answer]:
        """Return what each row says; half of a character at the end waits for its other half."""
        found = {}
        for name, tokens, ended in zip(self.names, self.tokens, self.ended, strict=True):
            stop = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
            text = tokenizer.decode(tokens[:stop], skip_special_tokens=True)
            found[name] = Answer(text.rstrip("\ufffd"), tuple(tokens[: stop + 1]), ended)
        return found


def _causal(model: Any, prompt: Prompt, batch: _Batch) -> Tensor:
    """Return the logits (rows, vocabulary) of the next token, on the CPU; what was read is remembered."""
    from transformers import DynamicCache  # noqa: PLC0415 - takes seconds

    if not batch.memory:
        # transformers calls it `cache` since 5.2x, and `past_key_values` before
        name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        batch.memory[name] = DynamicCache(config=model.config)
    ids = [[written[-1]] for written in batch.tokens] if batch.tokens else [list(prompt.ids)] * len(batch.names)
    logits: Tensor = model(input_ids=_ids(model, ids), use_cache=True, logits_to_keep=1, **batch.memory).logits
    return logits[:, -1].float().cpu()


def _seq2seq(model: Any, prompt: Prompt, batch: _Batch) -> Tensor:
    """Return the same for an encoder-decoder; its encoder reads the prompt once."""
    if not batch.memory:
        read = model.get_encoder()(input_ids=_ids(model, [list(prompt.ids)] * len(batch.names)))
        batch.memory["encoder_outputs"] = (read.last_hidden_state,)
    start = model.config.decoder_start_token_id
    ids = [[start, *written] for written in batch.tokens] if batch.tokens else [[start]] * len(batch.names)
    logits: Tensor = model(decoder_input_ids=_ids(model, ids), use_cache=False, **batch.memory).logits
    return logits[:, -1].float().cpu()


def _ids(model: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(rows, device=next(model.parameters()).device)
