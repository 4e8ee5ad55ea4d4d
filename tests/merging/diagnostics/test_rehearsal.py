"""A dry run says what the merge then does: the same modules, or the same refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    MODULES,
    QUERY,
    peft_folder,
    random_adapter,
    random_update,
    tiny_classifier,
    tiny_model,
)
from safetensors.torch import load_file

from merging import Adapter, Head, MergeError, MergeSpec, merge_spec
from merging.diagnostics.rehearsal import KEPT, LEFT_OUT, MERGED, REFUSED, TAKEN, dry_run
from merging.export.full_model import save_full_model

NAMES = tuple(MODULES)
HEAD = Head("pooled", {"weight": torch.ones(2, 32), "bias": torch.zeros(2)}, ("a", "b"))
SPEC = MergeSpec.of("task_arithmetic", {"scaling": 0.5})


def on(folder: Path) -> str:
    tiny_model().save_pretrained(folder)
    return str(folder)


Pool = Callable[[Path], list[Adapter]]
CASES: dict[str, tuple[Pool, MergeSpec, dict[str, Any]]] = {
    "all have all": (lambda _: [random_adapter(i) for i in range(3)], SPEC, {}),
    "one lacks a module": (lambda _: [random_adapter(0), random_adapter(1, modules=NAMES[1:])], SPEC, {}),
    "dense without a rank": (lambda _: [random_adapter(i) for i in range(2)], MergeSpec.of("ties"), {}),
    "dense with a rank": (lambda _: [random_adapter(i) for i in range(2)], MergeSpec.of("ties"), {"rank": 4}),
    "rank 0": (lambda _: [random_adapter(0)], SPEC, {"rank": 0}),
    "a shape of another model": (
        lambda _: [random_adapter(0), replace(random_adapter(1), deltas={QUERY: random_update(0, 8, 8, 2)})],
        SPEC,
        {},
    ),
    "another base": (lambda _: [random_adapter(0), replace(random_adapter(1), base="llama")], SPEC, {}),
    "nothing in common": (
        lambda _: [random_adapter(0, modules=NAMES[:1]), random_adapter(1, modules=NAMES[1:])],
        SPEC,
        {},
    ),
    "two prefixes": (lambda _: [random_adapter(0), replace(random_adapter(1), prefix="bert.")], SPEC, {}),
    "a prefix chosen": (
        lambda _: [random_adapter(0), replace(random_adapter(1), prefix="bert.")],
        SPEC,
        {"prefix": "bert."},
    ),
    "a merge per task": (lambda _: [random_adapter(0)], MergeSpec.of("emr"), {"rank": 4}),
    "no such head": (lambda _: [random_adapter(0)], SPEC, {"head": "other"}),
    "a head": (lambda _: [replace(random_adapter(i), head=HEAD) for i in range(2)], SPEC, {"head": "task-1"}),
    "unequal ranks": (lambda _: [random_adapter(0, 2), random_adapter(1, 4)], MergeSpec.of("peft_linear"), {}),
    "equal ranks": (lambda _: [random_adapter(0), random_adapter(1)], MergeSpec.of("peft_linear"), {}),
    "a name that the base lacks": (
        lambda folder: [replace(random_adapter(0), deltas={"odd": random_update(0, 8, 8, 2)}, base=on(folder))],
        SPEC,
        {},
    ),
    "two weights for one": (lambda _: [random_adapter(0)], replace(SPEC, weights=(1.0, 2.0)), {}),
    "no updates": (lambda _: [replace(random_adapter(0), deltas={})], SPEC, {}),
    "trained whole, no base": (
        lambda _: [replace(random_adapter(i), trained={"embeddings.norm.weight": torch.ones(32)}) for i in range(2)],
        SPEC,
        {},
    ),
    "trained whole, the only one": (
        lambda _: [replace(random_adapter(0), trained={"embeddings.norm.weight": torch.ones(32)})],
        MergeSpec.of("task_arithmetic", {"scaling": 1.0}),
        {},
    ),
    "trained whole, one's taken": (
        lambda _: [replace(random_adapter(i), trained={"embeddings.norm.weight": torch.ones(32)}) for i in range(2)],
        SPEC,
        {"head": "task-0"},
    ),
}


@pytest.mark.parametrize(("pool", "spec", "options"), CASES.values(), ids=CASES)
def test_what_is_refused_is_what_the_merge_refuses(
    pool: Pool, spec: MergeSpec, options: dict[str, Any], tmp_path: Path
) -> None:
    adapters = pool(tmp_path / "base")
    rows = dry_run(adapters, spec, **options)
    refused = rows[rows.what == REFUSED]
    try:
        merged = merge_spec(adapters, spec)
        merged = merged.for_task(options["head"]) if "task_id" in merged.needs and "head" in options else merged
        merged.save(tmp_path / "out", **options)
    except MergeError as error:
        assert len(refused) or not len(rows)
        if "one result per task" not in str(error) and "builds dense" not in str(error):
            assert str(error) in set(refused.why) or not len(rows)
        return
    assert not len(refused)
    assert all(rows.why[rows.what == MERGED] == "")
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    written = {key.removeprefix("base_model.model.").rpartition(".lora_A")[0] for key in found if "lora_A" in key}
    prefix = options.get("prefix", "")
    assert written == {prefix + module for module in rows.module[rows.kind.isin(["low-rank", "dense"])]}


def test_rows_name_who_has_a_module_and_who_counts_as_zero() -> None:
    rows = dry_run([random_adapter(0), random_adapter(1, modules=NAMES[1:])], SPEC).set_index("module")
    assert (rows.merged_from[QUERY], rows.zero_in[QUERY]) == ("task-0", "task-1")
    assert (rows.merged_from[NAMES[1]], rows.zero_in[NAMES[1]]) == ("task-0, task-1", "")
    assert rows["shape"][NAMES[2]] == "64x32"
    assert set(rows.kind) == {"low-rank"}
    assert set(dry_run([random_adapter(0)], MergeSpec.of("ties"), rank=2).kind) == {"dense"}


def test_heads_and_parts_say_whose_they_are() -> None:
    part = {"embeddings.norm.weight": torch.ones(32)}
    pool = [replace(random_adapter(0), head=HEAD), replace(random_adapter(1), head=HEAD, trained=part)]
    rows = dry_run(pool, SPEC, head="task-0").set_index("module")
    assert [rows.what[f"head of task-{i}"] for i in range(2)] == [TAKEN, LEFT_OUT]
    assert rows.what["embeddings.norm.weight"] == REFUSED
    owners = [random_adapter(0), replace(random_adapter(1), trained=part), replace(random_adapter(2), trained=part)]
    rows = dry_run(owners, SPEC, head="task-2").set_index("module")
    assert (rows.what["embeddings.norm.weight"], rows.merged_from["embeddings.norm.weight"]) == (TAKEN, "task-2")
    with pytest.raises(MergeError, match="head"):
        merge_spec(owners, SPEC).save("nowhere", head="task-0")
    assert KEPT not in set(rows.what)


def full_pool(tmp_path: Path) -> list[Adapter]:
    tiny_classifier().save_pretrained(tmp_path / "base")
    for i in range(2):
        peft_folder(tmp_path / f"task-{i}", tiny_model(), seed=i, modules_to_save=["embeddings.LayerNorm"])
    return [Adapter.load(tmp_path / f"task-{i}") for i in range(2)]


def test_a_full_model_is_held_against_its_base(tmp_path: Path) -> None:
    pool = full_pool(tmp_path)
    rows = dry_run(pool, SPEC, base=str(tmp_path / "base"), full_model=True)
    assert set(rows.what) == {MERGED}
    assert set(rows.kind) == {"low-rank", "trained whole"}
    save_full_model(merge_spec(pool, SPEC), tmp_path / "base", tmp_path / "out")
    strange = [replace(a, deltas=dict(a.deltas) | {"odd": random_update(0, 8, 8, 2)}) for a in pool]
    rows = dry_run(strange, SPEC, base=str(tmp_path / "base"), full_model=True).set_index("module")
    assert list(rows.index[rows.what == REFUSED]) == ["odd"]
    with pytest.raises(MergeError) as refusal:
        save_full_model(merge_spec(strange, SPEC), tmp_path / "base", tmp_path / "no")
    assert rows.why["odd"] == str(refusal.value)


def test_nothing_is_merged_and_nothing_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pool = full_pool(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    spec = MergeSpec.of("do_merging")
    monkeypatch.setattr("merging.engine.plugged", lambda *_: pytest.fail("a plug-in ran"))
    assert len(dry_run(pool, spec, base=str(tmp_path / "base"), full_model=True))
    assert sorted(path for path in tmp_path.rglob("*")) == before
    with pytest.raises(MergeError, match="No adapters"):
        dry_run([], spec)
