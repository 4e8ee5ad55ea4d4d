"""Each method against PEFT and against its dense float64 form, in one run: `python tests/benchmarks/methods.py`.

Prints a Markdown table of milliseconds per module: ours, PEFT's combination type of the same name where there is one,
the literal dense form, and how many times slower the others are. Medians of repeated runs; random factors; nothing is
asserted.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from merging import METHODS, Adapter, LowRank, merge
from merging.plugins.orthogonalize import descend

MODULE = "layer"
SIZES = ((384, 8, 6), (1024, 8, 6), (4096, 16, 8))
PEFT_TYPES = {
    "task_arithmetic": "cat",
    "svd": "svd",
    "ties": "ties_svd",
    "dare": "dare_linear_svd",
    "dare_ties": "dare_ties_svd",
    "do_merging": "cat",
    "peft_linear": "linear",
    "peft_ties": "ties",
}
LIMIT = 20.0
"""Seconds after which a peer is not repeated."""


def pool(width: int, rank: int, count: int) -> list[Adapter]:
    """Return adapters with one square module and independent normal factors."""
    adapters = []
    for i in range(count):
        g = torch.Generator().manual_seed(i)
        factors = LowRank(torch.randn(width, rank, generator=g) * 0.02, torch.randn(rank, width, generator=g) * 0.02)
        adapters.append(Adapter(f"a{i}", {MODULE: factors}, base="x"))
    return adapters


def peft_model(adapters: list[Adapter]) -> nn.Module:
    """Return a PEFT model with one linear layer that holds the same adapters."""
    width, rank = adapters[0].deltas[MODULE].shape[0], adapters[0].deltas[MODULE].rank
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=[MODULE])
    model = get_peft_model(nn.ModuleDict({MODULE: nn.Linear(width, width, bias=False)}), config, adapter_name="a0")
    for adapter in adapters:
        if adapter.name != "a0":
            model.add_adapter(adapter.name, config)
        layer = model.base_model.model[MODULE]
        layer.lora_A[adapter.name].weight.data.copy_(adapter.deltas[MODULE].A)
        layer.lora_B[adapter.name].weight.data.copy_(adapter.deltas[MODULE].B)
    return model


def dense_form(method: str) -> Callable[[list[Tensor]], Tensor] | None:
    """Return the literal dense float64 algorithm of a method that decomposes; None for the others."""

    def svd(parts: list[Tensor]) -> Tensor:
        return torch.linalg.svd(sum(parts), full_matrices=False).U  # type: ignore[call-overload]

    def knots(parts: list[Tensor]) -> Tensor:
        return torch.linalg.svd(torch.cat(parts, dim=1), full_matrices=False).U

    def core(parts: list[Tensor]) -> Tensor:
        left = torch.linalg.svd(torch.cat(parts, dim=1), full_matrices=False).U
        right = torch.linalg.svd(torch.cat(parts), full_matrices=False).Vh
        return torch.stack([left.T @ part @ right.T for part in parts]).sum(0)

    def tsv(parts: list[Tensor]) -> Tensor:
        return torch.cat([torch.linalg.svd(part, full_matrices=False).U for part in parts], dim=1)

    return {"svd": svd, "iso_c": svd, "knots": knots, "core_space": core, "tsv": tsv}.get(method)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of ``work`` after one warm-up, fewer repeats where it is slow."""
    times = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
        if i == 0 and times[0] > LIMIT / repeats:
            return 1000 * times[0]
    return 1000 * statistics.median(times[1:])


