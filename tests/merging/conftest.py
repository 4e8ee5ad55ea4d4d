"""Fixtures of the core's tests: tiny things, made once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers and PEFT are imported: nothing here needs a hub

from builders import made_up_task, peft_folder, task_features, tiny_model, tiny_tokenizer

from merging import Adapter, Features, Task


@pytest.fixture
def model():
    """Return a fresh tiny encoder."""
    return tiny_model()


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def task() -> Task:
    """Return a task of 60 rows that can be learned."""
    return made_up_task(rows=60)


@pytest.fixture(scope="session")
def features() -> Features:
    """Return the features of 30 tasks at the modules of the in-memory adapters."""
    return task_features(tiny_model(), 30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a plain adapter folder written by PEFT, ready to be spoiled."""
    peft_folder(tmp_path / "adapter", tiny_model(), r=4)
    return tmp_path / "adapter"


@pytest.fixture
def pool(tmp_path: Path) -> list[Adapter]:
    """Return three adapters that PEFT wrote, of different ranks, options and coverage."""
    options = (
        {"r": 4, "target_modules": ["query", "value"]},
        {"r": 8, "lora_alpha": 4, "use_rslora": True, "target_modules": ["query", "key", "value", "dense"]},
        {"r": 2, "lora_alpha": 16, "rank_pattern": {"query": 16}, "target_modules": ["query"]},
    )
    for i, option in enumerate(options):
        peft_folder(tmp_path / f"task-{i}", tiny_model(), seed=i, **option)
    return [Adapter.load(tmp_path / f"task-{i}") for i in range(len(options))]
