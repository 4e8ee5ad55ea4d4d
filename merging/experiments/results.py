"""The numbers of README.md and assets/results.md, written between their markers from the tables that ship.

``<!-- pools -->`` .. ``<!-- /pools -->`` holds what `BLOCKS` makes for that name; everything else in the two files is
prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..evaluation.intervals import Recovered, average, gap_recovered
from ..shipped import POOLS, SHIPPED
from .correlations import markdown_bank
from .do_pieces.markdown import markdown_do
from .load_test import markdown_load
from .sweep import ALONE, BASE, CONTENDERS, best_scalings, marks_of, read_table
from .tables import markdown_adapters, markdown_osrm, markdown_results


def refreshed(text: str, tables: Path) -> str:
    """Return a file's text with every marked block made anew from the tables in a folder."""
    for name, block in BLOCKS.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if marked.search(text):
            made = block(tables).strip()
            text = marked.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)  # type: ignore[misc]
    return text


class Measured:
    """What the shipped tables say of one pool, for sentences."""

    def __init__(self, pool: str, tables: Path) -> None:
        self.test = read_table(tables / f"test_{pool}.csv")
        self.best = best_scalings(read_table(tables / f"sweep_{pool}.csv")) if len(self.test) else {}
        self.rows = int(self.test[~self.test.method.isin([BASE, ALONE])].total.max()) if self.best else 0

    def marks(self, method: str, scaling: float | None = None) -> dict[str, object]:
        """Return the marks of a method at a scaling, or at its best; of base and adapters alone on the same rows."""
        if method in (BASE, ALONE):
            return dict(marks_of(self.test, method, rows=self.rows))
        at = (self.best[method] if CONTENDERS[method].scaled else 1.0) if scaling is None else scaling
        return dict(marks_of(self.test, method, at))

    def percent(self, method: str, scaling: float | None = None) -> str:
        """Return the average accuracy in percent."""
        return f"{100 * average(self.marks(method, scaling))[0]:.1f} %"  # type: ignore[arg-type]

    def gap(self, method: str, scaling: float | None = None) -> Recovered:
        """Return the gap recovered."""
        return gap_recovered(self.marks(BASE), self.marks(ALONE), self.marks(method, scaling))  # type: ignore[arg-type]

    def ranked(self, needs: frozenset[str]) -> list[str]:
        """Return the methods that need just this, by the gap that they recover at their best scaling, most first."""
        known = [name for name in self.best if CONTENDERS[name].needs == needs and self.marks(name)]
        return sorted(known, key=lambda name: -self.gap(name).mean)


def share(value: float) -> str:
    """Return a share in percent."""
    return f"{100 * value:.0f} %"


def findings(tables: Path) -> str:
    """Return the README's findings, a paragraph each; one whose tables are missing is left out."""
    papers, osrm, default, easy = (Measured(pool, tables) for pool in ("papers", "osrm", "default", "easy"))
    parts = []
    if papers.best:
        lead = papers.percent("do_merging", 1.0)
        parts.append(
            "**Adding adapters up can be worse than not using them.** On the pool `papers` (gaussian A from one seed, "
            "heads trained with the adapter, as in both papers) the base with the tasks' heads answers "
            f"{papers.percent(BASE)} and each adapter alone {papers.percent(ALONE)}. Their plain sum at λ = 1 answers "
            f"{papers.percent('task_arithmetic', 1.0)}; DO-Merging, from the same files, {lead}. With λ tuned on "
            f"validation the sum reaches {papers.percent('task_arithmetic')} and DO-Merging "
            f"{papers.percent('do_merging')}: {share(papers.gap('task_arithmetic').mean)} and "
            f"{share(papers.gap('do_merging').mean)} of the gap."
        )
    if papers.best and osrm.best:
        pairs = [(f"at λ = {at:g}", at) for at in (0.3, 1.0)] + [("at each one's best λ", None)]
        said = "; ".join(
            f"{osrm.percent('task_arithmetic', at)} instead of {papers.percent('task_arithmetic', at)} {where}"
            for where, at in pairs
        )
        parts.append(
            "**OSRM's start merges better than OSRM's own baseline.** The plain sum of the pool `osrm` answers "
            f"{said}. How much of that is the size of the baseline's A, how much its shared seed and how much the data "
            "is what `mergescope experiment osrm` measures ([results](assets/results.md))."
        )
    if default.best:
        free, texts = default.ranked(frozenset()), default.ranked(frozenset({"data"}))
        best_free, best_texts = free[0], texts[0] if texts else ""
        said = (
            "**What helps most, on adapters as strangers make them** (`default`): the plain sum recovers "
            f"{share(default.gap('task_arithmetic').mean)} of the gap, the best method that needs nothing but the "
            f"adapters ({CONTENDERS[best_free].title}) {share(default.gap(best_free).mean)}"
        )
        if best_texts:
            said += (
                f", the best with 100 unlabelled texts a task ({CONTENDERS[best_texts].title}) "
                f"{share(default.gap(best_texts).mean)}"
            )
        if "do_merging" in easy.best:
            said += (
                f". Where heads already work on the bare base (`easy`: {easy.percent(BASE)} of {easy.percent(ALONE)}) "
                f"there is little to carry: the plain sum answers {easy.percent('task_arithmetic')}, DO-Merging "
                f"{easy.percent('do_merging')}"
            )
        parts.append(f"{said}.")
    return "\n\n".join(parts)


def adapters(tables: Path) -> str:
    """Return the table of the shipped adapters alone, of the pools on the encoder, and of those on the language
    model."""
    from ..shipped import load_pool  # noqa: PLC0415 - reads files

    encoder = [pool for pool in POOLS if load_pool(pool)]
    words = [pool for pool in SHIPPED if pool not in POOLS and load_pool(pool)]
    return "\n\n".join(markdown_adapters(pools) for pools in (encoder, words) if pools)


BLOCKS: dict[str, Callable[[Path], str]] = {
    "findings": findings,
    "pools": markdown_results,
    "adapters": adapters,
    "osrm": markdown_osrm,
    "do": markdown_do,
    "bank": markdown_bank,
    "load": markdown_load,
}
"""{marker: what stands there}."""
