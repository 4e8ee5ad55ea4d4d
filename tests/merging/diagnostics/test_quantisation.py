"""What 4 and 8 bits leave of an update: against the definition, written out entry by entry in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from builders import MODULES, gaussian, one_sentence, peft_folder, quick, random_update, tiny_gpt2, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from merging import Adapter, LowRank, MergeError, merge
from merging.diagnostics import quantisation as q


def nf4_by_hand(weight: np.ndarray) -> np.ndarray:
    """Return the value of the nearest level for every entry, block by block."""
    flat, levels = weight.reshape(-1), np.array(q.NF4_LEVELS)
    out = np.zeros_like(flat)
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        scale = np.abs(block).max() or 1.0
        nearest = np.abs(block[:, None] / scale - levels[None]).argmin(1)
        out[start : start + 64] = levels[nearest] * scale
    return out.reshape(weight.shape)


def int8_by_hand(weight: np.ndarray) -> np.ndarray:
    step = np.abs(weight).max(1, keepdims=True) / 127
    return np.round(weight / np.where(step, step, 1)) * step


BY_HAND = {"nf4": nf4_by_hand, "int8": int8_by_hand}


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize("shape", [(3, 5), (64, 64), (70, 33), (1, 200)])
def test_values_are_the_nearest_of_each_format(kind: str, shape: tuple[int, int]) -> None:
    weight = gaussian(1, *shape).float()
    weight[0] = 0  # a row, and with it a block, of zeros
    codes, values = q.FORMATS[kind](weight)
    assert np.allclose(values.numpy(), BY_HAND[kind](weight.double().numpy()), atol=1e-6)
    assert codes.shape == weight.shape
    assert float(values[0].abs().max()) == 0


@quick
@given(st.integers(0, 99), st.sampled_from(sorted(BY_HAND)), st.sampled_from([1e-4, 1e-2, 1.0]), st.integers(1, 100))
def test_the_loss_is_its_definition_however_many_rows_are_looked_at(seed, kind, scale, at_once) -> None:
    W0, update = gaussian(seed, 150, 40).float(), random_update(seed, 150, 40, 3) * scale
    before, dW = W0.double().numpy(), update.dense().double().numpy()
    arrives = BY_HAND[kind]((W0 + update.dense()).double().numpy()) - BY_HAND[kind](before)
    kept = q.ENTRIES_AT_ONCE
    q.ENTRIES_AT_ONCE = at_once * 40 * 64
    try:
        found = q.loss(W0, update, kind)
    finally:
        q.ENTRIES_AT_ONCE = kept
    assert found.error == pytest.approx(np.linalg.norm(arrives - dW) / np.linalg.norm(dW), rel=1e-3)
    assert 0 <= found.unchanged <= 1


def test_large_updates_survive_and_small_ones_drown_sooner_in_fewer_bits() -> None:
    W0, update = gaussian(0, 128, 64).float(), random_update(5, 128, 64, 4)
    errors = {s: {kind: q.loss(W0, update * s, kind) for kind in q.FORMATS} for s in (1e-3, 1e-1, 10.0)}
    for kind in q.FORMATS:
        assert errors[1e-3][kind].error > errors[1e-1][kind].error > errors[10.0][kind].error
        assert errors[1e-3][kind].unchanged > errors[10.0][kind].unchanged
    assert all(one["int8"].error < one["nf4"].error for one in errors.values())
    assert q.loss(W0, LowRank.zero((128, 64)), "nf4") == q.Loss(0.0, 1.0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_merge_has_a_row_per_module_and_a_dense_one_the_same(base: Path, pool: list[Adapter]) -> None:
    merged = merge(pool, "task_arithmetic", scaling=0.5)
    rows = q.quantisation(merged, base).set_index("module")
    assert list(rows.index) == merged.modules
    weights = dict(tiny_model().named_modules())
    for module in merged.modules:
        W0, delta = weights[module].weight, merged.delta(module)
        assert rows["size"][module] == pytest.approx(float(delta.norm() / W0.norm()), rel=1e-4)
        assert rows["nf4_error"][module] == pytest.approx(q.loss(W0, delta, "nf4").error, rel=1e-3)
    assert len(q.quantisation(pool[0], base)) == len(pool[0].deltas)


def test_weights_that_lie_transposed_are_turned(tmp_path: Path) -> None:
    model = tiny_gpt2()
    model.save_pretrained(tmp_path / "base")
    peft_folder(tmp_path / "a", model, r=2, target_modules=["c_proj"], fan_in_fan_out=True)
    adapter = Adapter.load(tmp_path / "a")
    rows = q.quantisation(adapter, tmp_path / "base").set_index("module")
    for module, update in adapter.deltas.items():
        W0 = model.get_submodule(module).weight.T
        assert rows["int8_error"][module] == pytest.approx(q.loss(W0, update, "int8").error, rel=1e-4)


def test_advice_follows_the_numbers() -> None:
    def rows(nf4: float, int8: float):
        return q.pd.DataFrame([("m", 0.01, nf4, 0.9, int8, 0.5)], columns=q.COLUMNS)

    four, eight = q.advice(rows(3.0, 0.05))
    assert "keep the adapter apart" in four
    assert "survives" in eight
    assert "re-tune" in q.advice(rows(0.5, 0.05))[0]
    assert q.advice(rows(1.0, 1.0).iloc[:0]) == []


def test_another_base_is_refused(base: Path) -> None:
    strange = Adapter("strange", {"blocks.0": random_update(0, *next(iter(MODULES.values())), 2)})
    with pytest.raises(MergeError) as refusal:
        q.quantisation(strange, base)
    assert one_sentence(refusal.value, "blocks.0")
    assert torch.is_grad_enabled()
