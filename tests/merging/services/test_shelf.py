"""The shelf: what is brought along is loaded or refused with a sentence, gets its task and a head, and becomes a
pool."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import (
    HIDDEN,
    MODULES,
    WORDS,
    made_up_task,
    one_sentence,
    random_adapter,
    random_update,
    state,
    tiny_model,
    unchanged,
)
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTModel

from merging import Adapter, MergeError, Task, evaluate
from merging.adapters.head import Head
from merging.evaluation.accuracy import own_head
from merging.services.shelf import Brought, bring, fitted, held_against, keep, overview, prepare, rehearsed


def saved(folder: Path, seed: int, head: Head | None = None) -> Path:
    adapter = replace(random_adapter(seed), name=folder.name, task=folder.name, head=head)
    return adapter.save(folder)


def pooled(labels: tuple[str, ...], hidden: int, seed: int = 0) -> Head:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "weight": torch.randn(len(labels), hidden, generator=generator),
        "bias": torch.randn(len(labels), generator=generator),
    }
    return Head("pooled", tensors, labels)


def test_what_fits_and_what_does_not_stay_side_by_side(tmp_path: Path) -> None:
    model = tiny_model()
    good = bring(str(saved(tmp_path / "one", 0)), model)
    again = bring(str(tmp_path / "one"), model, [good.name])
    (tmp_path / "empty").mkdir()
    nothing = bring(str(tmp_path / "empty"), model)
    other = replace(
        random_adapter(1),
        deltas={"encoder.layer.9.attention.self.query": next(iter(random_adapter(1).deltas.values()))},
    )
    elsewhere = bring(str(other.save(tmp_path / "deeper")), model)
    assert (good.problem, again.problem, again.name) == ("", "", "one (2)")
    assert nothing.adapter is None
    assert str(tmp_path) not in nothing.problem
    assert "encoder.layer.9" in elsewhere.problem
    rows = rehearsed([good, again, nothing, elsewhere])
    assert rows.module[:2].tolist() == ["empty", "deeper"]
    assert rows.what.tolist() == ["refused"] * 2 + ["merged"] * len(MODULES)
    assert rows.merged_from.iloc[-1] == "one, one (2)"
    table = overview([good, again, nothing, elsewhere])
    assert table["name"].tolist() == ["one", "one (2)", "empty", "deeper"]
    assert table["problem"].astype(bool).tolist() == [False, False, True, True]
    assert table["modules"].tolist() == [len(MODULES), len(MODULES), 0, 1]


def test_adapters_of_two_bases_are_told_apart(tmp_path: Path) -> None:
    model = tiny_model()
    one = bring(str(saved(tmp_path / "one", 0)), model)
    other = Brought("other", replace(random_adapter(1), name="other", base="somebody/else"))
    assert overview([one, other])["problem"].astype(bool).tolist() == [False, True]


def test_a_pool_is_measured_and_a_missing_head_is_fitted(tmp_path: Path, tokenizer) -> None:
    model = tiny_model()
    before = state(model)
    tasks = {name: made_up_task(name, seed=i) for i, name in enumerate(("cats", "dogs"))}
    hidden = model.config.hidden_size
    own = pooled(tasks["cats"].labels, hidden)
    chosen = {
        "cats": bring(str(saved(tmp_path / "one", 0, own)), model),
        "dogs": bring(str(saved(tmp_path / "two", 1)), model),
    }
    steps = list(prepare(model, tokenizer, chosen, tasks, tmp_path / "pool"))
    folders = {step.name: step.folder for step in steps if step.folder}
    assert set(folders) == {"cats", "dogs"}
    assert any(step.what == "fitting a head" and step.name == "dogs" for step in steps)
    assert not any(step.what == "fitting a head" and step.name == "cats" for step in steps)
    assert unchanged(model, before)
    for name, folder in folders.items():
        adapter = Adapter.load(folder)
        assert adapter.task == name
        *_, last = evaluate(model, tokenizer, adapter, [tasks[name]])
        assert adapter.metadata.test_accuracy["adapter"] == last.accuracy
        assert adapter.metadata.rows.test == last.total


def test_a_head_is_put_into_the_order_of_the_task() -> None:
    task = Task.from_rows("t", [f"text {i}" for i in range(30)], ["b", "a", "c"] * 10)
    head = pooled(("c", "a", "b"), 4)
    turned = fitted(head, task, "x")
    assert turned.labels == tuple(task.labels)
    states = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for place, label in enumerate(task.labels):
        assert torch.equal(turned.logits(states)[:, place], head.logits(states)[:, head.labels.index(label)])
    for wrong in (pooled(("a", "b"), 4), pooled(("x", "y", "z"), 4)):
        with pytest.raises(MergeError) as refusal:
            fitted(wrong, task, "x")
        assert one_sentence(refusal.value, "choose its own task")


def test_one_alone_is_nothing_to_merge(tmp_path: Path, tokenizer) -> None:
    model = tiny_model()
    with pytest.raises(MergeError, match="two adapters or more"):
        list(prepare(model, tokenizer, {"cats": bring(str(saved(tmp_path / "one", 0)), model)}, {}, tmp_path / "pool"))


def test_a_language_model_answers_with_the_names_of_the_labels(tmp_path: Path, tokenizer) -> None:
    model = _writer()
    task = made_up_task("cats")
    chosen = {}
    for seed, name in enumerate(("cats", "dogs")):
        update = {"layers.0.self_attn.q_proj": random_update(seed, HIDDEN, HIDDEN, 2)}
        place = Adapter(name=name, deltas=update, prefix="model.", base="tiny-writer").save(tmp_path / name)
        chosen[name] = bring(str(place), model)
    assert [brought.problem for brought in chosen.values()] == ["", ""]
    tasks = {"cats": task, "dogs": made_up_task("dogs", seed=1)}
    folders = [step.folder for step in prepare(model, tokenizer, chosen, tasks, tmp_path / "pool") if step.folder]
    again = [Adapter.load(folder) for folder in folders]
    words = [own_head(adapter) for adapter in again]
    assert [list(head.words) for head in words] == [list(task.labels)] * 2
    for adapter, head in zip(again, words, strict=True):
        for subject, what in ((adapter, "adapter"), (None, "base")):
            [*_, last] = evaluate(
                model, tokenizer, subject, [tasks[adapter.task]], limit=1000, heads={adapter.task: head}
            )
            assert last.accuracy == adapter.metadata.test_accuracy[what]
    assert overview([replace(chosen["cats"], adapter=again[0])])["labels"][0].startswith("words:")


def test_adapters_are_held_against_another_base_when_it_changes(tmp_path: Path) -> None:
    brought = bring(str(saved(tmp_path / "one", 0)), tiny_model())
    elsewhere = held_against(brought, _writer())
    assert "no module" in elsewhere.problem
    assert held_against(elsewhere, tiny_model()).problem == ""
    nothing = Brought("gone", None, "It is damaged.")
    assert held_against(nothing, tiny_model()) is nothing


def test_what_fits_is_kept_without_tasks(tmp_path: Path) -> None:
    model = tiny_model()
    shelf = [bring(str(saved(tmp_path / name, seed)), model) for seed, name in enumerate(("one", "two"))]
    broken = Brought("broken", None, "It is damaged.")
    folders = keep([*shelf, broken], tmp_path / "pool")
    assert list(folders) == ["one", "two"]
    for brought in shelf:
        again = Adapter.load(folders[brought.name])
        assert (again.task, again.fingerprint) == (brought.name, brought.adapter.fingerprint)
    with pytest.raises(MergeError) as refused:
        keep([shelf[0], broken], tmp_path / "other")
    assert one_sentence(refused.value, "two adapters")


def test_what_reads_no_text_is_not_measured(tmp_path: Path, tokenizer) -> None:
    size = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    with pytest.raises(MergeError) as refused:
        next(prepare(ViTModel(ViTConfig(**size)), tokenizer, {}, {}, tmp_path))
    assert one_sentence(refused.value, "pixel_values", "without measuring")


def _writer():
    torch.manual_seed(0)
    size = {"vocab_size": 5 + len(WORDS), "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**size, num_attention_heads=2)).eval().requires_grad_(False)


def test_an_adapter_of_another_base_of_the_same_size_does_not_fit(tmp_path: Path) -> None:
    model = tiny_model()
    model.name_or_path = "somebody/tiny@main".partition("@")[0]
    adapter = replace(random_adapter(0), base="somebody/else")
    assert (
        "records the base somebody/else, this one is somebody/tiny"
        in held_against(Brought("one", adapter), model).problem
    )
    assert "elsewhere/Tiny" in held_against(Brought("one", replace(adapter, base="elsewhere/Tiny")), model).problem


@pytest.mark.parametrize(
    "recorded", ["unsloth/Tiny-bnb-4bit", "tiny", "", "./outputs/checkpoint-500", "/content/model"]
)
def test_the_chosen_base_vouches_for_a_record_that_leaves_it_open(recorded: str) -> None:
    model = tiny_model()
    model.name_or_path = "somebody/tiny"
    brought = held_against(Brought("one", replace(random_adapter(0), base=recorded)), model)
    assert brought.problem == ""
    assert (brought.adapter.base, brought.adapter.base_vouched) == ("somebody/tiny", True)
    other = tiny_model()
    other.name_or_path = "somebody/other"
    assert held_against(brought, other).adapter.base == "somebody/other"


def test_a_folder_of_the_server_that_a_stranger_names_is_not_looked_into(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "secret")
    name = "embeddings.word_embeddings.weight"  # which PEFT writes beside the LoRA, changed or not
    whole = {name: dict(model.named_parameters())[name].detach().clone()}
    options = {"base_model_name_or_path": str(tmp_path / "secret")}
    adapter = replace(random_adapter(0), base=str(tmp_path / "secret"), trained=whole, config=options)
    folder = adapter.save(tmp_path / "one")
    # a copy of the base's own is passed over where the base may be read, so that its content would show
    assert not Adapter.load(folder).trained
    assert bring(str(folder), model).adapter.trained


def test_an_adapter_whose_words_are_malformed_is_shown_with_its_reason(tmp_path: Path) -> None:
    folder = random_adapter(0).save(tmp_path / "one")
    (folder / "mergescope.json").write_text('{"verbaliser": {"words": {}}}')
    brought = bring(str(folder), tiny_model())
    assert "verbaliser.template is wrong" in brought.problem
    assert overview([brought])["problem"].tolist() == [brought.problem]
