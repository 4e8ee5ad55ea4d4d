"""What the DO-Merging experiment runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...shipped import POOLS, TRAINING
from ...tasks.task import DEFAULT_TASKS
from ...training.settings import TrainingSettings
from ..sweep import SCALINGS

HOSTS = ("average", "task_arithmetic", "ties", "dare", "knots", "tsv", "regmean")


@dataclass(frozen=True)
class Plan:
    """The choices; the defaults are the shipped experiment, in about 2.5 hours of a core.

    Attributes
    ----------
    tasks : of every set of adapters; a pool that lacks one is left out and named
    shipped : pools compared in magnitude and imbalance (1b, 1c), as far as they are there
    pools : on which the pieces without training are measured, out of those
    validation_rows, test_rows : per task; validation only chooses λ out of ``scalings``
    penalties, steps : of the orthogonal descent (figures 3a, 3b)
    imbalance_pool, imbalance_tasks, factors : one of these adapters at a time is scaled by each factor (1c)
    hosts : pool -> the methods that the components are put in front of (4a)
    strengths, sides : of directions turned towards each other (4b)
    methods : compared on LoRA and on full fine-tunes (1a)
    lora_pool : the LoRA side of that comparison; its settings but the learning rate are the full fine-tunes'
    rates, choice_rows, choice_validation : the full fine-tunes' learning rate is the best on validation after so few
        rows
    do_rank : DO-Merging takes full fine-tunes truncated to this rank: eight full matrices cannot be orthogonal to each
        other
    truncations : ranks of figure 5
    epochs, checkpoints : one run a task, merged as it is after each checkpoint
    ranks : of figure 4c; ``training.rank`` is the pool's
    training : see `merging.shipped.TRAINING`
    """

    tasks: tuple[str, ...] = DEFAULT_TASKS
    shipped: tuple[str, ...] = tuple(POOLS)
    pools: tuple[str, ...] = ("papers", "default")
    validation_rows: int = 100
    test_rows: int = 200
    scalings: tuple[float, ...] = SCALINGS
    penalties: tuple[float, ...] = (0.1, 1.0)
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 50, 500)
    imbalance_pool: str = "default"
    imbalance_tasks: tuple[str, ...] = ("trec", "movie", "bbc")
    factors: tuple[float, ...] = (0.25, 0.5, 2.0, 4.0)
    hosts: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"papers": HOSTS, "default": ("task_arithmetic", "ties", "tsv")}
    )
    strengths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    sides: tuple[str, ...] = ("A", "B")
    methods: tuple[str, ...] = ("task_arithmetic", "ties", "knots", "tsv", "do_merging")
    lora_pool: str = "default"
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    choice_rows: int = 400
    choice_validation: int = 150
    do_rank: int = 32
    truncations: tuple[int, ...] = (4, 8, 16, 32)
    epochs: int = 6
    checkpoints: tuple[int, ...] = (1, 2, 3, 6)
    ranks: tuple[int, ...] = (2, 4, 8, 16, 32)
    training: TrainingSettings = TRAINING


QUICK = Plan(
    tasks=("sms_spam", "movie"),
    shipped=("default",),
    pools=("default",),
    validation_rows=8,
    test_rows=8,
    scalings=(0.3, 1.0),
    penalties=(0.1,),
    steps=(0, 50),
    imbalance_tasks=("movie",),
    factors=(4.0,),
    hosts={"default": ("average", "task_arithmetic")},
    strengths=(0.0, 1.0),
    sides=("B",),
    methods=("task_arithmetic", "do_merging"),
    rates=(1e-4, 1e-3),
    choice_rows=16,
    choice_validation=8,
    do_rank=8,
    truncations=(4,),
    epochs=2,
    checkpoints=(1, 2),
    ranks=(2,),
    training=replace(TRAINING, epochs=1, rows=16, validation_rows=8, max_length=16),
)
"""The same from end to end in a minute: for tests, not for conclusions."""
