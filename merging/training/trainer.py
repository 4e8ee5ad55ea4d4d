"""LoRA fine-tuning with a chosen initialisation of A: PEFT's default, PEFT's gaussian, random orthonormal, or OSRM.

A classifier starts from small random weights and is trained together with the adapter, as both papers do it, or from
the logistic-regression probe on the frozen base, which then knows most of the task already. The epoch with the best
validation accuracy is kept; a language model may learn to write the label instead. The loop knows neither what it
trains (`Attached`: `merging.training.full` puts the weights themselves through it) nor what for
(`merging.training.objectives`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..adapters.adapter import Adapter, Head
from ..adapters.lowrank import LowRank
from ..errors import MergeError
from ..evaluation.verbalisers import Verbaliser, task_type
from ..features.moments import Features
from ..models.layers import bare, fingerprint, linear_layers, out_in, relative_norms, target_names
from ..osrm import official_init, osrm_init, random_orthonormal
from ..tasks.batches import bucketed
from ..tasks.task import Task
from .drift import drift
from .objectives import LabelWords, Objective, PooledClassifier, encoded_split, probe_head, scratch_head

INITS = ("default", "gaussian", "orthonormal", "osrm")
HEADS = ("scratch", "probe")


@dataclass(frozen=True)
class TrainingSettings:
    """Hyper-parameters of one fine-tuning; everything that a repetition needs but the data and the base.

    Attributes
    ----------
    init : "default" (PEFT's Kaiming-uniform A), "gaussian" (PEFT's N(0, 1/rank²)), "orthonormal" (random) or "osrm"
    row_norm : length to which every row of A is brought at the start: a number, or "gaussian" for sqrt(in) / rank,
        which PEFT's gaussian rows have on average; None = as the init gives them (orthonormal and OSRM: 1)
    head : where a classifier starts: "scratch" (small random weights) or "probe" (logistic regression on the frozen
        base)
    seed : of A, of a head from scratch, of the order of the rows, and of nothing else
    checkpoints : epochs (counted from 1) after which the adapter is handed out as it is then, out of this one run
    k : texts per task from which OSRM's second moments are taken
    pooling : of those moments; "official" is OSRM's released code (task means, see `merging.osrm.official_init`)
    rows, validation_rows : so many rows of the splits (the first, whose order is random, and one of each label missing
        there)
    modules : last parts of the names to adapt; none = query and value projections, as PEFT picks them for the
        architecture
    max_length : cuts texts below the task's own limit
    bf16 : autocast to bfloat16; None = on a GPU only
    checkpointing : recompute activations in the backward pass; None = on a GPU only
    """

    init: str = "default"
    row_norm: float | Literal["gaussian"] | None = None
    head: str = "scratch"
    rank: int = 8
    alpha: float = 16.0
    seed: int = 0
    k: int = 100
    pooling: str = "token"
    epochs: int = 3
    learning_rate: float = 1e-3
    batch_size: int = 32
    rows: int = 10_000
    validation_rows: int = 10_000
    warmup: float = 0.06
    freeze_A: bool = False
    modules: tuple[str, ...] = ("query", "value")
    max_length: int | None = None
    bf16: bool | None = None
    checkpointing: bool | None = None
    checkpoints: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Progress:
    """State of a fine-tuning.

    Attributes
    ----------
    validation, drift : accuracy and (Frobenius, Procrustes) drift of A, see `merging.training.drift.drift`; after an
        epoch only
    seconds, left : gone by, and the estimate of what remains
    checkpoint : the adapter as it is after an epoch that `TrainingSettings.checkpoints` names
    adapter : at the end only, the epoch with the best validation accuracy
    """

    step: int
    steps: int
    epoch: int
    loss: float
    validation: float | None = None
    drift: tuple[float, float] | None = None
    seconds: float = 0.0
    checkpoint: Adapter | None = field(default=None, repr=False)
    adapter: Adapter | None = field(default=None, repr=False)

    @property
    def left(self) -> float:
        """Estimated seconds to the end."""
        return self.seconds / max(self.step, 1) * (self.steps - self.step)


def osrm_start(
    features: Features,
    task: str,
    settings: TrainingSettings,
    modules: Sequence[str],
    others: Sequence[str] | None = None,
) -> dict[str, Tensor] | None:
    """Return {module: A} that an OSRM training starts from; None for an init that the trainer draws itself."""
    if settings.init != "osrm":
        return None
    if settings.pooling == "official":
        return {module: official_init(features, task, settings.rank, module, others) for module in modules}
    return {module: osrm_init(features, task, settings.rank, module, others, settings.pooling) for module in modules}


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
    initial = _initial_A(model, names, settings, A_init)
    yield from train_attached(
        model, tokenizer, task, settings, lambda: _lora_layers(model, names, settings, initial), head, stop
    )


def starting_A(
    model: nn.Module, settings: TrainingSettings, A_init: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return {module: A (rank, in)} that `fine_tune` would start from; the model is itself again afterwards."""
    names = target_names(model, settings.modules)
    with _lora_layers(model, names, settings, _initial_A(model, names, settings, A_init)) as attached:
        return {name: update.A for name, update in attached.read().items()}


