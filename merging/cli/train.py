"""``mergescope train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import MergeError
from .options import Output, given, option


def train_adapters(
    context: typer.Context,
    task: Annotated[
        str | None, typer.Option(help="One task: trec, sms_spam, movie, bbc, tweets3, newspaper, amazon, tweets2.")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            help="A whole pool: papers, osrm, default, unequal, easy, smollm2 or smollm2_osrm; skips what exists."
        ),
    ] = None,
    init: Annotated[str, typer.Option(help="Initialisation of A: default, gaussian, orthonormal or osrm.")] = "default",
    row_norm: Annotated[
        str | None, typer.Option(help="Length of A's rows at the start: a number, or gaussian for sqrt(in) / rank.")
    ] = None,
    head: Annotated[
        str, typer.Option(help="Where the classifier starts: scratch, or probe (logistic regression on the base).")
    ] = "scratch",
    rank: Annotated[int, typer.Option(min=1)] = 8,
    alpha: Annotated[float, typer.Option(help="LoRA alpha; the scaling is alpha / rank.")] = 16.0,
    k: Annotated[int, typer.Option(min=1, help="Texts per task for OSRM's second moments.")] = 100,
    pooling: Annotated[
        str, typer.Option(help="Of these moments: token, mean, task_mean, or official (OSRM as released).")
    ] = "token",
    seed: Annotated[int, typer.Option(help="Of A and of the order of the rows.")] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    rows: Annotated[int, typer.Option(min=1, help="Training rows at most.")] = 10_000,
    validation_rows: Annotated[int, typer.Option(min=1, help="Validation rows at most.")] = 10_000,
    max_length: Annotated[int | None, typer.Option(min=1, help="Cut texts below the task's own limit.")] = None,
    modules: Annotated[
        str | None,
        typer.Option(help="Target modules, comma separated; empty = as PEFT picks them (query and value in BERT)."),
    ] = None,
    freeze_a: Annotated[bool, typer.Option(help="Train B only.")] = False,
    bf16: Annotated[
        bool | None,
        typer.Option("--bf16/--no-bf16", help="Compute in bfloat16 where it does no harm; none = on a GPU."),
    ] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Epochs, comma separated, after which the adapter is written to epoch-N as well.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model: minilm or smollm2 (embedded), a folder, or a hub id; None = minilm, or the pool's."
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option(help="Let a language model write the label, instead of a classifier on pooled states.")
    ] = False,
    output: Output = Path("out"),
) -> None:
    """Fine-tune one adapter (--task) or a whole pool (--pool), as the shipped ones were made."""
    from ..evaluation.verbalisers import default_verbaliser
    from ..models.load import load_base, load_language_model
    from ..shipped import check_pool, train_pool, train_task
    from ..tasks.task import Task
    from ..training.command import train_command
    from ..training.settings import Progress, TrainingSettings

    if (task is None) == (pool is None):
        raise MergeError("Say either --task or --pool.")

    def report(name: str, progress: Progress) -> None:
        if progress.validation is not None and progress.checkpoint is None:
            print(
                f"{name}: epoch {progress.epoch + 1}, validation accuracy {progress.validation:.3f}, "
                f"{progress.seconds:.0f} s",
                flush=True,
            )

    if pool is not None:
        spec = check_pool(pool)
        if extra := sorted(given(context).keys() - {"pool", "output"}):
            raise MergeError(f"The pool {pool} decides on its training itself: leave out {option(extra[0])}.")
        model, tokenizer = (load_language_model if spec.words else load_base)(spec.base)
        for folder in train_pool(model, tokenizer, spec, output, report):
            print(folder)
        return
    named = "query,value" if modules is None and base in (None, "minilm") else modules or ""
    settings = TrainingSettings(
        init=init,
        row_norm=_row_norm(row_norm),
        head=head,
        rank=rank,
        alpha=alpha,
        seed=seed,
        k=k,
        pooling=pooling,
        epochs=epochs,
        learning_rate=lr,
        batch_size=batch_size,
        rows=rows,
        validation_rows=validation_rows,
        max_length=max_length,
        bf16=bf16,
        freeze_A=freeze_a,
        modules=tuple(filter(None, named.split(","))),
        checkpoints=_numbers(checkpoints),
    )
    assert task is not None
    chosen, source = Task.load(task), base or "minilm"
    model, tokenizer = (load_language_model if words else load_base)(source)
    written = default_verbaliser(task, chosen.description, chosen.labels) if words else None
    command = train_command(task, settings, source, words)
    for progress in train_task(model, tokenizer, chosen, settings, output, command=command, head=written):
        if progress.adapter is None:
            report(task, progress)
    print(output)


def _row_norm(text: str | None) -> float | Literal["gaussian"] | None:
    if text is None or text == "gaussian":
        return text  # type: ignore[return-value]
    try:
        return float(text)
    except ValueError as error:
        raise MergeError(f"--row-norm {text!r} is neither a number nor gaussian.") from error


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise MergeError(f"--checkpoints {text!r} is no list of whole numbers, such as 1,3,10.") from error
