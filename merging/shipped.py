"""The shipped pools: a base and one adapter per task, under assets/adapters/<pool>/<task>, and how they are made."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.adapter import METADATA_FILE, Adapter
from .adapters.metadata import AdapterMetadata
from .adapters.rounding import rounded
from .errors import MergeError
from .evaluation.accuracy import encode_task, evaluate, own_head
from .evaluation.verbalisers import Verbaliser, default_verbaliser
from .features.moments import Features
from .features.reading import collect_features
from .io.assets import assets_folder
from .models.layers import bare, target_names
from .tasks.task import DEFAULT_TASKS, Task, fingerprint
from .training.command import train_command
from .training.lora import osrm_start
from .training.settings import Progress, TrainingSettings
from .training.trainer import fine_tune, probe

TRAINING = TrainingSettings(epochs=3, rows=1500, validation_rows=300, learning_rate=1e-3, bf16=True)
"""How the pools on the encoder are trained, where they don't say otherwise."""
WORDS_TRAINING = TrainingSettings(
    epochs=2, rows=800, validation_rows=200, batch_size=16, max_length=48, modules=(), bf16=True
)
"""How the pools on the language model are trained."""
BUDGETS: dict[str, dict[str, Any]] = {
    "trec": {"rows": 600, "learning_rate": 5e-4},
    "sms_spam": {"rows": 150, "learning_rate": 2e-3},
    "movie": {"rows": 8_500, "learning_rate": 2e-3},
    "bbc": {"rows": 300, "learning_rate": 2e-3},
    "tweets3": {"rows": 10_000, "learning_rate": 5e-4},
    "newspaper": {"rows": 1_900, "learning_rate": 5e-4},
    "amazon": {"rows": 150, "learning_rate": 2e-3},
    "tweets2": {"rows": 1_200, "learning_rate": 5e-4},
}
"""Rows and learning rates of the pool `unequal`: norms that differ for reasons that have nothing to do with what a task
needs."""


@dataclass(frozen=True)
class PoolSpec:
    """How a shipped pool is trained.

    Attributes
    ----------
    help : one sentence: what the pool teaches
    training : all hyper-parameters but the seed; ``init`` is how A starts
    shared_seed : A starts from the same random numbers in all tasks
    budgets : {task: hyper-parameters of its own}
    base : see `merging.models.load.load_base`
    words : the base is a language model that learns to write the label; else adapters come with a classifier
    test_rows : on which the adapters are measured alone; None = all
    dtype : what the factors are stored in
    """

    name: str
    title: str
    help: str
    training: TrainingSettings
    shared_seed: bool = False
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    base: str = "minilm"
    tasks: tuple[str, ...] = DEFAULT_TASKS
    words: bool = False
    test_rows: int | None = None
    dtype: torch.dtype = torch.float32

    def seed(self, task: str) -> int:
        """Return the seed of one task's run."""
        return 0 if self.shared_seed else self.tasks.index(task) + 1

    def settings(self, task: str) -> TrainingSettings:
        """Return the hyper-parameters of one task's run."""
        return replace(self.training, seed=self.seed(task), **self.budgets.get(task, {}))