@dataclass(frozen=True, eq=False)
class Attached:
    """What a training changes: LoRA layers, or the weights themselves.

    Attributes
    ----------
    parameters : what the optimiser moves, without the head
    read : returns {module: update (out, in)} as it is now, on the CPU and in memory of its own
    drift : returns how far A has moved (Frobenius, Procrustes); None where there is no A
    """

    parameters: Sequence[nn.Parameter]
    read: Callable[[], dict[str, LowRank]]
    drift: Callable[[], tuple[float, float]] | None = None


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
    bf16 = device.type == "cuda" if settings.bf16 is None else settings.bf16
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
        metadata: dict[str, Any] = {
            "task": self.task.name,
            "labels": list(self.task.labels),
            "training": asdict(self.settings),
            "epoch": state.epoch,
            "validation_accuracy": state.validation,
            "steps": {"done": state.step, "planned": self.steps},
            "relative_norms": relative_norms(self.model, state.updates),
        }
        if state.drift is not None:
            metadata["drift"] = dict(zip(("frobenius", "procrustes"), state.drift, strict=True))
        words = isinstance(state.head, Verbaliser)
        return Adapter(
            name=self.task.name,
            deltas=state.updates,
            task=self.task.name,
            base=self.base_name,
            head=None if isinstance(state.head, Verbaliser) else state.head,
            base_fingerprint=self.base_hash,
            metadata=metadata | ({"verbaliser": asdict(state.head)} if isinstance(state.head, Verbaliser) else {}),
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


@contextmanager
def _lora_layers(
    model: nn.Module, names: Sequence[str], settings: TrainingSettings, initial: Mapping[str, Tensor]
) -> Iterator[Attached]:
    """Attach LoRA layers, and take them off again whatever happens."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - takes seconds

    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)  # PEFT draws its A from the global generator
        # a pattern: PEFT shortens a long list of names to suffixes, which may fit more
        targets = rf"(?:.*\.)?(?:{'|'.join(map(re.escape, names))})"
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=targets,
            lora_dropout=0.0,
            init_lora_weights="gaussian" if settings.init == "gaussian" else True,
        )
        wrapped = get_peft_model(model, config)
    try:
        layers = {name: layer for name, layer in bare(model).named_modules() if name in names}
        for name, A in initial.items():
            layers[name].lora_A["default"].weight.data.copy_(A)
        for layer in layers.values():
            A = layer.lora_A["default"].weight
            A.data.copy_(with_row_norm(A.data, settings.row_norm))
            A.requires_grad_(not settings.freeze_A)
        start = _read_A(layers)
        trained = [p for layer in layers.values() for p in layer.parameters() if p.requires_grad]
        yield Attached(trained, lambda: _read_lora(layers), lambda: drift(start, _read_A(layers)))
    finally:
        wrapped.unload()


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


def _initial_A(
    model: nn.Module, names: Sequence[str], settings: TrainingSettings, A_init: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    if settings.init not in INITS:
        raise MergeError(f"Unknown initialisation {settings.init!r}: choose one of {', '.join(INITS)}.")
    if settings.head not in HEADS:
        raise MergeError(f"Unknown head {settings.head!r}: choose one of {', '.join(HEADS)}.")
    if settings.init in ("default", "gaussian"):
        return {}
    if settings.init == "osrm":
        missing = [name for name in names if name not in (A_init or {})]
        if missing or A_init is None:
            raise MergeError(f"Initialisation osrm needs an A for {missing[0] if missing else names[0]}.")
        layers = linear_layers(model, names)
        for name in names:
            expected = (settings.rank, out_in(layers[name])[1])
            if tuple(A_init[name].shape) != expected:
                raise MergeError(f"The A given for {name} is {tuple(A_init[name].shape)}, not (rank, in) = {expected}.")
        return {name: A_init[name] for name in names}
    generator = torch.Generator().manual_seed(settings.seed)
    return {
        name: random_orthonormal(settings.rank, out_in(layer)[1], generator)
        for name, layer in linear_layers(model, names).items()
    }


def with_row_norm(A: Tensor, row_norm: float | Literal["gaussian"] | None) -> Tensor:
    """Return A (rank, in) with every row brought to one length, see `TrainingSettings.row_norm`.

    Raises
    ------
    MergeError
        If the length is not positive.
    """
    if row_norm is None:
        return A
    length = A.shape[1] ** 0.5 / A.shape[0] if row_norm == "gaussian" else row_norm
    if not length > 0:
        raise MergeError(f"row_norm = {row_norm}: give a length above 0, or gaussian.")
    scaled: Tensor = A.double() * (length / A.double().norm(dim=1, keepdim=True))
    return scaled.to(A.dtype)


def _read_A(layers: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: layer.lora_A["default"].weight.detach().cpu().clone() for name, layer in layers.items()}


def _read_lora(layers: Mapping[str, Any]) -> dict[str, LowRank]:
    As = _read_A(layers)
    Bs = {name: layer.lora_B["default"].weight.detach() * layer.scaling["default"] for name, layer in layers.items()}
    return {name: LowRank(Bs[name].cpu(), As[name]) for name in layers}
