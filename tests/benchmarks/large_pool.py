"""A pool with Llama-3-8B's shapes: load, merge, save against plain safetensors; `python
tests/benchmarks/large_pool.py`.

Random factors for q, k, v, o of 32 layers, rank 16, 8 adapters (436 MB). Each step runs in its own process, so that its
peak memory is its own. Nothing is asserted; the goals are in the README.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {"q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096)}
LAYERS, RANK, COUNT = 32, 16, 8


def make(root: Path) -> None:
    """Write the pool."""
    import torch

    from merging import Adapter, LowRank

    for i in range(COUNT):
        g = torch.Generator().manual_seed(i)
        deltas = {
            f"layers.{layer}.self_attn.{name}": LowRank(
                torch.randn(out, RANK, generator=g) * 0.02, torch.randn(RANK, inn, generator=g) * 0.02
            )
            for layer in range(LAYERS)
            for name, (out, inn) in SHAPES.items()
        }
        Adapter(f"a{i}", deltas, base="meta-llama/Meta-Llama-3-8B").save(root / f"a{i}")


def plain(root: Path) -> None:
    """Read all files and write as many bytes, with safetensors alone."""
    from safetensors.torch import load_file, save_file

    tensors = {
        f"{i}.{k}": t for i in range(COUNT) for k, t in load_file(root / f"a{i}" / "adapter_model.safetensors").items()
    }
    save_file(tensors, root / "plain.safetensors")


def load_merge_save(root: Path, method: str) -> None:
    """Load, merge and save with Mergescope."""
    from merging import Adapter, merge

    adapters = [Adapter.load(root / f"a{i}") for i in range(COUNT)]
    merge(adapters, method, **({"decouple": 0.0, "orthogonalize": "off"})).save(root / "merged")


def stream(root: Path, method: str, modules: int) -> None:
    """Stream the first dense results of a full-space method."""
    from merging import Adapter, Cancelled, merge

    adapters = [Adapter.load(root / f"a{i}") for i in range(COUNT)]

    def stop(name: str, delta: object, done: int, total: int) -> None:
        if done == modules:
            raise Cancelled("enough for a benchmark")

    try:
        merge(adapters, method, on_module=stop)
    except Cancelled:
        return


def child(root: Path, step: str) -> dict[str, float]:
    """Run one step in its own process; return seconds without imports and peak memory in MB."""
    command = [sys.executable, __file__, "--root", str(root), "--step", step]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Run all steps and print them, or one step for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--step")
    options = parser.parse_args()
    if options.step:
        import peft  # noqa: F401 - imports are not what is measured

        import merging.recipes.card  # noqa: F401

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start = time.perf_counter()
        name, *rest = options.step.split(":")
        {"make": make, "plain": plain, "merge": load_merge_save, "stream": stream, "nothing": lambda root: None}[name](
            options.root, *[int(x) if x.isdigit() else x for x in rest]
        )
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak": peak - before}))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        child(root, "make")
        size = sum(path.stat().st_size for path in root.glob("*/adapter_model.safetensors")) / 2**20
        print(f"pool: {size:.0f} MB")
        child(root, "plain")  # fills the page cache, for both sides
        base = child(root, "plain")
        print(f"plain safetensors read + write: {base['seconds']:.2f} s, peak {base['peak']:.0f} MB")
        for method in ("task_arithmetic", "do_merging"):
            ours = child(root, f"merge:{method}")
            ratio, memory = ours["seconds"] / base["seconds"], ours["peak"] / size
            print(
                f"load, merge ({method}), save: {ours['seconds']:.2f} s ({ratio:.1f}x), peak {ours['peak']:.0f} MB "
                f"({memory:.1f}x the pool)"
            )
        for method in ("ties", "dare"):
            ours = child(root, f"stream:{method}:4")
            dense = 4096 * 4096 * 4 / 2**20
            extra = (ours["peak"] - size) / dense
            print(
                f"{method}, 4 modules streamed: {ours['seconds']:.1f} s, peak pool + {extra:.1f} dense float32 "
                "modules of 4096 x 4096"
            )


if __name__ == "__main__":
    main()
