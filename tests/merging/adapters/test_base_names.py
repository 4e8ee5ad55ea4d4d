"""Which names of a base model are one model, which are two, and where that is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import equal_pool

from merging import compatibility
from merging.adapters.same_base import doubt, used_base

SNAPSHOT = "/root/.cache/huggingface/hub/models--meta-llama--Llama-2-7b-hf/snapshots/01c7f73d771d"
SAME = [
    ("Qwen/Qwen2.5-0.5B", "qwen/qwen2.5-0.5b"),
    ("meta-llama/Llama-2-7b-hf", SNAPSHOT),
    (SNAPSHOT, SNAPSHOT.replace("01c7", "8cca")),
    ("NousResearch/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
    ("unsloth/gemma-2-2b", "google/gemma-2-2b"),
    ("bert-base-uncased", "google-bert/bert-base-uncased"),
    ("unsloth/Llama-3.2-1B-unsloth-bnb-4bit", "unsloth/llama-3.2-1b-bnb-4bit"),
    ("/data/llama/model", "/data/llama/model/"),
]
OPEN = [
    ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B"),
    ("TheBloke/Llama-2-7B-GPTQ", "meta-llama/Llama-2-7b-hf"),
    ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
    ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
    ("unsloth/gemma-2-2b-it-bnb-4bit", "google/gemma-2-2b-it"),
    ("meta-llama/Llama-2-7b-hf", "/data/models/Llama-2-7b-hf/"),
    ("/a/Llama-2-7b-hf", "/b/Llama-2-7b-hf"),
    ("meta-llama/Llama-2-7b-hf", ""),
    ("", ""),
    ("./base", "./base"),
]
DIFFERENT = [
    ("/data/mistral/model", "/data/llama/model"),
    ("/runs/law/checkpoint-1000", "/runs/medicine/checkpoint-1000"),
    ("/exp1/merged", "/exp2/merged"),
    ("/exp1/final_model", "/exp2/final_model"),
    (r"C:\one\base", r"C:\two\base"),
    ("./base", "/data/x/base"),
    ("alice/llama-finetune", "bob/llama-finetune"),
    ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
    ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B"),
    ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_one_model_by_two_names(first: str, second: str) -> None:
    assert doubt(first, second) == doubt(second, first) == ""


@pytest.mark.parametrize(("first", "second"), OPEN)
def test_one_model_as_far_as_can_be_said_is_a_warning(first: str, second: str) -> None:
    a, b = (replace(adapter, base=base) for adapter, base in zip(equal_pool(2), (first, second), strict=True))
    for pool in ([a, b], [b, a]):
        report = compatibility(pool)
        assert report.ok
        assert any("base" in line or "model" in line for line in report.warnings), report.warnings


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_two_models_or_paths_that_say_nothing_are_a_problem_unless_somebody_vouches(first: str, second: str) -> None:
    a, b = (replace(adapter, base=base) for adapter, base in zip(equal_pool(2), (first, second), strict=True))
    assert any("--base" in line for line in compatibility([a, b]).problems)
    assert any("--base" in line for line in compatibility([b, a]).problems)
    told = [replace(x, config={"base_model_name_or_path": x.base}, base="me/base", base_vouched=True) for x in (a, b)]
    report = compatibility(told)
    assert report.ok
    assert any(first in line and "me/base" in line for line in report.warnings)


def test_different_revisions_are_a_warning() -> None:
    a, b = equal_pool(2)
    quiet = compatibility([replace(a, config={"revision": None}), replace(b, config={"revision": "main"})]).warnings
    assert not any("revision" in line for line in quiet)
    loud = compatibility([replace(a, config={"revision": None}), replace(b, config={"revision": "refs/pr/7"})])
    assert loud.ok
    assert any("refs/pr/7" in line for line in loud.warnings)


def test_the_base_that_was_really_used_is_named() -> None:
    adapter = replace(equal_pool(1)[0], config={"base_model_name_or_path": "meta-llama/Llama-3-8B-Instruct"})
    assert used_base([adapter], "/models/Llama-3-8B-Instruct") == ("meta-llama/Llama-3-8B-Instruct", "")
    name, said = used_base([adapter], "/models/Llama-3-8B")
    assert name == "/models/Llama-3-8B"
    assert "meta-llama/Llama-3-8B-Instruct" in said
    assert name in said
