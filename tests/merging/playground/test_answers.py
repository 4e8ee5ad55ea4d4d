"""What is said to a text is what PEFT's own model, or one with the merged weights, says; the model stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from asked import CLASSES, SAVED, TEXTS, classifier, peft_probabilities, pooled_adapters, tasks_of, with_head, written
from builders import deltas_of, dense_added, made_up_task, one_sentence, random_adapter, state, tiny_model, unchanged
from transformers import GPT2Config, GPT2LMHeadModel

from merging import MergeError, Task, merge
from merging.evaluation.accuracy import encode_task, scorer
from merging.evaluation.verbalisers import default_verbaliser
from merging.models.layers import bare, pooled_states
from merging.playground import Question, Weights, predictions, question_of, weights_by_task, weights_of
from merging.playground.answers import winners
from merging.playground.weights import BASE
from merging.tasks.batches import encode


def table(frame, task: str, source: str) -> torch.Tensor:
    """Return the probabilities (texts, labels) of one source."""
    rows = frame[(frame.task == task) & (frame.source == source)]
    return torch.tensor(rows.pivot(index="text", columns="label", values="probability")[rows.label.unique()].to_numpy())


@pytest.mark.parametrize("kind", SAVED)
def test_the_own_adapter_says_what_pefts_model_says(kind: str, tokenizer, tmp_path: Path) -> None:
    adapters, model = written(tmp_path, kind), bare(classifier(kind, 2))
    before = state(model)
    questions = [question_of(adapter, task) for adapter, task in zip(adapters, tasks_of(), strict=True)]
    merged = merge(adapters, "task_arithmetic", scaling=0.7)
    names = [adapter.task for adapter in adapters]
    sources = {
        "base": dict.fromkeys(names, BASE),
        "own": {adapter.task: weights_of(adapter) for adapter in adapters},
        "merge": weights_by_task(merged, names),
    }
    frame = predictions(model, tokenizer, TEXTS, questions, sources)
    assert unchanged(model, before)
    assert not any(module._forward_hooks for module in model.modules())
    prefix = "model." if kind == "llama" else f"{classifier(kind, 2).base_model_prefix}."
    for place, adapter in enumerate(adapters):
        own = peft_probabilities(tmp_path, kind, place, tokenizer)
        assert torch.allclose(table(frame, adapter.task, "own").float(), own, atol=1e-5)
        base = classifier(kind, CLASSES[place])
        base.load_state_dict(dict(adapter.head.tensors), strict=False)
        with dense_added(base, {f"{prefix}{m}": u for m, u in deltas_of(merged).items()}) as whole, torch.no_grad():
            texts = [whole(**tokenizer(text, return_tensors="pt")).logits.softmax(1) for text in TEXTS]
        assert torch.allclose(table(frame, adapter.task, "merge").float(), torch.cat(texts), atol=1e-5)
        with torch.no_grad():
            bare_base = [base(**tokenizer(text, return_tensors="pt")).logits.softmax(1) for text in TEXTS]
        assert torch.allclose(table(frame, adapter.task, "base").float(), torch.cat(bare_base), atol=1e-5)
        assert float((own - torch.cat(bare_base)).abs().max()) > 1e-3


@pytest.mark.parametrize("method", ["ties", "emr", "do_merging"])
def test_a_merge_says_what_a_model_with_its_weights_says(method: str, model, tokenizer) -> None:
    adapters = pooled_adapters()
    questions = [question_of(adapter) for adapter in adapters]
    names = [adapter.task for adapter in adapters]
    merged = merge(adapters, method)
    frame = predictions(model, tokenizer, TEXTS, questions, {"merge": weights_by_task(merged, names)})
    for adapter in adapters:
        mine = merged.for_task(adapter.task)
        with dense_added(model, deltas_of(mine)) as whole, torch.no_grad():
            batch = encode(tokenizer, TEXTS, 64).batch(range(len(TEXTS)))
            expected = adapter.head.logits(pooled_states(whole, batch)).softmax(1)
        assert torch.allclose(table(frame, adapter.task, "merge").float(), expected, atol=1e-5)


def test_a_long_list_of_texts_is_what_each_alone_is(model, tokenizer) -> None:
    adapter = pooled_adapters(1)[0]
    sources = {f"at {factor}": {adapter.task: weights_of(adapter).scaled(factor)} for factor in range(40)}
    many = predictions(model, tokenizer, TEXTS * 3, [question_of(adapter)], sources)
    one = predictions(model, tokenizer, TEXTS[:1], [question_of(adapter)], {"at 7": sources["at 7"]})
    found = table(many, adapter.task, "at 7")
    assert torch.allclose(found[[0]], table(one, adapter.task, "at 7"), atol=1e-6)
    assert torch.allclose(found[:4], found[4:8], atol=1e-6)


def test_logits_are_log_odds_and_winners_the_most_probable(model, tokenizer) -> None:
    adapter = pooled_adapters(1)[0]
    frame = predictions(model, tokenizer, TEXTS, [question_of(adapter)], {"base": {adapter.task: BASE}})
    p = torch.tensor(frame.probability.to_numpy())
    assert torch.allclose(torch.tensor(frame.logit.to_numpy()), torch.logit(p), atol=1e-9)
    assert frame.groupby("text").probability.sum().to_numpy() == pytest.approx(1.0)
    best = winners(frame)
    assert list(best.probability) == list(frame.groupby("text").probability.max())


def test_parameters_that_were_trained_whole_act_too_and_have_no_slider(model, tokenizer) -> None:
    adapter = with_head(random_adapter(0, scale=0.05), 0)
    name = "embeddings.word_embeddings.weight"
    adapter = replace(adapter, trained={name: model.get_parameter(name) * 1.5})
    frame = predictions(model, tokenizer, TEXTS, [question_of(adapter)], {"own": {adapter.task: weights_of(adapter)}})
    with dense_added(model, {m: u.dense() for m, u in adapter.deltas.items()}) as whole, torch.no_grad():
        whole.get_parameter(name).mul_(1.5)
        expected = adapter.head.logits(pooled_states(whole, encode(tokenizer, TEXTS, 64).batch(range(4)))).softmax(1)
    assert torch.allclose(table(frame, adapter.task, "own").float(), expected, atol=1e-5)
    with pytest.raises(MergeError) as refused:
        weights_of(adapter).scaled(0.5)
    assert one_sentence(refused.value, "trained whole")


def test_a_language_model_answers_in_the_likelihood_of_its_labels(tokenizer) -> None:
    torch.manual_seed(0)
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=25, n_embd=32, n_layer=1, n_head=2, n_positions=40)).eval()
    task = made_up_task("animals", 60)
    head = default_verbaliser("animals", "which animal?", task.labels)
    adapter = random_adapter(0, modules=())
    asked = Question("animals", head, task.labels)
    update = {"h.0.attn.c_attn": torch.randn(96, 32) * 0.05}
    sources = {"base": {"animals": BASE}, "own": {"animals": Weights(update)}}
    before = state(lm)
    frame = predictions(lm, tokenizer, task.test.texts[:3], [asked], sources)
    assert unchanged(lm, before)
    encoded = encode_task(tokenizer, task, "test", 3)
    scores = scorer(lm, tokenizer, encoded, head)
    with torch.no_grad():
        assert torch.allclose(table(frame, "animals", "base").float(), scores(range(3)).softmax(1), atol=1e-5)
        with weights_of(None).put_into(lm), Weights(update).put_into(lm):
            expected = scores(range(3)).softmax(1)
    assert torch.allclose(table(frame, "animals", "own").float(), expected, atol=1e-5)
    assert adapter.deltas == {}


def test_a_question_without_a_task_takes_the_heads_labels(model, tokenizer) -> None:
    adapter = pooled_adapters(1)[0]
    assert question_of(adapter).labels == ("label 0", "label 1", "label 2")
    nameless = replace(adapter, head=replace(adapter.head, labels=()))
    assert question_of(nameless).labels == ("label 0", "label 1", "label 2")
    with pytest.raises(MergeError) as refused:
        question_of(random_adapter(0))
    assert one_sentence(refused.value, "no head")


@pytest.mark.parametrize("texts", [[], [""], ["the cat", "  "]])
def test_nothing_to_read_is_refused(texts: list[str], model, tokenizer) -> None:
    adapter = pooled_adapters(1)[0]
    with pytest.raises(MergeError) as refused:
        predictions(model, tokenizer, texts, [question_of(adapter)], {"base": {adapter.task: BASE}})
    assert one_sentence(refused.value, "text") or one_sentence(refused.value, "Text")


def test_a_task_on_pairs_reads_both_texts(model, tokenizer) -> None:
    adapter = with_head(random_adapter(0), 0, 2)
    rows = [(f"the cat {i}", f"a dog {i}") for i in range(20)]
    task = Task.from_rows("pairs", [a for a, _ in rows], ["x", "y"] * 10, pairs=[b for _, b in rows])
    asked = question_of(replace(adapter, head=replace(adapter.head, labels=())), task)
    frame = predictions(model, tokenizer, ["the cat || a dog"], [asked], {"base": {adapter.task: BASE}})
    with torch.no_grad():
        batch = encode(tokenizer, ["the cat"], 64, ["a dog"]).batch([0])
        expected = adapter.head.logits(pooled_states(model, batch)).softmax(1)
    assert torch.allclose(table(frame, adapter.task, "base").float(), expected, atol=1e-6)
    with pytest.raises(MergeError) as refused:
        predictions(model, tokenizer, ["the cat"], [asked], {"base": {adapter.task: BASE}})
    assert one_sentence(refused.value, "||") or "||" in str(refused.value)


def test_another_bases_updates_are_refused(tokenizer) -> None:
    adapter = pooled_adapters(1)[0]
    with pytest.raises(MergeError):
        predictions(
            tiny_model("distilbert"),
            tokenizer,
            TEXTS,
            [question_of(adapter)],
            {"x": {adapter.task: weights_of(adapter)}},
        )
