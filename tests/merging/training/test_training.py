"""Fine-tuning starts where it is told to, gives the same adapter for the same seed, and hands the model back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import HIDDEN, KINDS, QUERY_AND_VALUE, distance, made_up_task, sentences, state, tiny_model, unchanged

from merging import Adapter, MergeError, Task, collect_features, evaluate
from merging.models.layers import fingerprint, target_names
from merging.osrm import osrm_init
from merging.tasks.task import Split
from merging.training.settings import TrainingSettings
from merging.training.trainer import fine_tune

SETTINGS = TrainingSettings(rank=2, epochs=2, batch_size=8, learning_rate=1e-2)
MODULES = [f"encoder.layer.{layer}.attention.self.{name}" for layer in (0, 1) for name in ("query", "value")]


def trained(model, tokenizer, task: Task, settings: TrainingSettings = SETTINGS, **options) -> Adapter:
    return list(fine_tune(model, tokenizer, task, settings, **options))[-1].adapter


def osrm_A(model, tokenizer) -> dict[str, torch.Tensor]:
    features = collect_features(model, tokenizer, {"animals": sentences(0, 9), "other": sentences(1, 9)}, 9, MODULES)
    return {module: osrm_init(features, "animals", 2, module) for module in MODULES}


# -- seeds and starts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["default", "orthonormal"])
def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(init: str, tokenizer, task) -> None:
    settings = replace(SETTINGS, init=init, epochs=1)
    first = trained(tiny_model(), tokenizer, task, settings)
    torch.manual_seed(999)  # the global generator is nobody's business
    again = trained(tiny_model(), tokenizer, task, settings)
    assert again.fingerprint == first.fingerprint
    assert all(torch.equal(again.head.tensors[key], first.head.tensors[key]) for key in ("weight", "bias"))
    assert trained(tiny_model(), tokenizer, task, replace(settings, seed=1)).fingerprint != first.fingerprint


def test_training_leaves_the_global_generator_alone(model, tokenizer, task) -> None:
    before = torch.get_rng_state()
    trained(model, tokenizer, task, replace(SETTINGS, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("init", ["default", "orthonormal", "osrm"])
def test_a_frozen_a_stays_where_it_started(init: str, model, tokenizer, task) -> None:
    A_init = osrm_A(model, tokenizer) if init == "osrm" else None
    frozen = trained(model, tokenizer, task, replace(SETTINGS, init=init, freeze_A=True), A_init=A_init)
    free = trained(model, tokenizer, task, replace(SETTINGS, init=init), A_init=A_init)
    for module in MODULES:
        A = frozen.deltas[module].A
        if init == "osrm":
            assert torch.equal(A, A_init[module])
        if init != "default":
            assert torch.allclose(A @ A.T, torch.eye(2), atol=1e-5)
        else:
            assert float(A.abs().max()) <= HIDDEN**-0.5 * (1 + 1e-6)  # Kaiming-uniform with a = sqrt(5)
        assert float(frozen.deltas[module].B.norm()) > 0
        assert distance(free.deltas[module].A, A) > 1e-3


def test_gaussian_is_pefts_own_start_bit_for_bit(model, tokenizer, task) -> None:
    from peft import LoraConfig, get_peft_model

    frozen = trained(model, tokenizer, task, replace(SETTINGS, init="gaussian", freeze_A=True, seed=5))
    torch.manual_seed(5)
    config = LoraConfig(r=2, lora_alpha=16, target_modules=["query", "value"], init_lora_weights="gaussian")
    wrapped = get_peft_model(tiny_model(), config)
    for module in MODULES:
        expected = wrapped.base_model.model.get_submodule(module).lora_A["default"].weight
        assert torch.equal(frozen.deltas[module].A, expected)


@pytest.mark.parametrize(("row_norm", "length"), [("gaussian", HIDDEN**0.5 / 2), (1.0, 1.0), (0.3, 0.3)])
@pytest.mark.parametrize("init", ["gaussian", "orthonormal", "osrm"])
def test_rows_start_at_the_length_that_is_asked_for(init, row_norm, length, model, tokenizer, task) -> None:
    settings = replace(SETTINGS, init=init, row_norm=row_norm, freeze_A=True, epochs=1)
    adapter = trained(model, tokenizer, task, settings, A_init=osrm_A(model, tokenizer) if init == "osrm" else None)
    for module in MODULES:
        torch.testing.assert_close(adapter.deltas[module].A.norm(dim=1), torch.full((2,), length), rtol=1e-6, atol=0)


def test_checkpoints_are_the_states_of_one_run(model, tokenizer, task) -> None:
    settings = replace(SETTINGS, epochs=3, checkpoints=(1, 3))
    steps = list(fine_tune(model, tokenizer, task, settings))
    found = {step.epoch + 1: step.checkpoint for step in steps if step.checkpoint is not None}
    assert set(found) == {1, 3}
    assert found[1].fingerprint != found[3].fingerprint
    assert found[1].metadata.epoch == 1
    # the run itself is the same with and without them
    assert (
        steps[-1].adapter.fingerprint == trained(model, tokenizer, task, replace(settings, checkpoints=())).fingerprint
    )


def test_a_head_from_scratch_knows_nothing_and_the_probe_does(model, tokenizer, task) -> None:
    still = replace(SETTINGS, learning_rate=0.0, epochs=1)
    scratch, probed = (trained(model, tokenizer, task, replace(still, head=head)).head for head in ("scratch", "probe"))
    assert float(scratch.tensors["weight"].std()) == pytest.approx(0.02, rel=0.3)
    assert not scratch.tensors["bias"].any()
    assert torch.equal(scratch.tensors["weight"], trained(model, tokenizer, task, still).head.tensors["weight"])
    assert distance(probed.tensors["weight"], scratch.tensors["weight"]) > 0.5
    with pytest.raises(MergeError, match="scratch, probe"):
        trained(model, tokenizer, task, replace(still, head="magic"))


def test_the_size_of_an_update_is_told_in_shares_of_the_base(model, tokenizer, task) -> None:
    adapter = trained(model, tokenizer, task)
    for module in MODULES:
        base = float(model.get_submodule(module).weight.norm())
        assert adapter.metadata.relative_norms[module] == pytest.approx(adapter.deltas[module].norm() / base, rel=1e-5)


def test_modules_start_apart_from_each_other(model, tokenizer, task) -> None:
    adapter = trained(model, tokenizer, task, replace(SETTINGS, init="orthonormal", freeze_A=True))
    assert distance(adapter.deltas[MODULES[0]].A, adapter.deltas[MODULES[1]].A) > 0.1


def test_an_unknown_start_or_a_missing_a_is_refused(model, tokenizer, task) -> None:
    with pytest.raises(MergeError, match="magic"):
        trained(model, tokenizer, task, replace(SETTINGS, init="magic"))
    partial = osrm_A(model, tokenizer)
    del partial[MODULES[2]]
    with pytest.raises(MergeError, match=r"layer\.1\.attention\.self\.query"):
        trained(model, tokenizer, task, replace(SETTINGS, init="osrm"), A_init=partial)
    with pytest.raises(MergeError, match=str(HIDDEN)):
        trained(model, tokenizer, task, replace(SETTINGS, init="orthonormal", rank=HIDDEN + 1))
    with pytest.raises(MergeError, match="nothing"):
        trained(model, tokenizer, task, replace(SETTINGS, modules=("nothing",)))


def test_an_a_of_another_shape_is_refused(model, tokenizer, task) -> None:
    before = state(model)
    wrong = {module: A[:1] for module, A in osrm_A(model, tokenizer).items()}
    with pytest.raises(MergeError, match="rank"):
        trained(model, tokenizer, task, replace(SETTINGS, init="osrm"), A_init=wrong)
    assert unchanged(model, before)


def test_training_rows_that_lack_a_class_are_refused(model, tokenizer) -> None:
    three = made_up_task(classes=3, rows=90)
    two = [row for row, label in enumerate(three.train.labels) if label < 2]
    train = Split(tuple(three.train.texts[row] for row in two), tuple(three.train.labels[row] for row in two))
    with pytest.raises(MergeError, match=three.labels[2]):
        trained(model, tokenizer, replace(three, train=train), replace(SETTINGS, epochs=1))


def test_few_training_rows_hold_every_class_all_the_same(model, tokenizer) -> None:
    three = made_up_task(classes=3, rows=90)
    first_two = next(n for n in range(2, 20) if len(set(three.train.labels[:n])) == 2)
    adapter = trained(model, tokenizer, three, replace(SETTINGS, epochs=1, rows=first_two))
    assert adapter.head.tensors["bias"].shape == (3,)


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_closing_the_generator_hands_the_model_back(steps: int, model, tokenizer, task) -> None:
    before, kinds = state(model), [type(module) for module in model.modules()]
    run = fine_tune(model, tokenizer, task, SETTINGS)
    for _ in range(steps):
        next(run)
    run.close()
    assert unchanged(model, before)
    assert [type(module) for module in model.modules()] == kinds


def test_an_exception_hands_the_model_back(model, tokenizer, task) -> None:
    before = state(model)
    run = fine_tune(model, tokenizer, task, SETTINGS)
    next(run)
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())
    assert unchanged(model, before)


def test_the_base_is_the_same_afterwards(model, tokenizer, task) -> None:
    before, mark = state(model), fingerprint(model)
    adapter = trained(model, tokenizer, task)
    assert unchanged(model, before)
    assert fingerprint(model) == mark == adapter.base_fingerprint
    assert not model.training


# -- the result --------------------------------------------------------------------------------------------------------


def test_progress_counts_every_step_and_the_adapter_comes_last(model, tokenizer, task) -> None:
    progress = list(fine_tune(model, tokenizer, task, SETTINGS))
    steps = SETTINGS.epochs * -(-len(task.train) // SETTINGS.batch_size)
    assert [p.step for p in progress if p.validation is None] == list(range(1, steps + 1))
    assert {p.steps for p in progress} == {steps}
    assert [p.adapter is not None for p in progress] == [False] * (len(progress) - 1) + [True]
    assert sum(p.validation is not None for p in progress[:-1]) == SETTINGS.epochs
    assert progress[-1].validation == max(p.validation for p in progress[:-1] if p.validation is not None)


def test_training_lowers_the_loss(model, tokenizer, task) -> None:
    losses = [p.loss for p in fine_tune(model, tokenizer, task, replace(SETTINGS, epochs=6)) if p.validation is None]
    epoch = len(losses) // 6
    assert sum(losses[-epoch:]) < 0.9 * sum(losses[:epoch])


def test_the_adapter_has_the_accuracy_that_training_reported(model, tokenizer, task) -> None:
    *_, last = fine_tune(model, tokenizer, task, SETTINGS)
    *_, estimate = evaluate(model, tokenizer, last.adapter, [task], split="validation", limit=None)
    assert estimate.accuracy == pytest.approx(last.validation)
    assert last.adapter.metadata.validation_accuracy == last.validation


def test_the_adapter_says_what_it_is_and_survives_saving(model, tokenizer, task, tmp_path) -> None:
    adapter = trained(model, tokenizer, task)
    assert (adapter.name, adapter.task, adapter.base) == ("animals", "animals", "tiny-bert")
    assert sorted(adapter.deltas) == sorted(MODULES)
    assert {update.rank for update in adapter.deltas.values()} == {2}
    assert adapter.head.labels == task.labels
    again = Adapter.load(adapter.save(tmp_path / "animals"))
    assert again.fingerprint == adapter.fingerprint
    assert again.base_fingerprint == fingerprint(model)
    *_, first = evaluate(model, tokenizer, adapter, [task])
    *_, second = evaluate(model, tokenizer, again, [task])
    assert second == first


def test_alpha_scales_the_update(model, tokenizer, task) -> None:
    # a frozen A and one step: the gradient of B grows with alpha, Adam's step does not, the folded B does
    one = replace(SETTINGS, epochs=1, freeze_A=True, batch_size=64, warmup=0.0, alpha=2.0, head="probe")
    small, large = trained(model, tokenizer, task, one), trained(model, tokenizer, task, replace(one, alpha=8.0))
    for module in MODULES:
        assert distance(large.deltas[module].B, 4.0 * small.deltas[module].B) < 1e-2


def test_targets_are_found_by_their_last_name(model) -> None:
    assert target_names(model, ("query", "value")) == MODULES
    assert all(name.endswith("dense") for name in target_names(model, ("dense",)))


# -- architectures, precision, memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_trains_its_query_and_value_projections(kind: str, tokenizer, task) -> None:
    model = tiny_model(kind)
    before = state(model)
    adapter = trained(model, tokenizer, task, replace(SETTINGS, modules=(), epochs=1))
    assert {module.rsplit(".", 1)[-1] for module in adapter.deltas} == set(QUERY_AND_VALUE[kind])
    assert unchanged(model, before)
    assert all(update.norm() > 0 for update in adapter.deltas.values())
    assert adapter.base_fingerprint == fingerprint(model)
    [*_, alone] = evaluate(model, tokenizer, adapter, [task], split="validation")
    assert alone.accuracy == adapter.metadata.validation_accuracy


@pytest.mark.parametrize("options", [{"checkpointing": True}, {"bf16": True}])
def test_recomputing_changes_nothing_and_bfloat16_little(options: dict, tokenizer, task) -> None:
    settings = replace(SETTINGS, epochs=1)
    plain, other = (trained(tiny_model(), tokenizer, task, s) for s in (settings, replace(settings, **options)))
    apart = max(distance(other.deltas[m].dense(), plain.deltas[m].dense()) for m in MODULES)
    assert apart < (1e-5 if "checkpointing" in options else 0.3)
    assert (apart == 0) == (other.fingerprint == plain.fingerprint)


def test_texts_are_cut_at_the_shorter_of_both_limits(model, tokenizer, task) -> None:
    short = trained(model, tokenizer, task, replace(SETTINGS, epochs=1, max_length=4))
    assert short.fingerprint != trained(model, tokenizer, task, replace(SETTINGS, epochs=1)).fingerprint
    longer = trained(model, tokenizer, task, replace(SETTINGS, epochs=1, max_length=10_000))
    assert longer.fingerprint == trained(model, tokenizer, task, replace(SETTINGS, epochs=1)).fingerprint


# -- drift -------------------------------------------------------------------------------------------------------------


def test_a_frozen_a_does_not_drift_and_a_free_one_does(model, tokenizer, task) -> None:
    settings = replace(SETTINGS, init="orthonormal")
    frozen = trained(model, tokenizer, task, replace(settings, freeze_A=True)).metadata.drift
    free = trained(model, tokenizer, task, settings).metadata.drift
    assert frozen.frobenius == 0.0
    assert frozen.procrustes == pytest.approx(0.0, abs=1e-6)
    assert 0.0 < free.procrustes <= free.frobenius


def test_drift_is_reported_after_every_epoch(model, tokenizer, task) -> None:
    epochs = [p for p in fine_tune(model, tokenizer, task, SETTINGS) if p.validation is not None and p.adapter is None]
    assert len(epochs) == SETTINGS.epochs
    assert all(progress.drift[0] > 0 for progress in epochs)
    assert epochs[-1].left == 0.0 < epochs[0].left


def test_a_long_list_of_modules_reaches_these_and_no_other(model, tokenizer, task) -> None:
    # query, key, value and three dense layers in two layers: PEFT would shorten the list to suffixes
    names = ("query", "key", "value", "dense")
    adapter = trained(model, tokenizer, task, replace(SETTINGS, modules=names, epochs=1))
    assert len(adapter.deltas) == 12
    assert list(adapter.deltas) == sorted(target_names(model, names))
    assert not any(module.startswith("pooler") for module in adapter.deltas)
