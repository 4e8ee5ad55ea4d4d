"""The score of a label is transformers' own loss on prompt and label; padding, batches and adapters change nothing
else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import (
    HIDDEN,
    WORDS,
    _seeded,
    made_up_task,
    one_sentence,
    peft_folder,
    reloaded,
    state,
    tiny_model,
    tiny_tokenizer,
    unchanged,
)
from tokenizers import Tokenizer, models
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)

from merging import Adapter, MergeError, evaluate, merge
from merging.evaluation.accuracy import encode_task, hits, predictions
from merging.evaluation.verbalisers import Texts, Verbaliser, label_scorer
from merging.models.layers import bare, fingerprint
from merging.models.load import language_model_kind, load_base, load_language_model

SIZE = {"vocab_size": 5 + len(WORDS), "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SIZE, "intermediate_size": 64, "num_key_value_heads": 1, "max_position_embeddings": 40}
GPT2 = {
    "vocab_size": SIZE["vocab_size"],
    "n_embd": HIDDEN,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 40,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
T5 = {
    "vocab_size": SIZE["vocab_size"],
    "d_model": HIDDEN,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
BART = {
    "d_model": HIDDEN,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}
BART |= {
    "vocab_size": SIZE["vocab_size"],
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
BART |= {"bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3, "forced_eos_token_id": 3}
CAUSAL = {
    "llama": (LlamaConfig, LlamaForCausalLM, LLAMA, ["q_proj", "v_proj"]),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, LLAMA, ["q_proj", "v_proj"]),
    "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2, ["c_attn"]),
}
SEQ2SEQ = {
    "t5": (T5Config, T5ForConditionalGeneration, T5, ["q", "v"]),
    "bart": (BartConfig, BartForConditionalGeneration, BART, ["q_proj", "v_proj"]),
}
MODELS = CAUSAL | SEQ2SEQ
NAMES = ("cat", "dog", "fish")
VERBALISER = Verbaliser("today {text} sings", {"cat": " the old cat", "dog": " dog", "fish": " one fish"})
TEXTS = Texts(("the red bird", "no tall cat runs here", "never", "a blue fish eats there today one old"))


def language_model(kind: str):
    config, model, options, _ = MODELS[kind]
    return _seeded(lambda: model(config(**options)), 0, f"tiny-{kind}")


@torch.no_grad()
def loss_scores(model, tokenizer, verbaliser: Verbaliser, texts: Texts, labels=NAMES) -> torch.Tensor:
    """Return minus transformers' loss, a prompt and a label at a time: summed over the label's tokens."""
    rows = []
    for i, text in enumerate(texts.texts):
        prompt = verbaliser.prompt(text, texts.pairs[i] if texts.pairs else "")
        row = []
        for label in labels:
            word = verbaliser.words[label]
            if language_model_kind(model) == "seq2seq":
                ids, target = (tokenizer(t, return_tensors="pt")["input_ids"] for t in (prompt, word))
                loss, count = model(input_ids=ids, labels=target).loss, target.numel()
            else:
                lead = tokenizer("the")["input_ids"][:1]  # [CLS], which stands for a BOS
                start = lead + tokenizer(prompt, add_special_tokens=False)["input_ids"]
                ids = torch.tensor([lead + tokenizer(prompt + word, add_special_tokens=False)["input_ids"]])
                target = ids.clone()
                target[:, : len(start)] = -100
                loss, count = model(input_ids=ids, labels=target).loss, ids.shape[1] - len(start)
            row.append(-float(loss) * (1 if verbaliser.normalised else count))
        rows.append(row)
    return torch.tensor(rows)


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_a_score_is_transformers_loss_on_prompt_and_label(kind: str, normalised: bool, tokenizer) -> None:
    model, verbaliser = language_model(kind), replace(VERBALISER, normalised=normalised)
    ours = label_scorer(verbaliser, model, tokenizer, TEXTS, NAMES)(range(4))
    expected = loss_scores(model, tokenizer, verbaliser, TEXTS)
    assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-5)
    assert float((ours[:, 1:] - ours[:, :1]).std()) > 0.01


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_neither_batch_nor_padding_side_nor_order_matters(kind: str) -> None:
    model = language_model(kind)
    right, left = tiny_tokenizer(), tiny_tokenizer()
    left.padding_side = "left"
    together = label_scorer(VERBALISER, model, right, TEXTS, NAMES)(range(4))
    assert torch.allclose(label_scorer(VERBALISER, model, left, TEXTS, NAMES)(range(4)), together, atol=1e-5)
    alone = label_scorer(VERBALISER, model, right, TEXTS, NAMES)
    assert torch.allclose(torch.cat([alone([row]) for row in range(4)]), together, atol=1e-5)
    turned = label_scorer(VERBALISER, model, right, TEXTS, NAMES[::-1])([3, 1])
    assert torch.allclose(turned, together[[3, 1]].flip(1), atol=1e-5)


@torch.no_grad()
def test_a_batch_whose_logits_are_too_large_is_cut(tokenizer, monkeypatch) -> None:
    model = language_model("llama")
    whole = label_scorer(VERBALISER, model, tokenizer, TEXTS, NAMES)(range(4))
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    monkeypatch.setattr("merging.evaluation.verbalisers.LARGEST_LOGITS", 1)
    assert torch.allclose(label_scorer(VERBALISER, model, tokenizer, TEXTS, NAMES)(range(4)), whole, atol=1e-5)
    assert len(passes) == 4


@torch.no_grad()
def test_labels_of_one_token_cost_one_pass_over_each_prompt(tokenizer) -> None:
    model, seen = language_model("llama"), []
    model.register_forward_hook(lambda _, __, options, ___: seen.append(len(options["input_ids"])), with_kwargs=True)
    label_scorer(Verbaliser("{text} is", {name: f" {name}" for name in NAMES}), model, tokenizer, TEXTS, NAMES)(
        range(4)
    )
    assert seen == [4]


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_likelihoods_of_all_tokens_sum_to_one(kind: str, tokenizer) -> None:
    words = {str(i): f" {word}" for i, word in enumerate(WORDS)}
    unknown = 5  # [PAD], [UNK] .. are no words
    with torch.no_grad():
        found = (
            label_scorer(Verbaliser("{text}", words), language_model(kind), tokenizer, TEXTS, [*words])(range(4))
            .exp()
            .sum(1)
        )
        ids = tokenizer(TEXTS.texts[0], return_tensors="pt")["input_ids"][:, :-1]
        rest = language_model(kind)(input_ids=ids).logits[0, -1].softmax(-1)[:unknown].sum()
    assert float(found[0] + rest) == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_words_that_melt_into_the_prompt_are_scored_from_the_same_token_on() -> None:
    vocab = {token: i for i, token in enumerate(["?", "x", "a", "b", "c", "ab"])}
    melting = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab, [("a", "b")], unk_token="?")), unk_token="?"
    )
    model = language_model("llama")
    verbaliser = Verbaliser("{text}a", {"one": "b", "two": "c"})
    found = label_scorer(verbaliser, model, melting, Texts(("x",)), ("one", "two"))([0])[0]

    def log_p(*ids: int) -> float:
        logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logs[i, ids[i + 1]]) for i in range(len(ids) - 1))

    assert found.tolist() == pytest.approx([log_p(1, 5), log_p(1, 2, 4)], abs=1e-5)


@torch.no_grad()
def test_only_the_text_is_cut_never_the_template(tokenizer) -> None:
    model = language_model("llama")
    cut = label_scorer(VERBALISER, model, tokenizer, replace(TEXTS, max_length=2), NAMES)(range(4))
    short = Texts(tuple(" ".join(text.split()[:2]) for text in TEXTS.texts))
    assert torch.allclose(cut, label_scorer(VERBALISER, model, tokenizer, short, NAMES)(range(4)), atol=1e-5)


@torch.no_grad()
def test_pairs_are_filled_in(tokenizer) -> None:
    model, pairs = language_model("llama"), Texts(("the cat", "a dog"), ("no bird", "one red fish"))
    verbaliser = replace(VERBALISER, template="{pair} today {text}")
    found = label_scorer(verbaliser, model, tokenizer, pairs, NAMES)(range(2))
    assert torch.allclose(found, loss_scores(model, tokenizer, verbaliser, pairs), rtol=1e-5, atol=1e-5)


# -- evaluation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_an_evaluation_predicts_what_pefts_model_finds_likeliest(kind: str, tokenizer, tmp_path: Path) -> None:
    task = made_up_task("animals", 60, 3)
    verbaliser = Verbaliser("{text} is", {label: f" {label}" for label in task.labels})
    model, targets = language_model(kind), MODELS[kind][3]
    task_type = "SEQ_2_SEQ_LM" if kind in SEQ2SEQ else "CAUSAL_LM"
    peft_folder(tmp_path / "adapter", model, r=4, target_modules=targets, task_type=task_type, lora_alpha=64)
    adapter = Adapter.load(tmp_path / "adapter", task="animals")
    before, texts = state(model), Texts(task.test.texts)
    wrapped = reloaded(model, tmp_path / "adapter").base_model.model
    expected = loss_scores(wrapped, tokenizer, verbaliser, texts, task.labels)
    assert not torch.allclose(expected, loss_scores(model, tokenizer, verbaliser, texts, task.labels), atol=1e-3)
    for subject in (adapter, merge([adapter], "task_arithmetic")):
        found = predictions(hits(model, tokenizer, subject, [task], heads={"animals": verbaliser}))["animals"]
        assert torch.equal(found, expected.argmax(1))
        *_, last = evaluate(model, tokenizer, subject, [task], heads={"animals": verbaliser})
        assert last.accuracy == pytest.approx(float((found == torch.tensor(task.test.labels)).double().mean()))
    assert unchanged(model, before)


def test_a_limit_cuts_the_texts_too(tokenizer) -> None:
    task, model = made_up_task("animals", 60, 3), language_model("llama")
    heads = {"animals": Verbaliser("{text} is", {label: f" {label}" for label in task.labels})}
    encoded = encode_task(tokenizer, task)
    whole = predictions(hits(model, tokenizer, None, [encoded], heads=heads))["animals"]
    for part in (encoded.first(5), encode_task(tokenizer, task, limit=5)):
        assert torch.equal(predictions(hits(model, tokenizer, None, [part], heads=heads))["animals"], whole[:5])


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_a_language_model_is_loaded_with_its_head_and_is_the_same_base(kind: str, tokenizer, tmp_path: Path) -> None:
    model = language_model(kind)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, its_tokenizer = load_language_model(tmp_path)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    base, _ = load_base(tmp_path)
    assert fingerprint(loaded) == fingerprint(base)
    assert {name for name, _ in bare(loaded).named_modules()} - {"lm_head"} == {
        name for name, _ in bare(base).named_modules()
    }
    assert len(its_tokenizer) >= len(tokenizer)
    with torch.no_grad():
        found, expected = (label_scorer(VERBALISER, m, tokenizer, TEXTS, NAMES)([0]) for m in (loaded, model))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_bare_model_or_an_encoder_is_no_language_model(tokenizer, tmp_path: Path) -> None:
    for name, model, words in (
        ("bare", bare(language_model("llama")), r"has no lm_head\.weight"),
        ("encoder", tiny_model(), "gives no likelihood"),
    ):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(MergeError, match=words) as caught:
            load_language_model(tmp_path / name)
        assert one_sentence(caught.value)
    with pytest.raises(MergeError, match="No base model could be loaded"):
        load_language_model(tmp_path)
    for model in (
        tiny_model(),
        bare(language_model("llama")),
        T5Model(T5Config(**T5)),
        BertLMHeadModel(tiny_model().config),
    ):
        with pytest.raises(MergeError, match="gives no likelihood"):
            label_scorer(VERBALISER, model, tokenizer, TEXTS, NAMES)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "texts", "words"),
    [
        ({"template": "no place for it"}, TEXTS, "should hold {text}, not nothing to fill in"),
        ({"template": "{text} {pair}"}, TEXTS, "should hold {text}, not {pair}, {text}"),
        ({"template": "{text}"}, Texts(("a",), ("b",)), "should hold {text} and {pair}, not {text}"),
        ({"template": "{text} {"}, TEXTS, "malformed"),
        ({"template": "{text:>300000000}"}, TEXTS, "nothing after a colon"),
        ({"template": "{text!r}"}, TEXTS, "nothing after a colon"),
        ({"template": "{text}" + " " * 10_000}, TEXTS, "10000 signs at most"),
        ({"words": {"cat": " cat", "dog": " dog"}}, TEXTS, "words for cat, dog, the task's labels are cat, dog, fish"),
        ({"words": {"cat": " cat", "dog": " cat", "fish": " fish"}}, TEXTS, "the same words for two labels"),
        ({"words": {"cat": " cat", "dog": " ", "fish": " fish"}}, TEXTS, "no words for 'dog'"),
        ({"template": "{text}" + " red" * 60}, TEXTS, "the model reads 40"),
    ],
)
def test_a_verbaliser_that_does_not_fit_its_task_is_refused(change: dict, texts: Texts, words: str, tokenizer) -> None:
    with pytest.raises(MergeError) as caught:
        label_scorer(replace(VERBALISER, **change), language_model("llama"), tokenizer, texts, NAMES, "animals")
    assert one_sentence(caught.value, words, "animals")


def test_a_bare_encoder_cannot_take_a_verbaliser_in_an_evaluation(model, tokenizer) -> None:
    task = made_up_task("animals", 60)
    with pytest.raises(MergeError, match="gives no likelihood"):
        evaluate(
            model,
            tokenizer,
            None,
            [task],
            heads={"animals": Verbaliser("{text}", {label: label for label in task.labels})},
        )
    encoded = replace(encode_task(tokenizer, task), texts=None)
    with pytest.raises(MergeError, match="without its texts"):
        evaluate(model, tokenizer, None, [encoded], heads={"animals": VERBALISER})
