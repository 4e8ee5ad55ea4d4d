"""A full fine-tune moves the weights and nothing else, says how far, and hands the base back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import KINDS, QUERY_AND_VALUE, random_adapter, state, tiny_gpt2, tiny_model, unchanged

from merging import Adapter, LowRank, MergeError, Task, evaluate
from merging.diagnostics.measures import column_norms, magnitude_variance
from merging.experiments.do_pieces.full import QUANTILES, column_quantiles, variance_rows
from merging.models.layers import fingerprint, linear_layers
from merging.training.full import full_fine_tune
from merging.training.settings import TrainingSettings
from merging.training.trainer import fine_tune

SETTINGS = TrainingSettings(epochs=3, batch_size=8, learning_rate=3e-3)
MODULES = [f"encoder.layer.{layer}.attention.self.{name}" for layer in (0, 1) for name in ("query", "value")]


def trained(model, tokenizer, task: Task, settings: TrainingSettings = SETTINGS, **options) -> Adapter:
    return list(full_fine_tune(model, tokenizer, task, settings, **options))[-1].adapter


def weights(model) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in linear_layers(model, MODULES).items()}


# -- what is trained ---------------------------------------------------------------------------------------------------


def test_the_update_is_the_change_of_the_weights_in_the_best_epoch(model, tokenizer, task) -> None:
    start, ends = weights(model), []
    for progress in full_fine_tune(model, tokenizer, task, SETTINGS):
        if progress.validation is not None and progress.adapter is None:
            ends.append((progress.validation, weights(model)))
    found = {module: update.dense() for module, update in progress.adapter.deltas.items()}
    assert list(found) == sorted(MODULES)
    assert all(found[module].norm() > 0 for module in MODULES)
    assert progress.validation == max(accuracy for accuracy, _ in ends)
    best = [end for accuracy, end in ends if accuracy == progress.validation]  # of equal ones the loss decides
    assert any(all(torch.equal(found[m], end[m] - start[m]) for m in MODULES) for end in best)


def test_nothing_but_the_target_weights_moves_while_it_trains(model, tokenizer, task) -> None:
    before = state(model)
    run = full_fine_tune(model, tokenizer, task, SETTINGS)
    for _ in range(5):
        next(run)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    run.close()
    assert moved == {f"{module}.weight" for module in MODULES}


def test_the_columns_of_a_full_update_are_those_of_the_dense_matrix(model, tokenizer, task) -> None:
    adapter = trained(model, tokenizer, task, replace(SETTINGS, epochs=1))
    norms = column_norms([adapter])
    for module, update in adapter.deltas.items():
        expected = torch.linalg.vector_norm(update.B.double(), dim=0).numpy()
        assert norms[norms.module == module].norm.to_numpy() == pytest.approx(expected, rel=1e-9)


def test_the_update_has_the_accuracy_that_training_reported(model, tokenizer, task, tmp_path) -> None:
    *_, last = full_fine_tune(model, tokenizer, task, SETTINGS)
    again = Adapter.load(last.adapter.save(tmp_path / "full"))
    for adapter in (last.adapter, again):
        *_, estimate = evaluate(model, tokenizer, adapter, [task], split="validation", limit=None)
        assert estimate.accuracy == pytest.approx(last.validation)
    assert again.metadata.full
    assert again.metadata.drift is None
    assert all(torch.equal(again.deltas[m].dense(), last.adapter.deltas[m].dense()) for m in MODULES)


def test_it_learns(model, tokenizer, task) -> None:
    losses = [
        p.loss for p in full_fine_tune(model, tokenizer, task, replace(SETTINGS, epochs=20)) if p.validation is None
    ]
    epoch = len(losses) // 20
    assert sum(losses[-epoch:]) < 0.9 * sum(losses[:epoch])


def test_the_first_step_sees_what_a_lora_sees(model, tokenizer, task) -> None:
    # B = 0 and W = W_0: the same start, the same first rows, the same head, so the same loss
    first, lora = (next(run(model, tokenizer, task, SETTINGS)) for run in (full_fine_tune, fine_tune))
    assert first.loss == pytest.approx(lora.loss, rel=1e-6)
    assert (first.step, first.steps) == (lora.step, lora.steps)


def test_the_same_seed_gives_the_same_update_and_another_seed_another(tokenizer, task) -> None:
    settings = replace(SETTINGS, epochs=1)
    first = trained(tiny_model(), tokenizer, task, settings)
    torch.manual_seed(999)  # the global generator is nobody's business
    again = trained(tiny_model(), tokenizer, task, settings)
    assert again.fingerprint == first.fingerprint
    assert all(torch.equal(again.head.tensors[key], first.head.tensors[key]) for key in ("weight", "bias"))
    assert trained(tiny_model(), tokenizer, task, replace(settings, seed=1)).fingerprint != first.fingerprint


def test_what_concerns_loras_factors_has_no_effect(model, tokenizer, task) -> None:
    settings = replace(SETTINGS, epochs=1)
    other = replace(settings, init="orthonormal", rank=3, alpha=1.0, freeze_A=True)
    assert trained(model, tokenizer, task, other).fingerprint == trained(model, tokenizer, task, settings).fingerprint


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize("frozen", [True, False])
def test_closing_the_generator_hands_the_model_back(steps: int, frozen: bool, model, tokenizer, task) -> None:
    model.requires_grad_(not frozen)
    before = state(model)
    run = full_fine_tune(model, tokenizer, task, SETTINGS)
    for _ in range(steps):
        next(run)
    assert not unchanged(model, before)
    run.close()
    assert unchanged(model, before)
    assert {p.requires_grad for p in model.parameters()} == {not frozen}
    assert all(p.grad is None for p in model.parameters())


def test_an_exception_hands_the_model_back(model, tokenizer, task) -> None:
    before = state(model)
    run = full_fine_tune(model, tokenizer, task, SETTINGS)
    next(run)
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())
    assert unchanged(model, before)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_trains_its_query_and_value_weights(kind: str, tokenizer, task) -> None:
    model = tiny_model(kind)
    before, mark = state(model), fingerprint(model)
    adapter = trained(model, tokenizer, task, replace(SETTINGS, modules=(), epochs=1))
    assert {module.rsplit(".", 1)[-1] for module in adapter.deltas} == set(QUERY_AND_VALUE[kind])
    assert unchanged(model, before)
    assert adapter.base_fingerprint == mark
    [*_, alone] = evaluate(model, tokenizer, adapter, [task], split="validation")
    assert alone.accuracy == adapter.metadata.validation_accuracy


def test_a_layer_that_stores_its_weight_transposed_gives_its_update_the_usual_way_round(tokenizer, task) -> None:
    model = tiny_gpt2()
    adapter = trained(model, tokenizer, task, replace(SETTINGS, modules=("c_attn",), epochs=1))
    [update] = adapter.deltas.values()
    assert update.shape == (96, 32)
    [*_, alone] = evaluate(model, tokenizer, adapter, [task], split="validation")
    assert alone.accuracy == adapter.metadata.validation_accuracy


def test_stopping_early_keeps_the_best_so_far(model, tokenizer, task) -> None:
    before, steps = state(model), []
    *_, last = full_fine_tune(model, tokenizer, task, SETTINGS, stop=lambda: bool(steps.append(1)) or len(steps) >= 3)
    assert last.adapter.metadata.steps.done == 3
    assert unchanged(model, before)


def test_weights_that_would_round_small_steps_away_are_refused(tokenizer, task) -> None:
    model = tiny_model().to(torch.bfloat16)
    with pytest.raises(MergeError, match="float32"):
        trained(model, tokenizer, task)


# -- the tables --------------------------------------------------------------------------------------------------------


def test_quantiles_are_those_of_the_dense_columns_without_the_dead_ones() -> None:
    adapter = random_adapter(0, 3)
    module = next(iter(adapter.deltas))
    update = adapter.deltas[module]
    A = update.A.clone()
    A[:, :4] = 0.0
    table = column_quantiles([replace(adapter, deltas=adapter.deltas | {module: LowRank(update.B, A)})])
    mine = table[table.module == module]
    norms = torch.linalg.vector_norm((update.B.double() @ A.double())[:, 4:], dim=0).log10().numpy()
    assert mine["quantile"].tolist() == list(QUANTILES)
    assert mine.log10_norm.to_numpy() == pytest.approx(np.quantile(norms, QUANTILES), abs=2e-6)
    assert set(table.task) == {"task-0"}


def test_decoupled_adapters_have_no_variance_left() -> None:
    pool = [random_adapter(i, 4, scale=10.0**i) for i in range(3)]
    table = variance_rows("mine", pool, decoupled=True)
    assert table[table.source == "mine"].variance.min() > 0.5
    assert table[table.source == "mine, decoupled"].variance.max() < 1e-9
    assert table[table.source == "mine, decoupled"].norm_ratio.to_numpy() == pytest.approx(1.0)
    expected = magnitude_variance(pool).variance.to_numpy()
    assert table[table.source == "mine"].variance.to_numpy() == pytest.approx(expected, rel=1e-5)
