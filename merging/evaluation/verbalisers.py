"""Classification by a language model: the label whose words are most likely after the prompt.

A decoder reads the prompt and the words in one sequence; an encoder-decoder reads the prompt and writes the words.

References
----------
Schick & Schütze, "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference", EACL
2021 (verbalisers); Brown et al., "Language Models are Few-Shot Learners", NeurIPS 2020, section 2.4 (comparing the
likelihood of each completion).
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..adapters.metadata import AdapterMetadata
from ..errors import MergeError
from ..models.load import language_model_kind

LARGEST_LOGITS = 1 << 26
"""Numbers in one batch's logits (256 MB); what would have more is cut into smaller batches."""


LONGEST_TEMPLATE = 10_000


@dataclass(frozen=True)
class Verbaliser:
    """What a language model is asked, and which words stand for which label.

    Attributes
    ----------
    template : the prompt with ``{text}``, and ``{pair}`` where a task has second texts
    words : {label of the task: what would follow the prompt}, with the space before it where the template does not end
        in one
    normalised : score by the mean log-likelihood of a label's tokens; by default by their sum, which is the label's
        probability
    """

    template: str
    words: Mapping[str, str]
    normalised: bool = False

    def prompt(self, text: str, pair: str = "") -> str:
        """Return the template filled in."""
        return self.template.format(text=text, pair=pair)


@dataclass(frozen=True)
class Texts:
    """The rows of a task as they are before any prompt; ``max_length`` tokens of each are kept."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    max_length: int | None = None

    def first(self, limit: int) -> Texts:
        """Return the first ``limit`` rows."""
        return Texts(self.texts[:limit], self.pairs[:limit] if self.pairs else None, self.max_length)


def default_verbaliser(task: str, question: str, labels: Sequence[str], pairs: bool = False) -> Verbaliser:
    """Return a verbaliser that asks a task's question (or which label it is) after the text and answers with the names
    of its labels.

    Raises
    ------
    MergeError
        If two labels have the same words.
    """
    words = {label: " " + " ".join(label.replace("_", " ").split()) for label in labels}
    if len(set(words.values())) < len(words):
        raise MergeError(f"Two labels of {task!r} read alike: give a verbaliser with words that differ.")
    choice = f"Which is it: {', '.join(word.strip() for word in words.values())}?"
    asked = (question.partition("?")[0] + "?" if "?" in question else choice).replace("{", "{{").replace("}", "}}")
    return Verbaliser("{text}\n" + ("{pair}\n" if pairs else "") + f"{asked} Answer:", words)


def recorded_verbaliser(metadata: AdapterMetadata) -> Verbaliser | None:
    """Return the verbaliser that an adapter's metadata record, if they do."""
    noted = metadata.verbaliser
    return Verbaliser(noted.template, noted.words, noted.normalised) if noted else None


def task_type(model: Any) -> str:
    """Return PEFT's task type of a language model."""
    return {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}[language_model_kind(model)]


