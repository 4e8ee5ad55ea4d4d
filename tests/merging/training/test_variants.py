"""The ways to start A are what their names say, and differ in one thing at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import HIDDEN, sentences, tiny_model, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from torch import Tensor

from merging import MergeError
from merging.features.reading import collect_features
from merging.models.layers import target_names
from merging.shipped import DEFAULT_TASKS, POOLS, TRAINING
from merging.training.lora import osrm_start, starting_A
from merging.training.settings import TrainingSettings
from merging.training.variants import VARIANTS

RANK = 4
LENGTH = HIDDEN**0.5 / RANK


def start(variant: str, place: int = 0, repetition: int = 0) -> dict[str, Tensor]:
    """Return {module: A} that an arm starts from on the tiny encoder."""
    model = tiny_model()
    training = TrainingSettings(rank=RANK, k=5)
    settings = VARIANTS[variant].settings(training, place, repetition)
    modules = target_names(model, settings.modules)
    texts = {f"task-{i}": sentences(i, 5) for i in range(4)}
    features = collect_features(model, tiny_tokenizer(), texts, k=5, modules=modules)
    return starting_A(model, settings, osrm_start(features, f"task-{place}", settings, modules))


@pytest.mark.parametrize("seed", [0, 3])
def test_gaussian_is_pefts_own_init_bit_for_bit(seed: int) -> None:
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, target_modules=["query", "value"], init_lora_weights="gaussian")
    peft = {name: p for name, p in get_peft_model(tiny_model(), config).named_parameters() if "lora_A" in name}
    ours = starting_A(tiny_model(), TrainingSettings(init="gaussian", rank=RANK, seed=seed))
    assert len(ours) == len(peft)
    for name, A in ours.items():
        [theirs] = [p for key, p in peft.items() if f".{name}." in key]
        assert torch.equal(A, theirs)


@pytest.mark.parametrize("variant", ["orthonormal_scaled", "osrm_scaled"])
def test_scaled_arms_have_gaussians_length_in_every_row_and_the_same_subspace(variant: str) -> None:
    scaled, plain = start(variant), start({"orthonormal_scaled": "orthonormal_own", "osrm_scaled": "osrm"}[variant])
    for name, A in scaled.items():
        torch.testing.assert_close(A.norm(dim=1), torch.full((RANK,), LENGTH), atol=1e-6, rtol=0)
        torch.testing.assert_close(plain[name].norm(dim=1), torch.ones(RANK), atol=1e-5, rtol=0)
        torch.testing.assert_close(A, LENGTH * plain[name], atol=1e-5, rtol=0)
    random = torch.cat([A.norm(dim=1) for A in start("gaussian_own").values()])
    assert random.mean() == pytest.approx(LENGTH, rel=0.1)


def test_a_shared_seed_gives_every_task_one_a_and_own_seeds_do_not() -> None:
    for variant, same in (
        ("gaussian_shared", True),
        ("gaussian_own", False),
        ("orthonormal_own", False),
        ("osrm", False),
    ):
        first, second = start(variant, 0), start(variant, 1)
        assert all(torch.equal(first[name], second[name]) for name in first) == same, variant


def test_the_first_repetition_of_the_arms_with_a_pool_has_its_very_settings() -> None:
    for variant in VARIANTS.values():
        for place, task in enumerate(DEFAULT_TASKS if variant.pool else ()):
            assert variant.settings(TRAINING, place, 0) == POOLS[variant.pool].settings(task)
            assert variant.settings(TRAINING, place, 1) != POOLS[variant.pool].settings(task)
    assert [v.pool for v in VARIANTS.values() if v.pool] == ["papers", "default", "osrm"]


def test_seeds_of_repetitions_never_meet() -> None:
    own = {VARIANTS["osrm"].seed(place, repetition) for place in range(len(DEFAULT_TASKS)) for repetition in range(10)}
    assert len(own) == 10 * len(DEFAULT_TASKS)
    assert {VARIANTS["gaussian_shared"].seed(place, 2) for place in range(8)} == {200}


def test_reading_where_a_starts_leaves_the_model_as_it_was() -> None:
    model = tiny_model()
    names = [name for name, _ in model.named_modules()]
    starting_A(model, TrainingSettings(rank=RANK))
    assert [name for name, _ in model.named_modules()] == names
    with pytest.raises(MergeError, match="row_norm"):
        starting_A(model, replace(TrainingSettings(rank=RANK), row_norm=0.0))
    assert [name for name, _ in model.named_modules()] == names