WORD_TASKS = ("trec", "sms_spam", "movie", "bbc", "tweets3", "newspaper")
POOLS: dict[str, PoolSpec] = {
    spec.name: spec
    for spec in (
        PoolSpec(
            "papers",
            "As in the papers: gaussian A, one seed",
            "OSRM's own baseline: large random rows, the same in every task. A plain sum collapses at λ = 1; this is "
            "where both papers' methods show.",
            replace(TRAINING, init="gaussian"),
            shared_seed=True,
        ),
        PoolSpec(
            "osrm",
            "OSRM's init",
            "The same training, but each A starts where the other tasks' texts have least energy: what OSRM gains on "
            "the pool above.",
            replace(TRAINING, init="osrm"),
        ),
        PoolSpec(
            "default",
            "PEFT's default, own seeds",
            "What strangers' adapters look like: PEFT's random A, another one for each task, heads trained with the "
            "adapter.",
            TRAINING,
        ),
        PoolSpec(
            "unequal",
            "Unequal budgets",
            "150 to 10,000 rows and two learning rates: norms differ for reasons that have nothing to do with need, "
            "which is DO-Merging's premise.",
            TRAINING,
            budgets=BUDGETS,
        ),
        PoolSpec(
            "easy",
            "Easy: heads from the base's probe",
            "The contrast: heads that already work on the bare base leave the adapters little to carry, so merging "
            "hardly hurts and methods hardly differ.",
            replace(TRAINING, head="probe"),
        ),
    )
}
"""The pools on the embedded encoder: what the tables in assets were measured on. The app opens on the first."""
SHIPPED: dict[str, PoolSpec] = POOLS | {
    spec.name: spec
    for spec in (
        PoolSpec(
            "smollm2",
            "SmolLM2-135M, PEFT's default",
            "A language model that must write the label: its base can hardly answer, so the merge has to carry "
            "everything.",
            WORDS_TRAINING,
            base="smollm2",
            tasks=WORD_TASKS,
            words=True,
            test_rows=400,
            dtype=torch.bfloat16,
        ),
        PoolSpec(
            "smollm2_osrm",
            "SmolLM2-135M, OSRM's start",
            "The same training of the language model, but each A starts where the other tasks' texts are quietest.",
            replace(WORDS_TRAINING, init="osrm"),
            base="smollm2",
            tasks=WORD_TASKS,
            words=True,
            test_rows=400,
            dtype=torch.bfloat16,
        ),
    )
}
RETIRED = {"default_shared_seed": "papers"}
"""Pools of earlier versions: {name: the one that took its place}."""


def check_pool(name: str) -> PoolSpec:
    """Return how a shipped pool was made.

    Raises
    ------
    MergeError
        For an unknown pool, and for one of an earlier version, with the name of the one that took its place.
    """
    if name in RETIRED:
        raise MergeError(
            f"The pool {name!r} of earlier versions is no longer shipped, since merging hardly hurt its adapters: "
            f"choose {RETIRED[name]!r} instead (there are {', '.join(SHIPPED)})."
        )
    if name not in SHIPPED:
        raise MergeError(f"Unknown pool {name!r}: choose one of {', '.join(SHIPPED)}.")
    return SHIPPED[name]


def load_pool(name: str, root: Path | None = None) -> list[Adapter]:
    """Return the adapters of a shipped pool in the order of its tasks.

    Raises
    ------
    MergeError
        For an unknown pool.
    """
    check_pool(name)
    folder = (root or assets_folder() / "adapters") / name
    own = root is None or root.resolve() == assets_folder() / "adapters"
    tasks = [task for task in SHIPPED[name].tasks if (folder / task / METADATA_FILE).exists()]
    return [Adapter.load(f"shipped:{name}/{task}" if own else folder / task) for task in tasks]


def collect_for_osrm(model: nn.Module, tokenizer: Any, tasks: Sequence[str], settings: TrainingSettings) -> Features:
    """Return the features that `train_task` takes its OSRM initialisation from: the first k training texts of each
    task."""
    texts = {name: Task.load(name).train.texts[: settings.k] for name in tasks}
    modules = target_names(model, settings.modules)
    return collect_features(model, tokenizer, texts, settings.k, modules, max_length=128, keep_tokens=False)