def label_scorer(
    verbaliser: Verbaliser, model: Any, tokenizer: Any, rows: Texts, labels: Sequence[str], task: str = ""
) -> Callable[[Sequence[int]], Tensor]:
    """Return what gives the log-likelihoods (len(rows), labels) of each label's words after the prompts of rows.

    The score of a label is the sum (or mean, see `Verbaliser`) of log p(token | everything before it) over the tokens
    of its words; for an encoder-decoder these are what its tokenizer makes of the words as a target, so they include
    the end of the sequence. A decoder's prompt and words are tokenised as one text. Where the first of the words melts
    into the last token of the prompt, the scored part begins at that token for every label, so that the labels of a row
    stay comparable.

    Parameters
    ----------
    model : with its language-model head, see `merging.models.load.load_language_model`

    Raises
    ------
    MergeError
        If the model is no language model, the words are not those of the task's labels, the template lacks the text, or
        a prompt is longer than the model can read.
    """
    kind = language_model_kind(model)
    _check(verbaliser, rows, labels, task)
    words = [verbaliser.words[label] for label in labels]
    prompts = _prompts(verbaliser, tokenizer, rows)
    if kind == "seq2seq":
        sources = [torch.tensor(ids) for ids in tokenizer(prompts)["input_ids"]]
        targets = [torch.tensor(ids) for ids in tokenizer(text_target=words)["input_ids"]]
        _check_length(model, max(map(len, sources)), task)

        def scores(picked: Sequence[int]) -> Tensor:
            return _seq2seq_scores(model, [sources[row] for row in picked], targets, verbaliser.normalised)

    else:
        lead = lead_of(tokenizer)
        spans = [_spans(tokenizer, lead, prompt, words, task) for prompt in prompts]
        _check_length(model, max(len(ids) for _, sequences in spans for ids in sequences), task)

        def scores(picked: Sequence[int]) -> Tensor:
            return _causal_scores(model, [spans[row] for row in picked], verbaliser.normalised)

    return scores


def _check(verbaliser: Verbaliser, rows: Texts, labels: Sequence[str], task: str) -> None:
    try:
        parts = [part for part in string.Formatter().parse(verbaliser.template) if part[1] is not None]
    except ValueError as error:
        raise MergeError(
            f"The template for {task!r} is malformed ({error}): write braces that are signs twice."
        ) from error
    fields = {str(name) for _, name, _, _ in parts}
    if len(verbaliser.template) > LONGEST_TEMPLATE or any(spec or conversion for _, _, spec, conversion in parts):
        raise MergeError(
            f"The template for {task!r} should be {LONGEST_TEMPLATE} signs at most, with {{text}} as it is: nothing "
            "after a colon or a mark."
        )
    wanted = {"text", "pair"} if rows.pairs else {"text"}
    if fields != wanted:
        raise MergeError(
            f"The template for {task!r} should hold "
            f"{' and '.join(f'{{{name}}}' for name in sorted(wanted, reverse=True))}, not "
            f"{', '.join(f'{{{name}}}' for name in sorted(fields)) or 'nothing to fill in'}."
        )
    if set(verbaliser.words) != set(labels):
        raise MergeError(
            f"The verbaliser of {task!r} has words for {', '.join(verbaliser.words)}, the task's labels are "
            f"{', '.join(labels)}."
        )
    for label, words in verbaliser.words.items():
        if not words.strip():
            raise MergeError(f"The verbaliser of {task!r} has no words for {label!r}.")
    if len(set(verbaliser.words.values())) < len(verbaliser.words):
        raise MergeError(f"The verbaliser of {task!r} has the same words for two labels: they could not be told apart.")


def _check_length(model: Any, longest: int, task: str) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        what = f"A prompt of {task!r}" if task else "A text"
        raise MergeError(
            f"{what} has {longest} tokens, the model reads {limit}: shorten the texts (max_length) or the template."
        )


def _prompts(verbaliser: Verbaliser, tokenizer: Any, rows: Texts) -> list[str]:
    texts, pairs = (
        _cut(tokenizer, column, rows.max_length) for column in (rows.texts, rows.pairs or [""] * len(rows.texts))
    )
    return [verbaliser.prompt(text, pair) for text, pair in zip(texts, pairs, strict=True)]


def _cut(tokenizer: Any, texts: Sequence[str], max_length: int | None) -> Sequence[str]:
    """Return texts without what lies behind their first ``max_length`` tokens; the template is never cut."""
    if max_length is None:
        return texts
    if not tokenizer.is_fast:
        raise MergeError(
            "Cutting texts for a prompt needs a fast tokenizer, which knows where its tokens end: load one."
        )
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        text[: places[max_length - 1][1]] if len(places) > max_length else text
        for text, places in zip(texts, found, strict=True)
    ]


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of texts, with nothing before or behind them."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return ids


