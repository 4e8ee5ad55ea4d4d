"""A language model learns to write the label: the loss is the likelihood of its words, and the adapter works in PEFT's
model.
"""

import json
from pathlib import Path

import pytest
import torch
from builders import HIDDEN, WORDS, made_up_task, one_sentence, state, tiny_tokenizer, unchanged
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from merging import Adapter, MergeError, evaluate
from merging.adapters.metadata import read_metadata
from merging.evaluation.accuracy import own_head
from merging.evaluation.verbalisers import Verbaliser, default_verbaliser
from merging.training.objectives import LabelWords
from merging.training.settings import TrainingSettings
from merging.training.trainer import fine_tune

SIZE = {"vocab_size": 5 + len(WORDS), "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 2}
SIZE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
SETTINGS = TrainingSettings(epochs=2, rank=4, modules=(), batch_size=8, learning_rate=2e-2, validation_rows=12)


@pytest.fixture
def writer():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZE)).eval().requires_grad_(False)


def words_of(task) -> Verbaliser:
    return Verbaliser("{text} is", {label: f" {word}" for label, word in zip(task.labels, WORDS, strict=False)})


def test_the_loss_is_the_likelihood_of_the_right_words(writer) -> None:
    task, tokenizer = made_up_task(), tiny_tokenizer()
    verbaliser = words_of(task)
    objective = LabelWords(writer, tokenizer, task, task.train, task.validation, None, verbaliser)
    rows = [0, 3, 5]
    expected = 0.0
    for row in rows:
        prompt = verbaliser.prompt(task.train.texts[row])
        ids = tokenizer(
            prompt + verbaliser.words[task.labels[task.train.labels[row]]],
            return_tensors="pt",
            add_special_tokens=False,
        )
        # the lead that the tokenizer puts before a text is there, what it puts behind is not
        lead = torch.tensor([[tokenizer.cls_token_id]])
        whole = torch.cat([lead, ids["input_ids"]], 1)
        log_p = torch.log_softmax(writer(input_ids=whole).logits, -1)
        expected -= float(log_p[0, -2, whole[0, -1]]) / len(rows)
    assert float(objective.loss(rows)) == pytest.approx(expected, rel=1e-5)
    assert list(objective.parameters) == []


def test_an_adapter_learns_the_words_and_pefts_model_says_the_same(writer, tmp_path: Path) -> None:
    task, tokenizer = made_up_task(), tiny_tokenizer()
    before = state(writer)
    verbaliser = words_of(task)
    steps = list(fine_tune(writer, tokenizer, task, SETTINGS, head=verbaliser))
    assert steps[-2].loss < steps[0].loss
    assert unchanged(writer, before)
    adapter = steps[-1].adapter
    assert adapter is not None
    assert adapter.head is None
    assert own_head(adapter) == verbaliser
    [*_, last] = evaluate(writer, tokenizer, adapter, [task], split="validation", limit=12)
    assert last.accuracy == pytest.approx(adapter.metadata.validation_accuracy)

    writer.save_pretrained(tmp_path / "base")
    folder = adapter.save(tmp_path / "adapter")
    again = Adapter.load(folder)
    assert own_head(again) == verbaliser
    assert again.config["task_type"] == "CAUSAL_LM"
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    peft = PeftModel.from_pretrained(base, folder)
    ids = tokenizer(verbaliser.prompt(task.test.texts[0]), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        there, plain = peft(input_ids=ids).logits, writer(input_ids=ids).logits
        from merging import merge

        with merge([again, again.renamed("twin")], "average").applied_to(writer):
            here = writer(input_ids=ids).logits
    assert float((here - there).abs().max()) < 1e-5
    assert float((here - plain).abs().max()) > 1e-3


def test_the_usual_question_ends_at_its_mark_and_names_the_labels() -> None:
    asked = default_verbaliser("t", "Is it spam? The raters were {many}.", ("ham", "not_spam"))
    assert asked.prompt("Hello") == "Hello\nIs it spam? Answer:"
    assert asked.words == {"ham": " ham", "not_spam": " not spam"}
    assert (
        default_verbaliser("t", "Rows.", ("a", "b"), pairs=True).prompt("x", "y") == "x\ny\nWhich is it: a, b? Answer:"
    )
    with pytest.raises(MergeError) as refused:
        default_verbaliser("t", "", ("not spam", "not_spam"))
    assert one_sentence(refused.value, "words")


@pytest.mark.parametrize(
    "noted", ["yes", {"template": 3, "words": {}}, {"template": "{text}", "words": ["a"]}, {"words": {"a": "b"}}]
)
def test_a_malformed_record_of_words_is_refused(noted, tmp_path) -> None:
    (tmp_path / "mergescope.json").write_text(json.dumps({"verbaliser": noted}))
    with pytest.raises(MergeError) as refused:
        read_metadata(tmp_path / "mergescope.json", "mine")
    assert one_sentence(refused.value, "mine", "verbaliser")
