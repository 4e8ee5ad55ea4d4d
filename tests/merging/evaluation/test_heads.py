"""A classification model's own head gives the logits that PEFT's model gives, on an encoder that all tasks share."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import (
    QUERY_AND_VALUE,
    dense_added,
    dense_sum,
    furthest,
    made_up_task,
    one_sentence,
    peft_folder,
    random_adapter,
    reloaded,
    state,
    tiny_classifier,
    tiny_gpt2,
    tiny_model,
    unchanged,
)
from transformers import BertForMaskedLM

from merging import Adapter, MergeError, Task, merge
from merging.adapters.head import Head
from merging.adapters.metadata import AdapterMetadata
from merging.evaluation.accuracy import encode_task, evaluate, hits, predictions, scorer
from merging.evaluation.heads import label_order, order_warnings, with_recorded_labels
from merging.models.apply import added
from merging.models.layers import bare
from merging.models.load import load_base

SAVED = {
    "bert": ["classifier"],
    "roberta": ["classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "deberta": ["pooler", "classifier"],
    "llama": ["score"],
}
KINDS = (*SAVED, "bert with a pooler of its own")
CLASSES = (2, 3, 4)


def saved(kind: str) -> tuple[str, list[str]]:
    return (kind, SAVED[kind]) if kind in SAVED else ("bert", ["pooler", "classifier"])


def written(folder: Path, kind: str, count: int = 3) -> list[Adapter]:
    """Let PEFT write classification adapters of 2, 3 and 4 labels on one encoder: task-0, task-1 .."""
    kind, modules = saved(kind)
    options = {"task_type": "SEQ_CLS", "r": 4, "target_modules": QUERY_AND_VALUE[kind], "modules_to_save": modules}
    for i in range(count):
        peft_folder(folder / f"task-{i}", classifier(kind, CLASSES[i]), seed=i, **options)
    return [Adapter.load(folder / f"task-{i}", base="tiny") for i in range(count)]


def classifier(kind: str, labels: int):
    """Return a classification model whose encoder does not depend on the number of labels."""
    model = tiny_classifier(kind, labels)
    bare(model).load_state_dict(bare(tiny_classifier(kind, 2)).state_dict())
    model.config.pad_token_id = 0
    return model


def encoder(kind: str):
    return bare(classifier(saved(kind)[0], 2))


def tasks_of(count: int = 3) -> list[Task]:
    return [made_up_task(f"task-{i}", 60, CLASSES[i], seed=i) for i in range(count)]


@torch.no_grad()
def peft_logits(model, tokenizer, texts) -> torch.Tensor:
    """Return the logits text by text, so without padding."""
    return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


# -- logits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_pefts_own_model(kind: str, tokenizer, tmp_path: Path) -> None:
    model = encoder(kind)
    before = state(model)
    for i, (adapter, task) in enumerate(zip(written(tmp_path, kind), tasks_of(), strict=True)):
        encoded = encode_task(tokenizer, task)
        scores = scorer(model, tokenizer, encoded, adapter.head)
        rows = range(len(task.test))
        with torch.no_grad(), added(model, {m: u.shape for m, u in adapter.deltas.items()}, adapter.deltas.__getitem__):
            ours = scores(rows)
        expected = peft_logits(
            reloaded(classifier(saved(kind)[0], CLASSES[i]), tmp_path / f"task-{i}"), tokenizer, task.test.texts
        )
        assert ours.shape == expected.shape
        assert torch.allclose(ours, expected, atol=1e-5)
        assert float(expected.std()) > 0.01
    assert unchanged(model, before)


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_has_its_own_head_in_one_evaluation_of_a_merge(kind: str, tokenizer, tmp_path: Path) -> None:
    adapters, tasks, model = written(tmp_path, kind), tasks_of(), encoder(kind)
    before = state(model)
    found = predictions(hits(model, tokenizer, merge(adapters, "task_arithmetic", scaling=0.5), tasks))
    for adapter, task in zip(adapters, tasks, strict=True):
        oracle = classifier(saved(kind)[0], len(task.labels))
        oracle.load_state_dict(dict(adapter.head.tensors), strict=False)
        sums = {
            f"{oracle.base_model_prefix}.{module}": update for module, update in dense_sum(adapters, [0.5] * 3).items()
        }
        with dense_added(oracle, sums) as merged:
            logits = peft_logits(merged, tokenizer, task.test.texts)
        assert torch.equal(found[task.name], logits.argmax(1))
    assert unchanged(model, before)


def test_a_head_takes_no_copy_of_the_encoder_and_does_not_touch_it(tokenizer, tmp_path: Path) -> None:
    model = encoder("bert")
    training = model.train().encoder.layer[0].training
    adapters = written(tmp_path, "bert with a pooler of its own", 1)
    pooler = model.pooler.dense.weight.clone()
    scores = scorer(model, tokenizer, encode_task(tokenizer, tasks_of()[0]), adapters[0].head)
    assert model.encoder.layer[0].training == training
    assert torch.equal(model.pooler.dense.weight, pooler)
    model.eval()
    before = scores([0, 1])
    with torch.no_grad():
        model.encoder.layer[0].attention.self.query.weight.mul_(2.0)  # seen at once: it is the same encoder
    assert not torch.allclose(scores([0, 1]), before)


def test_a_missing_pooler_is_the_heads_or_the_given_models(tokenizer, tmp_path: Path) -> None:
    without = encoder("bert")
    without.pooler = None
    adapter = written(tmp_path / "own", "bert with a pooler of its own", 1)[0]
    encoded = encode_task(tokenizer, tasks_of()[0])
    with_pooler = scorer(encoder("bert"), tokenizer, encoded, adapter.head)([0, 1, 2])
    assert torch.allclose(scorer(without, tokenizer, encoded, adapter.head)([0, 1, 2]), with_pooler)
    plain = written(tmp_path / "plain", "bert", 1)[0]
    with pytest.raises(MergeError) as caught:
        scorer(without, tokenizer, encoded, plain.head)
    assert one_sentence(caught.value, "task-0", "bert.pooler.dense", "modules_to_save")


def test_a_layer_beside_the_encoder_may_come_from_the_model_given(tokenizer, tmp_path: Path) -> None:
    adapter = written(tmp_path, "deberta", 1)[0]
    model = classifier("deberta", 2)
    encoded = encode_task(tokenizer, tasks_of()[0])
    only = Head("model", {name: t for name, t in adapter.head.tensors.items() if name.startswith("classifier")})
    ours = scorer(model, tokenizer, encoded, only)([0, 1])
    both = Head("model", {**only.tensors, **{f"pooler.{name}": t for name, t in model.pooler.state_dict().items()}})
    assert torch.allclose(ours, scorer(bare(model), tokenizer, encoded, both)([0, 1]))
    with pytest.raises(
        MergeError, match=r"lacks pooler\.dense\.weight, which DebertaV2ForSequenceClassification needs"
    ):
        scorer(bare(model), tokenizer, encoded, only)


def test_a_pooler_that_the_checkpoint_lacked_is_not_built_on(tokenizer, tmp_path: Path) -> None:
    adapter = written(tmp_path / "adapters", "bert", 1)[0]
    source = tiny_model()
    BertForMaskedLM(source.config).save_pretrained(tmp_path / "masked")
    source.save_pretrained(tmp_path / "whole")
    encoded = encode_task(tokenizer, tasks_of()[0])
    for folder in ("masked", "whole"):
        tokenizer.save_pretrained(tmp_path / folder)
    with pytest.raises(MergeError, match=r"lacks bert\.pooler\.dense"):
        scorer(load_base(tmp_path / "masked")[0], tokenizer, encoded, adapter.head)
    assert scorer(load_base(tmp_path / "whole")[0], tokenizer, encoded, adapter.head)([0]).shape == (1, 2)


# -- labels ------------------------------------------------------------------------------------------------------------


def test_outputs_are_matched_with_labels_by_name(tokenizer, tmp_path: Path) -> None:
    adapter, task = written(tmp_path, "bert", 2)[1], tasks_of()[1]
    names = task.labels
    model, encoded = encoder("bert"), encode_task(tokenizer, tasks_of()[1])
    plain = scorer(model, tokenizer, encoded, adapter.head)([0, 1])
    turned = replace(adapter.head, labels=(names[2].upper(), f" {names[0]}", names[1]))
    assert label_order(turned, names, "task-1") == [1, 2, 0]
    assert torch.equal(scorer(model, tokenizer, encoded, turned)([0, 1]), plain[:, [1, 2, 0]])
    for labels in ((), ("LABEL_0", "LABEL_1", "LABEL_2"), names):
        same = scorer(model, tokenizer, encoded, replace(adapter.head, labels=labels))([0, 1])
        assert torch.equal(same, plain)
    with pytest.raises(MergeError) as caught:
        scorer(model, tokenizer, encoded, replace(adapter.head, labels=(*names[:2], "unicorn")))
    assert one_sentence(caught.value, "task-1", "unicorn", *names)


def test_recorded_labels_are_found_and_what_is_not_recorded_is_warned_of() -> None:
    plain = replace(random_adapter(0), head=Head("model", {}))
    recorded = [
        replace(plain, metadata=AdapterMetadata(labels=("b", "a"))),
        replace(plain, config={"id2label": {"1": "a", "0": "b"}}),
    ]
    assert [with_recorded_labels(adapter).labels for adapter in recorded] == [("b", "a")] * 2
    placeholders = replace(plain, config={"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})
    assert order_warnings([*recorded, random_adapter(1)]) == []
    assert len(order_warnings([plain, placeholders])) == 2
    assert "task-0" in order_warnings([plain])[0]


def test_recorded_labels_decide_an_evaluation(tokenizer, tmp_path: Path) -> None:
    adapter, task = written(tmp_path, "bert", 1)[0], tasks_of()[0]
    model = encoder("bert")
    turned = replace(adapter, metadata=AdapterMetadata(labels=task.labels[::-1]))
    straight, other = (predictions(hits(model, tokenizer, one, [task]))[task.name] for one in (adapter, turned))
    assert torch.equal(other, 1 - straight)
    *_, last = evaluate(model, tokenizer, turned, [task])
    assert last.accuracy == pytest.approx(float((other == torch.tensor(task.test.labels)).double().mean()))


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_another_number_of_labels_is_refused(tokenizer, tmp_path: Path) -> None:
    adapters = written(tmp_path, "roberta", 2)
    with pytest.raises(MergeError, match=r"The head of 'task-0' has 3 labels, the task 2\."):
        evaluate(encoder("roberta"), tokenizer, None, tasks_of()[:1], heads={"task-0": adapters[1].head})


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (tiny_model("distilbert"), r"classifier\.dense\.\w+, which the base's classification model does not"),
        (tiny_gpt2(), "which the base's classification model does not"),
    ],
)
def test_a_head_of_another_architecture_is_refused(model, words: str, tokenizer, tmp_path: Path) -> None:
    head = written(tmp_path, "roberta", 1)[0].head
    with pytest.raises(MergeError, match=words) as caught:
        evaluate(model, tokenizer, None, tasks_of()[:1], heads={"task-0": head})
    assert one_sentence(caught.value, "task-0")


def test_a_head_of_another_width_is_refused(tokenizer, tmp_path: Path) -> None:
    head = written(tmp_path, "bert", 1)[0].head
    narrow = Head("model", {name: t[..., :16] if t.ndim == 2 else t for name, t in head.tensors.items()})
    with pytest.raises(MergeError, match=r"classifier\.weight \(2, 16\)"):
        evaluate(encoder("bert"), tokenizer, None, tasks_of()[:1], heads={"task-0": narrow})


def test_two_evaluations_at_once_do_not_share_a_head(tokenizer, tmp_path: Path) -> None:
    adapters = written(tmp_path, "bert with a pooler of its own")
    model, encoded = encoder("bert"), [encode_task(tokenizer, task) for task in tasks_of()]
    scores = [scorer(model, tokenizer, task, adapter.head) for task, adapter in zip(encoded, adapters, strict=True)]
    together = {str(i): one([0, 1]) for i, one in enumerate(scores)}
    alone = {
        str(i): scorer(copy.deepcopy(model), tokenizer, task, adapter.head)([0, 1])
        for i, (task, adapter) in enumerate(zip(encoded, adapters, strict=True))
    }
    assert furthest(together, alone) < 1e-6
