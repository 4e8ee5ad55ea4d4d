"""Answers are those of transformers' generate() on PEFT's model and on the merged weights, token for token."""

from __future__ import annotations

import copy
from pathlib import Path
from threading import Lock

import pytest
import torch
from builders import (
    HIDDEN,
    WORDS,
    _seeded,
    deltas_of,
    dense_added,
    one_sentence,
    peft_folder,
    reloaded,
    state,
    unchanged,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from merging import Adapter, MergeError, merge
from merging.evaluation.verbalisers import Verbaliser
from merging.playground import predictions, weights_by_task, weights_of
from merging.playground.chat import ANSWER, PROMPT, Decoding, after_prompt, generate, prompt_of
from merging.playground.questions import Question
from merging.playground.weights import BASE, Weights

SIZE = {"vocab_size": 5 + len(WORDS), "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = SIZE | {"intermediate_size": 64, "max_position_embeddings": 60, "pad_token_id": 0, "eos_token_id": None}
GPT2 = {"vocab_size": SIZE["vocab_size"], "n_embd": HIDDEN, "n_layer": 2, "n_head": 2, "n_positions": 60}
T5 = {"vocab_size": SIZE["vocab_size"], "d_model": HIDDEN, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM, LLAMA, ["q_proj", "v_proj"]),
    "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2, ["c_attn"]),
    "t5": (T5Config, T5ForConditionalGeneration, T5 | {"decoder_start_token_id": 0}, ["q", "v"]),
}
PROMPTS = ("the old cat sings today", "no bird")
TEMPLATE = "{% for m in messages %}today {{ m['content'] }} there{% endfor %}"


def made(kind: str):
    config, model, options, _ = MODELS[kind]
    return _seeded(lambda: model(config(**options)), 0, f"tiny-{kind}")


def written(folder: Path, kind: str) -> list[Adapter]:
    """Let PEFT write three adapters."""
    task = "SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM"
    for i in range(3):
        options = {"task_type": task, "r": 2 + i, "target_modules": MODELS[kind][3]}
        peft_folder(folder / f"task-{i}", made(kind), seed=i, **options)
    return [Adapter.load(folder / f"task-{i}", base="tiny") for i in range(3)]


@torch.no_grad()
def generated(model, ids, count: int = 20) -> list[int]:
    """Return what transformers writes greedily after a prompt."""
    ids = torch.tensor([ids])
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return found[0, 1 if model.config.is_encoder_decoder else ids.shape[1] :].tolist()


class Flattened(torch.nn.Module):
    """A layer that mixes rows and positions, as a mixture of experts does."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.inner(states.flatten(0, 1)).view_as(states)


def last(steps):
    *_, answers = steps
    return answers


@pytest.mark.parametrize("kind", MODELS)
def test_everybody_writes_what_transformers_writes_with_these_weights(kind: str, tokenizer, tmp_path: Path) -> None:
    adapters, model = written(tmp_path, kind), made(kind)
    before = state(model)
    merges = {"ties": merge(adapters, "ties"), "sum": merge(adapters, "task_arithmetic", scaling=0.6)}
    sets = {"base": BASE, **{a.name: weights_of(a) for a in adapters}, **{n: weights_of(m) for n, m in merges.items()}}
    seen = set()
    for text in PROMPTS:
        prompt = prompt_of(tokenizer, text, kind="seq2seq" if kind == "t5" else "causal")
        answers = last(generate(model, tokenizer, prompt, sets, Decoding(most=20)))
        assert list(answers) == list(sets)
        expected = {"base": generated(made(kind), prompt.ids)}
        for adapter in adapters:
            expected[adapter.name] = generated(reloaded(made(kind), tmp_path / adapter.name), prompt.ids)
        prefix = {"llama": "model.", "gpt2": "transformer.", "t5": ""}[kind]
        for name, merged in merges.items():
            dense = {f"{prefix}{m}": u.T if kind == "gpt2" else u for m, u in deltas_of(merged).items()}
            with dense_added(made(kind), dense) as whole:
                expected[name] = generated(whole, prompt.ids)
        assert {name: list(answer.tokens) for name, answer in answers.items()} == expected
        assert all(a.text == tokenizer.decode(expected[n], skip_special_tokens=True) for n, a in answers.items())
        seen |= {answer.tokens for answer in answers.values()}
    assert len(seen) >= 5, "the weights make a difference"
    assert unchanged(model, before)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_answer_ends_at_its_end_and_the_others_go_on(tokenizer) -> None:
    model = made("llama")
    prompt = prompt_of(tokenizer, PROMPTS[0])
    free = last(generate(model, tokenizer, prompt, {"base": BASE}, Decoding(most=12)))["base"].tokens
    model.generation_config.eos_token_id = [free[4], 3]
    steps = list(generate(model, tokenizer, prompt, {"base": BASE}, Decoding(most=12)))
    end = free.index(free[4])
    assert steps[-1]["base"].tokens == free[: end + 1]
    assert steps[-1]["base"].ended
    assert len(steps) == end + 1
    assert steps[-1]["base"].text == tokenizer.decode(free[:end], skip_special_tokens=True)
    update = Weights({"layers.0.mlp.up_proj": torch.randn(64, HIDDEN, generator=torch.Generator().manual_seed(1))})
    both = list(generate(model, tokenizer, prompt, {"base": BASE, "other": update}, Decoding(most=12)))
    assert both[-1]["base"] == steps[-1]["base"]
    alone = last(generate(model, tokenizer, prompt, {"other": update}, Decoding(most=12)))["other"]
    assert both[-1]["other"] == alone
    assert len(alone.tokens) > end + 1


def test_the_seed_decides_and_is_the_same_for_all(tokenizer) -> None:
    model, prompt = made("llama"), prompt_of(tokenizer, PROMPTS[0])

    def said(seed: int, **sets: Weights):
        return last(generate(model, tokenizer, prompt, sets or {"base": BASE}, Decoding(1.5, 24, seed)))

    assert said(1) == said(1) != said(2)
    twins = said(1, a=BASE, b=Weights())
    assert twins["a"] == twins["b"] == said(1)["base"]
    state = torch.get_rng_state()
    said(3)
    assert torch.equal(state, torch.get_rng_state()), "the global generator is nobody's"


def test_draws_follow_the_softmax(tokenizer) -> None:
    model, prompt = made("llama"), prompt_of(tokenizer, PROMPTS[0])
    with torch.no_grad():
        p = (model(input_ids=torch.tensor([prompt.ids])).logits[0, -1].double() / 0.8).softmax(-1)
    counts = torch.zeros_like(p)
    for seed in range(600):
        counts[last(generate(model, tokenizer, prompt, {"base": BASE}, Decoding(0.8, 1, seed)))["base"].tokens[0]] += 1
    far = (counts - 600 * p).abs() / (600 * p * (1 - p)).sqrt().clamp(min=1)
    assert float(far.max()) < 4.5
    assert (counts > 0).sum() > 3


def test_stopping_computes_nothing_more_and_lets_go_of_the_model(tokenizer) -> None:
    model, lock, passes = made("llama"), Lock(), []
    model.register_forward_pre_hook(lambda *_: passes.append(lock.locked()))
    steps = generate(model, tokenizer, prompt_of(tokenizer, PROMPTS[0]), {"base": BASE}, Decoding(most=30), lock)
    next(steps), next(steps)
    assert passes == [True, True]
    assert not lock.locked(), "others have their turn between two tokens"
    steps.close()
    assert list(steps) == []
    assert len(passes) == 2


def test_two_at_once_write_what_each_writes_alone(tokenizer, tmp_path: Path) -> None:
    model, adapters = made("llama"), written(tmp_path, "llama")
    asked = [
        (prompt_of(tokenizer, text), {"a": weights_of(adapter)})
        for text, adapter in zip(PROMPTS, adapters[:2], strict=True)
    ]
    alone = [last(generate(model, tokenizer, prompt, sets, Decoding(most=10))) for prompt, sets in asked]
    turns = zip(*(generate(model, tokenizer, prompt, sets, Decoding(most=10)) for prompt, sets in asked), strict=False)
    assert list(last(turns)) == alone


def test_what_was_trained_whole_and_layers_that_mix_rows_go_one_after_another(tokenizer, tmp_path: Path) -> None:
    options = {"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    peft_folder(tmp_path / "whole", made("llama"), seed=0, **options)
    adapter, model = Adapter.load(tmp_path / "whole", base="tiny"), made("llama")
    prompt, before = prompt_of(tokenizer, PROMPTS[0]), state(model)
    answers = last(generate(model, tokenizer, prompt, {"base": BASE, "own": weights_of(adapter)}, Decoding(most=20)))
    assert list(answers["own"].tokens) == generated(reloaded(made("llama"), tmp_path / "whole"), prompt.ids)
    assert list(answers["base"].tokens) == generated(made("llama"), prompt.ids)
    assert unchanged(model, before)
    mixed = made("llama")
    mixed.model.layers[0].mlp = Flattened(mixed.model.layers[0].mlp)
    noise = torch.randn(HIDDEN, 64, generator=torch.Generator().manual_seed(1))
    sets = {"base": BASE, "own": Weights({"layers.0.mlp.inner.down_proj": noise})}
    answers = last(generate(mixed, tokenizer, prompt, sets, Decoding(most=20)))
    assert list(answers["base"].tokens) == generated(made("llama"), prompt.ids)
    with dense_added(made("llama"), {"model.layers.0.mlp.down_proj": noise}) as whole:
        assert list(answers["own"].tokens) == generated(whole, prompt.ids)
    assert answers["own"].tokens != answers["base"].tokens


def test_label_words_after_the_very_prompt(tokenizer, tmp_path: Path) -> None:
    adapters, model = written(tmp_path, "llama"), made("llama")
    words = {"cat": " the old cat", "dog": " dog"}
    question = after_prompt(Question(adapters[0].task, Verbaliser("never {text} here", words), tuple(words)))
    sources = {"base": {question.task: BASE}, "own": weights_by_task(adapters[0], [question.task])}
    frame = predictions(model, tokenizer, [PROMPTS[0]], [question], sources)
    for name, weights in (("base", BASE), ("own", weights_of(adapters[0]))):
        scores = []
        with weights.put_into(model), torch.no_grad():
            for word in words.values():
                start = list(prompt_of(tokenizer, PROMPTS[0]).ids)
                ids = [*start, *tokenizer(word, add_special_tokens=False)["input_ids"]]
                log_p = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                scores.append(sum(log_p[place - 1, ids[place]] for place in range(len(start), len(ids))))
        found = frame[frame.source == name].probability.to_numpy()
        assert found == pytest.approx(torch.stack(scores).softmax(0).numpy(), abs=1e-5)


def test_the_chat_template_is_transformers_own(tokenizer) -> None:
    talking = copy.deepcopy(tokenizer)
    talking.chat_template = TEMPLATE
    assert prompt_of(talking, "the cat", template=True).text == "today the cat there"
    assert prompt_of(talking, "the cat").text == "the cat"
    twice = copy.deepcopy(talking)
    twice.chat_template = "[CLS]" + TEMPLATE
    assert prompt_of(twice, "the cat", template=True) == prompt_of(talking, "the cat", template=True)
    talking.chat_template = "{{ raise_exception('not to me') }}"
    with pytest.raises(MergeError) as refused:
        prompt_of(talking, "the cat", template=True)
    assert one_sentence(refused.value, "not to me")


def test_what_cannot_be_asked_is_said(tokenizer) -> None:
    model = made("llama")
    wrong = [
        (lambda: prompt_of(tokenizer, " \n "), "no prompt"),
        (lambda: prompt_of(tokenizer, "cat " * PROMPT), str(PROMPT)),
        (lambda: prompt_of(tokenizer, "the cat", template=True), "no chat template"),
        (lambda: next(generate(model, tokenizer, prompt_of(tokenizer, "cat " * 59), {"base": BASE})), "no room"),
        (lambda: next(generate(model.model, tokenizer, prompt_of(tokenizer, "cat"), {"base": BASE})), "likelihood"),
        (lambda: Decoding(-1), "temperature"),
        (lambda: Decoding(float("nan")), "temperature"),
        (lambda: Decoding(most=ANSWER + 1), str(ANSWER)),
        (lambda: Decoding(seed=-1), "seed"),
    ]
    for ask, word in wrong:
        with pytest.raises(MergeError) as refused:
            ask()
        assert one_sentence(refused.value, word)
    nearly = prompt_of(tokenizer, "cat " * 56)
    answers = last(generate(model, tokenizer, nearly, {"base": BASE}))
    assert len(nearly.ids) + len(answers["base"].tokens) == LLAMA["max_position_embeddings"]
