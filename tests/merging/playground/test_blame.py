"""Without j is the merge of the others, bit for bit; layers add up to the merge; loudness is the ratio of two norms."""

from __future__ import annotations

import pytest
import torch
from asked import TEXTS, pooled_adapters
from builders import dense_added, one_sentence, state, token_rows, unchanged

from merging import METHODS, MergeError, merge
from merging.diagnostics.leave_out import layer_of, merging_with
from merging.models.layers import pooled_states
from merging.playground import (
    leave_one_out,
    loudness,
    predictions,
    question_of,
    up_to_layer,
    weights_by_task,
    weights_of,
)
from merging.tasks.batches import encode


def asked():
    adapters = pooled_adapters()
    return adapters, question_of(adapters[1])


@pytest.mark.parametrize("method", ["do_merging", "ties", "emr", "dare"])
def test_leaving_one_out_is_merging_the_rest_bit_for_bit(method: str, model, tokenizer) -> None:
    adapters, question = asked()
    before = state(model)
    found = leave_one_out(model, tokenizer, TEXTS, question, adapters, merging_with(adapters, method))
    assert unchanged(model, before)
    left = [a for a in adapters if method != "emr" or a.task != question.task]
    assert list(found.left_out.unique()) == [a.name for a in left]
    for out in left:
        rest = merge([a for a in adapters if a is not out], method)
        again = predictions(model, tokenizer, TEXTS, [question], {"x": weights_by_task(rest, [question.task])})
        mine = found[found.left_out == out.name]
        assert mine.without.tolist() == again.logit.tolist()
        assert mine.probability_without.tolist() == again.probability.tolist()
    whole = predictions(
        model, tokenizer, TEXTS, [question], {"x": weights_by_task(merge(adapters, method), [question.task])}
    )
    assert found[found.left_out == left[0].name].probability.tolist() == whole.probability.tolist()


def test_the_shares_of_a_label_add_up_to_one_in_size(model, tokenizer) -> None:
    adapters, question = asked()
    found = leave_one_out(
        model, tokenizer, TEXTS, question, adapters, merging_with(adapters, "task_arithmetic", scaling=0.5)
    )
    assert found.share.abs().groupby([found.text, found.label]).sum().to_numpy() == pytest.approx(1.0)
    assert (found.share * found.effect >= 0).all()
    assert found.effect.to_numpy() == pytest.approx((found.logit - found.without).to_numpy())


def test_one_adapter_cannot_be_left_out(model, tokenizer) -> None:
    adapters = pooled_adapters(1)
    with pytest.raises(MergeError) as refused:
        leave_one_out(model, tokenizer, TEXTS, question_of(adapters[0]), adapters, merging_with(adapters, "average"))
    assert one_sentence(refused.value, "two")


@pytest.mark.parametrize("method", [name for name in METHODS if "data" not in METHODS[name].needs])
def test_layers_go_from_the_base_to_the_merge(method: str, model, tokenizer) -> None:
    adapters, question = asked()
    merged = merge(adapters, method).for_task(question.task)
    found = up_to_layer(model, tokenizer, TEXTS, question, weights_of(merged))
    assert list(found.layer.unique()) == ["base", "0", "1"]
    batch = encode(tokenizer, TEXTS, 64).batch(range(len(TEXTS)))
    for layer, modules in [
        ("base", []),
        ("0", [m for m in merged.modules if layer_of(m) == "0"]),
        ("1", merged.modules),
    ]:
        with dense_added(model, {m: merged.delta(m) for m in modules}) as whole, torch.no_grad():
            expected = question.head.logits(pooled_states(whole, batch)).softmax(1)
        mine = found[found.layer == layer].probability.to_numpy().reshape(len(TEXTS), -1)
        assert mine == pytest.approx(expected.double().numpy(), abs=1e-5)


def test_loudness_is_the_ratio_of_the_outputs_of_the_updates(model, tokenizer) -> None:
    adapters, question = asked()
    found = loudness(model, tokenizer, TEXTS[0], question, adapters)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert set(zip(found.adapter, found.module, strict=True)) == {
        (a.name, m) for a in adapters for m in adapters[1].deltas
    }
    for row in found.itertuples():
        [H] = token_rows(model, TEXTS[:1], row.module)
        by = {a.name: float((H @ a.deltas[row.module].dense().double().T).norm()) for a in adapters}
        assert row.ratio == pytest.approx(by[row.adapter] / by[adapters[1].name], rel=1e-5)
        assert row.layer == layer_of(row.module)
    assert (found[found.adapter == adapters[1].name].ratio == 1).all()


def test_loudness_needs_the_tasks_own_adapter(model, tokenizer) -> None:
    adapters, question = asked()
    with pytest.raises(MergeError) as refused:
        loudness(model, tokenizer, TEXTS[0], question, [adapters[0], adapters[2]])
    assert one_sentence(refused.value, question.task)
