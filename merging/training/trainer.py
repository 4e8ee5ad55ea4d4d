"""LoRA fine-tuning with a chosen initialisation of A: PEFT's default, PEFT's gaussian, random orthonormal, or OSRM.

A classifier starts from small random weights and is trained together with the adapter, as both papers do it, or from
the logistic-regression probe on the frozen base, which then knows most of the task already. The epoch with the best
validation accuracy is kept; a language model may learn to write the label instead. The loop knows neither what it
trains (`Attached`: `merging.training.full` puts the weights themselves through it) nor what for
(`merging.training.objectives`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.adapter import Adapter
from ..adapters.head import Head
from ..adapters.lowrank import LowRank
from ..adapters.metadata import AdapterMetadata
from ..evaluation.verbalisers import Verbaliser, task_type
from ..models.layers import fingerprint, relative_norms, target_names
from ..tasks.batches import bucketed
from ..tasks.task import Task
from .lora import Attached, initial_A, lora_layers
from .objectives import LabelWords, Objective, PooledClassifier, encoded_split, probe_head, scratch_head
from .settings import Progress, TrainingSettings


def fine_tune(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    settings: TrainingSettings,
    A_init: Mapping[str, Tensor] | None = None,
    head: Head | Verbaliser | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Fine-tune a LoRA adapter and a pooled head; yields after every step, the adapter comes with the last.

    Closing the generator is a clean cancel that keeps nothing; the base model is restored in any case.

    Parameters
    ----------
    model : bare encoder or decoder; it carries the LoRA layers while the generator runs and is itself again afterwards
    A_init : {module: A (rank, in)} for init "osrm", from `merging.osrm.osrm_init`
    head : where the classifier starts; None = as ``settings.head`` says. With a `Verbaliser` there is none: a language
        model learns to write its words, which the adapter's metadata keep.
    stop : asked after every step; True ends the training early and keeps the best state so far

    Raises
    ------
    MergeError
        For an unknown init or head, a missing A, a rank above a layer's width, a row norm that is not positive.
    """
    names = target_names(model, settings.modules)
    initial = initial_A(model, names, settings, A_init)
    yield from train_attached(
        model, tokenizer, task, settings, lambda: lora_layers(model, names, settings, initial), head, stop
    )