def lead_of(tokenizer: Any) -> list[int]:
    """Return what the tokenizer puts before a text (a BOS, where it has one), but not what it puts behind."""
    probe = "a"
    whole, plain = tokenizer(probe)["input_ids"], plain_ids(tokenizer, [probe])[0]
    places = (place for place in range(len(whole) - len(plain) + 1) if whole[place : place + len(plain)] == plain)
    return list(whole[: next(places, 0)])


def _spans(
    tokenizer: Any, lead: list[int], prompt: str, words: Sequence[str], task: str
) -> tuple[int, list[list[int]]]:
    """Return (where the scored part begins, the whole sequence of each label)."""
    start, *sequences = (lead + ids for ids in plain_ids(tokenizer, [prompt, *(prompt + word for word in words)]))
    shared = _shared_start([start, *sequences])
    if any(len(ids) == shared for ids in sequences):
        raise MergeError(
            f"The words of a label of {task!r} add no token to the prompt: the tokenizer does not know them."
        )
    if not shared:
        raise MergeError(f"A prompt of {task!r} has no token before the words: begin the template with some text.")
    return shared, sequences


def _shared_start(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all sequences begin with alike."""
    return sum(1 for _ in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False)))


def _causal_scores(model: Any, spans: Sequence[tuple[int, list[list[int]]]], normalised: bool) -> Tensor:
    """Return (rows, labels); sequences that only differ in their last token are one input, so one-token labels cost one
    pass a row.
    """
    unique: dict[tuple[int, ...], int] = {}
    places = [[unique.setdefault(tuple(ids[:-1]), len(unique)) for ids in sequences] for _, sequences in spans]
    first = min(begin for begin, _ in spans) - 1
    vocabulary = model.get_output_embeddings().weight.shape[0]
    if len(spans) > 1 and len(unique) * (max(map(len, unique)) - first) * vocabulary > LARGEST_LOGITS:
        half = len(spans) // 2
        return torch.cat([_causal_scores(model, part, normalised) for part in (spans[:half], spans[half:])])
    log_p = _next_token(model, [*unique], first)
    rows = []
    for (begin, sequences), inputs in zip(spans, places, strict=True):
        row = []
        for ids, place in zip(sequences, inputs, strict=True):
            positions = torch.arange(begin - 1, len(ids) - 1) - first
            found = log_p[place, positions, torch.tensor(ids[begin:])]
            row.append(found.mean() if normalised else found.sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _next_token(model: Any, sequences: Iterable[tuple[int, ...]], first: int) -> Tensor:
    """Return log p of the token after each position from ``first`` on, (sequences, positions, vocabulary), float32.

    Padded on the right, which a causal model never looks at from the left: neither the tokenizer's side nor the batch
    matters.
    """
    device = next(model.parameters()).device
    tensors = [torch.tensor(ids) for ids in sequences]
    ids = pad_sequence(tensors, batch_first=True).to(device)
    mask = pad_sequence([torch.ones_like(t) for t in tensors], batch_first=True).to(device)
    # a vocabulary is wide: only the positions that are scored go through the head
    kept = torch.arange(first, ids.shape[1], device=device)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept, use_cache=False).logits
    return torch.log_softmax(logits.float(), -1)


def _seq2seq_scores(model: Any, sources: Sequence[Tensor], targets: Sequence[Tensor], normalised: bool) -> Tensor:
    """Return (rows, labels); the encoder reads each prompt once."""
    device = next(model.parameters()).device
    ids = pad_sequence(list(sources), batch_first=True).to(device)
    mask = pad_sequence([torch.ones_like(t) for t in sources], batch_first=True).to(device)
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    columns = []
    for target in targets:
        wanted = target.to(device).repeat(len(ids), 1)
        logits = model(encoder_outputs=(encoded,), attention_mask=mask, labels=wanted, use_cache=False).logits
        found = torch.log_softmax(logits.float(), -1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        columns.append(found.mean(1) if normalised else found.sum(1))
    return torch.stack(columns, 1)
