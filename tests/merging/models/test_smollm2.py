"""The second embedded base, for real: it answers in words, its adapters merge, and what is written loads elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from merging import Task, evaluate, merge
from merging.export.full_model import save_full_model
from merging.merged import Merged
from merging.models.embedded import base_name, model_folder
from merging.models.load import load_language_model
from merging.shipped import load_pool

pytestmark = pytest.mark.slow

TEXT = "When was the first telegraph line built?\nWhat does this question ask for? Answer:"


@pytest.fixture(scope="module")
def base() -> Iterator[tuple[nn.Module, object]]:
    yield load_language_model("smollm2")


@pytest.fixture(scope="module")
def merged() -> Merged:
    return merge(load_pool("smollm2"), "ties", scaling=0.6, density=0.3)


def logits(model: nn.Module, tokenizer) -> Tensor:
    with torch.no_grad():
        return model(**tokenizer(TEXT, return_tensors="pt")).logits


def test_it_writes_and_knows_its_name(base) -> None:
    model, tokenizer = base
    assert model.name_or_path == base_name("smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    ids = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        following = model.generate(**ids, max_new_tokens=1, do_sample=False)[0, -1]
    assert tokenizer.decode(following).strip() == "Paris"


def test_it_is_made_once(base) -> None:
    place = Path(model_folder("smollm2"))
    before = (place / "model.safetensors").stat().st_mtime_ns
    assert (Path(model_folder("smollm2")) / "model.safetensors").stat().st_mtime_ns == before


def test_an_adapter_answers_better_than_the_base(base) -> None:
    model, tokenizer = base
    adapter = next(one for one in load_pool("smollm2") if one.task == "trec")
    measured = adapter.metadata.test_accuracy
    [*_, own] = evaluate(model, tokenizer, adapter, [Task.load("trec")], limit=adapter.metadata.rows.test)
    assert own.accuracy == pytest.approx(
        measured["adapter"], abs=0.005
    )  # another processor may round a near tie otherwise
    assert own.accuracy > measured["base"] + 0.3


def test_a_merged_adapter_and_a_full_model_give_the_same_logits_elsewhere(base, merged: Merged, tmp_path: Path) -> None:
    model, tokenizer = base
    plain = logits(model, tokenizer)
    with merged.applied_to(model):
        expected = logits(model, tokenizer)
    assert float((expected - plain).abs().max()) > 0.1

    exact = max(min(shape) for shape in merged.shapes.values())
    folder = merged.save(tmp_path / "adapter", rank=exact)
    fresh = AutoModelForCausalLM.from_pretrained(model_folder("smollm2"), dtype=torch.float32)
    scale = float(expected.abs().max())
    assert (
        float((logits(PeftModel.from_pretrained(fresh, folder).eval(), tokenizer) - expected).abs().max())
        <= 1e-5 * scale
    )

    whole = save_full_model(merged, "smollm2", tmp_path / "whole")
    again = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    assert float((logits(again, tokenizer) - expected).abs().max()) <= 1e-5 * scale