def train_attached(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    settings: TrainingSettings,
    attach: Callable[[], AbstractContextManager[Attached]],
    head: Head | Verbaliser | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, None]:
    """Train what ``attach`` puts on the model, and a pooled head if it has one; see `fine_tune` for the rest.

    AdamW without weight decay, a linear schedule with warm-up, gradients clipped to length 1 over everything that is
    trained; the state of the epoch with the best validation accuracy (then the lowest loss) counts.

    Parameters
    ----------
    attach : opens when texts and head are ready, and takes off what it attached when it closes, also after an error
    """
    from transformers import get_linear_schedule_with_warmup  # noqa: PLC0415 - takes seconds

    objective = _objective(model, tokenizer, task, settings, head)
    device = next(model.parameters()).device
    bf16 = settings.autocasts(device.type)
    state = _State(epoch=0, updates={}, head=objective.head())
    with attach() as attached, _checkpointed(model, settings):
        trained = [*attached.parameters, *objective.parameters]
        optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
        steps = settings.epochs * -(-len(objective.lengths) // settings.batch_size)
        schedule = get_linear_schedule_with_warmup(optimizer, int(settings.warmup * steps), steps)
        generator = torch.Generator().manual_seed(settings.seed)
        started, step = time.monotonic(), 0
        best, kept = replace(state, updates=attached.read(), drift=(0.0, 0.0) if attached.drift else None), []
        for epoch in range(settings.epochs):
            for rows in bucketed(objective.lengths, settings.batch_size, generator):
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    loss = objective.loss(rows)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                yield Progress(step, steps, epoch, float(loss.detach()), seconds=time.monotonic() - started)
                if stopped := stop():
                    break
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                accuracy, nll = objective.score()
            state = _State(
                epoch + 1,
                attached.read(),
                objective.head(),
                accuracy,
                nll,
                attached.drift() if attached.drift else None,
                step,
            )
            best = max(best, state, key=_State.rank)
            kept += [state] if epoch + 1 in settings.checkpoints else []
            yield Progress(step, steps, epoch, float(loss.detach()), accuracy, state.drift, time.monotonic() - started)
            if stopped:
                break
    # only now the base is itself again, which fingerprint and relative norms are taken of
    finished = _Finished(model, task, settings, steps)
    for state in kept:
        checkpoint = finished.adapter(state)
        seconds = time.monotonic() - started
        yield Progress(
            step, steps, state.epoch - 1, float(loss.detach()), state.validation, state.drift, seconds, checkpoint
        )
    adapter = finished.adapter(replace(best, step=step))
    seconds = time.monotonic() - started
    yield Progress(
        step, steps, settings.epochs, float(loss.detach()), best.validation, best.drift, seconds, adapter=adapter
    )


@dataclass(frozen=True, eq=False)
class _State:
    """What a training has reached after an epoch."""

    epoch: int
    updates: dict[str, LowRank]
    head: Head | Verbaliser
    validation: float = -1.0
    nll: float = 0.0
    drift: tuple[float, float] | None = None
    step: int = 0

    def rank(self) -> tuple[float, float]:
        """Return what makes one epoch better than another: validation accuracy, then the likelihood."""
        return self.validation, -self.nll


class _Finished:
    """Makes adapters of states, once the base carries nothing of the training any more."""

    def __init__(self, model: nn.Module, task: Task, settings: TrainingSettings, steps: int) -> None:
        self.model, self.task, self.settings, self.steps = model, task, settings, steps
        self.base_hash, self.base_name = fingerprint(model), getattr(model, "name_or_path", "")

    def adapter(self, state: _State) -> Adapter:
        """Return the adapter of one state, with what a repetition needs in its metadata."""
        drift = state.drift and dict(zip(("frobenius", "procrustes"), state.drift, strict=True))
        metadata = AdapterMetadata().changed(
            task=self.task.name,
            labels=self.task.labels,
            training=asdict(self.settings),
            epoch=state.epoch,
            validation_accuracy=state.validation,
            steps={"done": state.step, "planned": self.steps},
            relative_norms=relative_norms(self.model, state.updates),
            drift=drift,
            verbaliser=asdict(state.head) if isinstance(state.head, Verbaliser) else None,
        )
        words = isinstance(state.head, Verbaliser)
        return Adapter(
            name=self.task.name,
            deltas=state.updates,
            task=self.task.name,
            base=self.base_name,
            head=None if isinstance(state.head, Verbaliser) else state.head,
            base_fingerprint=self.base_hash,
            metadata=metadata,
            # a language model's adapter is put on the model with its language-model head, where the names have its
            # prefix
            prefix=f"{self.model.base_model_prefix}." if words else "",
            config={"task_type": task_type(self.model)} if words else {},
        )


@contextmanager
def _checkpointed(model: nn.Module, settings: TrainingSettings) -> Iterator[None]:
    """Recompute activations in the backward pass, where the settings or a GPU ask for it."""
    on_gpu = next(model.parameters()).device.type == "cuda"
    if not (on_gpu if settings.checkpointing is None else settings.checkpointing):
        yield
        return
    model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()  # type: ignore[operator]


def probe(model: nn.Module, tokenizer: Any, task: Task, settings: TrainingSettings) -> Head:
    """Return the probe on the very rows that a fine-tuning with these settings sees."""
    encoded, labels = encoded_split(tokenizer, task, task.train.first(settings.rows), settings.max_length)
    return probe_head(model, encoded, labels, len(task.labels), task.labels)


def _objective(
    model: nn.Module, tokenizer: Any, task: Task, settings: TrainingSettings, head: Head | Verbaliser | None
) -> Objective:
    rows = task.train.first(settings.rows), task.validation.first(settings.validation_rows)
    if isinstance(head, Verbaliser):
        return LabelWords(model, tokenizer, task, *rows, settings.max_length, head)
    if head is None and settings.head == "scratch":
        head = scratch_head(model, task.labels, settings.seed)
    return PooledClassifier(model, tokenizer, task, *rows, settings.max_length, head)
