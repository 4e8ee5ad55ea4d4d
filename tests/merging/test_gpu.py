"""What a GPU gives is what the CPU gives. Skipped where there is none; `pytest -m gpu` runs these alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from merging import Task, merge
from merging.evaluation.accuracy import evaluate
from merging.models.layers import working_copy
from merging.models.shared import Base, Bases
from merging.playground import predictions, question_of, weights_by_task
from merging.services.doctor import examined
from merging.shipped import POOLS, SHIPPED, load_pool
from merging.training.settings import TrainingSettings
from merging.training.trainer import fine_tune

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

TEXTS = ["Where is the Louvre?", "WIN a free prize, call now"]


@pytest.fixture(scope="module")
def bases() -> Bases:
    return Bases()


def device(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def marks(base: Base, model: nn.Module, pool: str, rows: int) -> dict[str, str]:
    """Return which test rows of each task a merge of a pool gets right."""
    adapters = load_pool(pool)
    tasks = [Task.load(adapter.task) for adapter in adapters]
    merged = merge(adapters, "task_arithmetic", scaling=0.4)
    return {step.task: step.marks for step in evaluate(model, base.tokenizer, merged, tasks, limit=rows)}


@pytest.mark.parametrize("source", ["minilm", "smollm2"])
def test_a_base_computes_on_the_gpu_and_its_reader_does_not(source: str, bases: Bases) -> None:
    base = bases.get(source)
    assert (device(base.model), device(base.reader)) == ("cuda", "cpu")
    assert examined().device.startswith("GPU")


@pytest.mark.parametrize(("pool", "rows"), [*((name, 200) for name in POOLS), ("smollm2", 24)])
def test_at_most_one_row_of_a_task_comes_out_otherwise(pool: str, rows: int, bases: Bases) -> None:
    base = bases.get(SHIPPED[pool].base)
    here, there = marks(base, base.reader, pool, rows), marks(base, base.model, pool, rows)
    for task, known in here.items():
        assert len(known) == len(there[task])
        assert sum(one != other for one, other in zip(known, there[task], strict=True)) <= 1, task


def test_a_text_is_answered_as_on_the_cpu(bases: Bases) -> None:
    base, adapters = bases.get("minilm"), load_pool("papers")
    questions = [question_of(adapter, Task.load(adapter.task)) for adapter in adapters]
    sources = {"merge": weights_by_task(merge(adapters, "ties", scaling=0.4), [a.task for a in adapters])}
    here, there = (predictions(m, base.tokenizer, TEXTS, questions, sources) for m in (base.reader, base.model))
    assert here.probability.to_numpy() == pytest.approx(there.probability.to_numpy(), abs=1e-3)


def test_a_training_in_bfloat16_learns_and_keeps_float32_on_the_cpu(bases: Bases) -> None:
    base, settings = bases.get("minilm"), TrainingSettings(rows=512, epochs=1)
    assert settings.autocasts("cuda")
    model = working_copy(base.model, [name for name, _ in base.model.named_modules() if name.endswith("query")])
    *_, last = fine_tune(model, base.tokenizer, Task.load("sms_spam"), settings)
    assert last.adapter is not None
    for update in last.adapter.deltas.values():
        assert (update.B.device.type, update.B.dtype) == ("cpu", torch.float32)
        assert float(update.norm()) > 0
    assert last.adapter.metadata.validation_accuracy > 0.8
