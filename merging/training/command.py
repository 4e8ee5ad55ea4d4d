"""The command line that repeats a training."""

from __future__ import annotations

import shlex

from .settings import TrainingSettings


def train_command(task: str, settings: TrainingSettings, base: str = "minilm", words: bool = False) -> str:
    """Return the command line that repeats a run; options at their default are left out, but for those that matter
    most."""
    default = TrainingSettings()
    line = [
        "mergescope",
        "train",
        "--task",
        task,
        "--init",
        settings.init,
        "--rank",
        settings.rank,
        "--seed",
        settings.seed,
    ]
    if settings.init == "osrm":
        line += ["--k", settings.k]
        line += ["--pooling", settings.pooling] if settings.pooling != default.pooling else []
    options = {
        "row_norm": "--row-norm",
        "head": "--head",
        "alpha": "--alpha",
        "epochs": "--epochs",
        "learning_rate": "--lr",
        "batch_size": "--batch-size",
        "rows": "--rows",
        "validation_rows": "--validation-rows",
        "max_length": "--max-length",
    }
    for name, option in options.items():
        if getattr(settings, name) != getattr(default, name):
            line += [option, getattr(settings, name)]
    if settings.modules != default.modules:
        line += ["--modules", ",".join(settings.modules)]
    if settings.freeze_A:
        line += ["--freeze-a"]
    if settings.bf16 is not None:
        line += ["--bf16" if settings.bf16 else "--no-bf16"]
    if settings.checkpoints:
        line += ["--checkpoints", ",".join(map(str, settings.checkpoints))]
    line += ["--base", base] if base != "minilm" else []
    line += ["--words"] if words else []
    return shlex.join([str(word) for word in line]) + " -o out/"