def row(
    method: str, adapters: list[Adapter], peer: nn.Module, repeats: int, slow: bool, plugins: dict[str, str]
) -> str:
    """Return one line of the table."""
    ours = milliseconds(lambda: merge(adapters, method, **plugins).result(MODULE), repeats)
    cells = [f"{ours:.1f}"]
    kind = PEFT_TYPES.get(method)
    width = adapters[0].deltas[MODULE].shape[0]

    def combine() -> None:
        if "merged" in peer.peft_config:
            peer.delete_adapter("merged")
        options = {"density": METHODS[method].check({})["density"]} if "ties" in kind or "dare" in kind else {}
        peer.add_weighted_adapter(
            [a.name for a in adapters], [1.0] * len(adapters), "merged", combination_type=kind, **options
        )

    if kind and (slow or width <= 1024 or "svd" not in kind):
        theirs = milliseconds(combine, repeats)
        cells.append(f"{theirs:.1f} ({theirs / ours:.1f}x)")
    else:
        cells.append("")
    literal = dense_form(method)
    if literal and (slow or width <= 1024):
        parts = [a.deltas[MODULE].B.double() @ a.deltas[MODULE].A.double() for a in adapters]
        theirs = milliseconds(lambda: literal(parts), repeats)
        cells.append(f"{theirs:.0f} ({theirs / ours:.0f}x)")
    else:
        cells.append("")
    name = f"{method}, {', '.join(f'{key} {value}' for key, value in plugins.items())}" if plugins else method
    return f"| {name} | {' | '.join(cells)} |"


def adam(V0: Tensor, ranks: list[int], g: float, steps: int = 100) -> Tensor:
    """Minimise the orthogonalization loss in full space as the re-implementations do: Adam, 100 steps."""
    owner = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
    cross = owner[:, None] != owner[None, :]
    delta = torch.zeros_like(V0, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=0.01 * float(V0.square().mean().sqrt()))
    for _ in range(steps):
        V = V0 + delta
        loss = ((V @ V.T * cross) ** 2).sum() + g * (delta**2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (V0 + delta).detach()


def orthogonalize_line(width: int, rank: int, count: int) -> str:
    """Compare our descent on small matrices with full-space Adam on one stack: time and loss."""
    ranks = [rank] * count
    parts = [
        torch.randn(rank, width, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(count)
    ]
    shared = torch.randn(rank, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    V0 = torch.cat([part + shared for part in parts])
    V0 = torch.cat([part / part.norm() for part in V0.split(rank)])
    owner = torch.repeat_interleave(torch.arange(count), rank)
    cross = owner[:, None] != owner[None, :]

    def loss(V: Tensor) -> float:
        return float(((V @ V.T * cross) ** 2).sum() + 0.1 * ((V - V0) ** 2).sum())

    def ours() -> Tensor:
        return descend((V0 @ V0.T)[None], ranks, 0.1, 500)[0] @ V0

    mine, theirs = milliseconds(ours, 3), milliseconds(lambda: adam(V0.float(), ranks, 0.1), 3)
    return (
        f"orthogonalize, {count} adapters, r {rank}, width {width}: {mine:.0f} ms (loss {loss(ours()):.5f}); "
        f"100 full-space Adam steps {theirs:.0f} ms (loss {loss(adam(V0.float(), ranks, 0.1).double()):.5f}): "
        f"{theirs / mine:.1f}x"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slow", action="store_true", help="also the dense SVDs at width 4096 (many minutes)")
    parser.add_argument("--widths", type=int, nargs="*", default=[size[0] for size in SIZES])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for width, rank, count in SIZES:
        if width not in options.widths:
            continue
        adapters = pool(width, rank, count)
        peer = peft_model(adapters)
        print(
            f"\n{width} x {width}, rank {rank}, {count} adapters, milliseconds a module, {torch.get_num_threads()} "
            "threads\n"
        )
        print("| method | Mergescope | PEFT | dense float64 SVD |\n|---|---|---|---|")
        for method, spec in METHODS.items():
            if not spec.needs:
                print(row(method, adapters, peer, options.repeats, options.slow, {}), flush=True)
        print(row("do_merging", adapters, peer, options.repeats, options.slow, {"orthogonalize": "off"}), flush=True)
    print("\n" + orthogonalize_line(4096, 16, 8))


if __name__ == "__main__":
    main()