def train_task(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    settings: TrainingSettings,
    folder: Path,
    others: Sequence[str] = DEFAULT_TASKS,
    features: Features | None = None,
    command: str | None = None,
    head: Verbaliser | None = None,
    test_rows: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Progress]:
    """Fine-tune one adapter and write it with its provenance and accuracies; yields the trainer's progress.

    The folder's metadata holds the command, versions, seeds, fingerprints of base and data, validation accuracy, and on
    the test split the accuracy of the adapter, of the base under the adapter's head, and of the logistic-regression
    probe.

    Parameters
    ----------
    others : tasks that OSRM should not disturb (the task itself does not count)
    features : see `collect_for_osrm`; collected here when OSRM needs them and they are not given
    head : what a language model should write; None = a classifier on pooled states
    test_rows : on which the accuracies are measured; None = all
    dtype : what the factors are stored in; the accuracies are those of the rounded ones
    """
    A_init: dict[str, Tensor] | None = None
    if settings.init == "osrm":
        names = [name for name in others if name != task.name]
        features = features or collect_for_osrm(model, tokenizer, [*names, task.name], settings)
        modules = target_names(model, settings.modules)
        A_init = osrm_start(features, task.name, settings, modules, names)
    adapter: Adapter | None = None
    checkpoints: dict[int, Adapter] = {}
    for progress in fine_tune(model, tokenizer, task, settings, A_init, head):
        if progress.checkpoint is not None:
            checkpoints[progress.epoch + 1] = progress.checkpoint
        adapter = progress.adapter
        yield progress
    assert adapter is not None
    adapter = rounded(adapter, dtype)
    metadata = adapter.metadata.changed(
        command=command or train_command(task.name, settings),
        versions=versions(),
        data_fingerprint=fingerprint(task),
        rows={
            "train": min(settings.rows, len(task.train)),
            "validation": min(settings.validation_rows, len(task.validation)),
            "test": min(test_rows or len(task.test), len(task.test)),
        },
        test_accuracy=test_accuracies(model, tokenizer, task, adapter, settings.rows, limit=test_rows),
    )
    replace(adapter, metadata=metadata).save(folder, dtype=dtype)
    for epoch, checkpoint in checkpoints.items():
        checkpoint.save(folder / f"epoch-{epoch}", dtype=dtype)


def test_accuracies(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    adapter: Adapter,
    rows: int,
    split: str = "test",
    limit: int | None = None,
) -> dict[str, float]:
    """Return accuracies on a split: adapter, base (under the adapter's head), probe (the same training rows; none of an
    encoder-decoder)."""
    own = own_head(adapter)
    if own is None:
        raise MergeError(f"{adapter.name} brings no head to classify with, so it cannot be evaluated on its task.")
    subjects: dict[str, tuple[Adapter | None, Any]] = {"adapter": (adapter, own), "base": (None, own)}
    if not bare(model).config.is_encoder_decoder:  # type: ignore[union-attr]
        subjects["probe"] = (None, probe(model, tokenizer, task, TrainingSettings(rows=rows)))
    test = encode_task(tokenizer, task, split, limit)
    return {
        name: [e.accuracy for e in evaluate(model, tokenizer, subject, [test], heads={task.name: head})][-1]
        for name, (subject, head) in subjects.items()
    }


def train_pool(
    model: nn.Module, tokenizer: Any, spec: PoolSpec, root: Path, report: Callable[[str, Progress], None]
) -> list[Path]:
    """Train every adapter of a pool that is not there yet; returns the folders made."""
    made = []
    features = collect_for_osrm(model, tokenizer, spec.tasks, spec.training) if spec.training.init == "osrm" else None
    for name in spec.tasks:
        folder = root / spec.name / name
        if (folder / METADATA_FILE).exists():
            continue
        task, own = Task.load(name), spec.settings(name)
        head = default_verbaliser(name, task.description, task.labels) if spec.words else None
        command = train_command(name, own, spec.base, spec.words)
        for progress in train_task(
            model, tokenizer, task, own, folder, spec.tasks, features, command, head, spec.test_rows, spec.dtype
        ):
            if progress.adapter is None:
                report(f"{spec.name}/{name}", progress)
        made.append(folder)
    return made


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers depend on."""
    names = ("mergescope", "torch", "transformers", "peft", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def settings_of(metadata: AdapterMetadata) -> TrainingSettings:
    """Return the settings recorded in an adapter's metadata."""
    stored = metadata.training or asdict(TrainingSettings())
    # files from before heads could start from scratch; words have no head
    stored |= {"head": stored.get("head", "scratch" if metadata.verbaliser else "probe")} | {
        name: tuple(stored.get(name, ())) for name in ("modules", "checkpoints")
    }
    return TrainingSettings(**stored)
