"""Each of DO-Merging's figures in one line: what the paper claims, what was measured here, and whether it was
reproduced.

The body of the paper could not be read: claims marked second-hand come from reviews and re-implementations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...evaluation.intervals import difference
from ...methods import METHODS
from ..sweep import ALONE
from .full import FULL
from .results import LAMBDAS, Results, at_column, one_scaled, spearman
from .untrained import NOBODY

REPRODUCED, PARTLY, NOT, OPEN = "reproduced", "partly reproduced", "not reproduced", "not measured yet"
STRONG = 0.5
"""Rank correlations below this, in size, count as none."""
STABLE = -0.02
"""Loss of average accuracy up to which single tasks count as stable."""
SHARE = 0.75
"""Share of cases that must agree where a claim is about "other methods" in general."""
SECOND_HAND = " (second-hand)"


@dataclass(frozen=True)
class Verdict:
    """What became of one claim.

    Attributes
    ----------
    figure : a key of `FIGURES`
    claim : in our words
    measured : one sentence of numbers; "" while there are none
    outcome : REPRODUCED, PARTLY, NOT or OPEN
    """

    figure: str
    claim: str
    measured: str = ""
    outcome: str = OPEN

    @property
    def line(self) -> str:
        """The verdict as one line of text."""
        return f"Claim: {self.claim} Measured: {self.measured} {self.outcome.capitalize()}." if self.measured else (
            f"Claim: {self.claim} {OPEN.capitalize()}."
        )  # fmt: skip


FIGURES: dict[str, tuple[str, str]] = {
    "1a": (
        "Methods on LoRA and on full fine-tunes",
        f"methods that merge full fine-tunes well lose more on LoRA adapters{SECOND_HAND}.",
    ),
    "1b": (
        "Magnitude variance, LoRA and full",
        "LoRA adapters of different tasks differ much more in magnitude than full fine-tunes do.",
    ),
    "1c": ("Magnitude variance and merged accuracy", "the larger the variance of magnitudes, the worse the merge."),
    "3a": (
        "Single tasks during the orthogonal descent",
        f"the adapters themselves stay as accurate as they were{SECOND_HAND}.",
    ),
    "3b": ("Orthogonality and merged accuracy", f"the more orthogonal the updates, the better the merge{SECOND_HAND}."),
    "4a": ("Components in front of other methods", f"each component improves other merging methods too{SECOND_HAND}."),
    "4b": (
        "Directions made non-orthogonal",
        f"making directions less orthogonal on purpose hurts the merge{SECOND_HAND}.",
    ),
    "4c": ("LoRA ranks", f"DO-Merging is ahead at every LoRA rank{SECOND_HAND}."),
    "5": ("Fully fine-tuned models", f"DO-Merging helps on full fine-tunes as well{SECOND_HAND}."),
    "epochs": (
        "Epochs before the merge",
        "longer training raises single-task accuracy and lowers the merge's (arXiv 2506.14126; not a figure of "
        "DO-Merging).",
    ),
}
"""{figure: (title, the claim)}."""


def verdict(figure: str, results: Results, pool: str = "default") -> Verdict:
    """Return what became of the claim of one figure, from whatever tables there are.

    Parameters
    ----------
    pool : the LoRA side of figures 1a, 1b and 4c
    """
    measured, agree = _JUDGES[figure](results, pool)
    return Verdict(figure, FIGURES[figure][1], measured, outcome(agree) if measured else OPEN)


def outcome(agree: Sequence[bool], share: float = 1.0) -> str:
    """Return REPRODUCED if (that share of) the cases agree, PARTLY if some do, else NOT."""
    if not agree:
        return OPEN
    mean = float(np.mean([*agree]))
    return REPRODUCED if mean >= share else PARTLY if mean > 0 else NOT


Judged = tuple[str, list[bool]]


def _methods(results: Results, pool: str) -> Judged:
    frame = at_column(results.methods(), "best")
    words, agree = [], []
    for method in dict.fromkeys(frame.method):
        lora, full = (frame[(frame["set"] == name) & (frame.method == method)] for name in (pool, FULL))
        if method == "do_merging" or lora.empty or full.empty:
            continue
        a, b = lora.iloc[0], full.iloc[0]
        agree.append(_clearly_above(b, a))
        words.append(f"{METHODS[method].title} {share(a.gap)} on LoRA, {share(b.gap)} on full")
    return (f"gap recovered at the best λ: {'; '.join(words)}." if words else "", agree)


def share(gap: float) -> str:
    """Return a gap recovered as people read it; "no gap" where the adapters alone are not clearly better than the
    base."""
    return "no gap" if math.isnan(gap) else f"{gap:.0%}"


def _clearly_above(high: pd.Series, low: pd.Series) -> bool:
    # different adapters on the same rows: their intervals are combined as if independent, which is on the safe side
    half = math.hypot(high.gap - high.gap_low, low.gap_high - low.gap)
    return bool(high.gap - low.gap > half)


def _variance(results: Results, pool: str) -> Judged:
    table = results.table("variance")
    if table.empty or not {pool, FULL} <= set(table.source):
        return "", []
    lora, full = (table[table.source == name].set_index("module").variance for name in (pool, FULL))
    larger = (lora > full.reindex(lora.index)).to_numpy()
    ratio = lora.mean() / full.mean()
    text = (
        f"variance over squared mean {lora.mean():.3f} for LoRA, {full.mean():.3f} for full fine-tunes ({ratio:.1f} "
        f"times; larger in {larger.sum()} of {len(larger)} modules)."
    )
    # it is a property of LoRA only if most modules carry it, and if no learning rate of the full fine-tunes has as much
    others = table[table.source.str.startswith(f"{FULL}, lr")].groupby("source").variance.mean()
    return text, [bool(ratio > 1), bool(larger.mean() >= SHARE), *(bool(lora.mean() > value) for value in others)]


def _imbalance(results: Results, pool: str) -> Judged:
    frame = results.imbalance()
    if frame.empty:
        return "", []
    frame, words, agree = one_scaled(frame), [], []
    for variant in dict.fromkeys(frame.variant):
        for column in LAMBDAS[:2]:
            mine = at_column(frame[frame.variant == variant], column)
            rho = spearman([*mine.variance], [*mine.average])
            if math.isnan(rho):
                continue
            title = "Task Arithmetic" if variant == "task_arithmetic" else variant.replace("_", " ")
            words.append(f"{title} at λ {column} ρ = {rho:+.2f} (spread {mine.average.max() - mine.average.min():.3f})")
            if variant == "task_arithmetic":
                agree.append(rho < -STRONG)
    number = len(frame[frame.scaled != NOBODY].groupby(["scaled", "factor"]))
    return (f"one adapter scaled in {number} ways: {'; '.join(words)}." if words else "", agree)


def _descent(results: Results, pool: str) -> Judged:
    frame = results.descent()
    words, agree = [], []
    for (name, penalty), mine in frame[frame.steps > 0].groupby(["pool", "penalty"], sort=False) if len(frame) else ():
        last = int(mine.steps.max())
        before = results.marks("descent", ALONE, 0.0, pool=name, steps=0)
        after = results.marks("descent", ALONE, 0.0, pool=name, penalty=float(penalty), steps=last)
        if before and after:
            change, low, high = difference(after, before)
            words.append(f"{name}, penalty {penalty:g}: {_points(change, low, high)}")
            agree.append(low > STABLE)
    text = (
        f"change of the adapters alone, in points (stable: surely less than {-100 * STABLE:g} lost): "
        f"{'; '.join(words)}."
    )
    return (text if words else "", agree)


def _orthogonality(results: Results, pool: str) -> Judged:
    frame = results.descent()
    words, agree = [], []
    merged = frame[frame.method == "task_arithmetic"] if len(frame) else frame
    for (name, penalty, scaling), mine in merged.groupby(["pool", "penalty", "scaling"], sort=False):
        rho = spearman([*mine.cosine], [*mine.average])
        if math.isnan(rho):
            continue
        ordered = mine.sort_values("cosine", ascending=False)
        change = 100 * (ordered.average.iloc[-1] - ordered.average.iloc[0])
        words.append(f"{name}, penalty {penalty:g}, λ {scaling:g}: ρ = {rho:+.2f}, {change:+.1f} points")
        agree.append(rho < -STRONG and change > 0)
    return (f"mean |cosine| against merged accuracy: {'; '.join(words)}." if words else "", agree)


def _components(results: Results, pool: str) -> Judged:
    frame = results.components()
    frame = frame[(frame.component != "none") & (frame.method != "task_arithmetic")] if len(frame) else frame
    words, agree = [], []
    for component, mine in frame.groupby("component", sort=False):
        parts = []
        for column in LAMBDAS:
            here = mine[mine["λ"] == column]
            if len(here):
                agree += [bool(gain > 0) for gain in here.gain]
                parts.append(
                    f"better in {(here.gain > 0).sum()} (clearly in {(here.low > 0).sum()}) of {len(here)} at λ "
                    f"{column}"
                )
        words.append(f"{component} {', '.join(parts)}")
    # a plus of a few rows is no improvement of every case: the general claim holds if most cases agree
    return (f"in front of other methods: {'; '.join(words)}." if words else "", _most(agree))


def _most(agree: Sequence[bool]) -> list[bool]:
    return [] if not agree else [bool(np.mean([*agree]) >= SHARE), bool(np.mean([*agree]) > 1 - SHARE)]


def _directions(results: Results, pool: str) -> Judged:
    frame = results.directions()
    words, agree = [], []
    for name, side in frame[["pool", "side"]].drop_duplicates().to_numpy() if len(frame) else ():
        ends = sorted(set(frame[(frame.pool == name) & (frame.side == side)].strength))
        own = _change(results, ALONE, 0.0, name, side, ends)
        if own is None:
            continue
        parts = []
        for scaling in (0.3, 1.0):
            change = _change(results, "task_arithmetic", scaling, name, side, ends)
            if change is not None:
                parts.append(f"{100 * change[0]:+.1f} at λ {scaling:g}")
                # what the adapters lose by themselves is no effect of the merge
                agree.append(change[2] < 0 and change[0] < own[0])
        words.append(f"{name}, {side}: merge {', '.join(parts)}; alone {100 * own[0]:+.1f}")
    return (f"points from strength 0 to the largest: {'; '.join(words)}." if words else "", agree)


def _change(
    results: Results, method: str, scaling: float, pool: str, side: str, ends: Sequence[float]
) -> tuple[float, float, float] | None:
    first, last = (
        results.marks("directions", method, scaling, pool=pool, side=side, strength=float(s))
        for s in (ends[0], ends[-1])
    )
    return difference(last, first) if first and last and len(ends) > 1 else None


def _ahead(results: Results, table: str, values: Sequence[int], name: str) -> Judged:
    words, agree = [], []
    for value in values:
        parts = []
        for column in LAMBDAS:
            ours, theirs = (
                results.at(table, method, column, rank=int(value)) for method in ("do_merging", "task_arithmetic")
            )
            if ours and theirs:
                change, low, high = difference(ours, theirs)
                parts.append(f"{_points(change, low, high)} at λ {column}")
                if column != "0.3":
                    agree.append(low > 0)
        if parts:
            words.append(f"{name} {value}: {', '.join(parts)}")
    return (f"DO-Merging less Task Arithmetic, in points: {'; '.join(words)}." if words else "", agree)


def _ranks(results: Results, pool: str) -> Judged:
    table = results.table("ranks")
    return _ahead(results, "ranks", sorted(table["rank"].unique()) if len(table) else [], "rank")


def _truncation(results: Results, pool: str) -> Judged:
    table = results.table("truncation")
    return _ahead(results, "truncation", sorted(table["rank"].unique()) if len(table) else [], "truncated to rank")


def _epochs(results: Results, pool: str) -> Judged:
    table = results.table("epochs")
    epochs = sorted(int(value) for value in table.epochs.unique()) if len(table) else []
    alone = [results.ends(f"epochs-{epoch}")[1] for epoch in (epochs[:1] + epochs[-1:])]
    if len(epochs) < 2 or not all(alone):
        return "", []
    rise = difference(alone[1], alone[0])
    words, agree = [f"alone {_points(*rise)}"], [rise[1] > 0]
    for column in LAMBDAS:
        first, last = (
            results.at("epochs", "task_arithmetic", column, epochs=epoch) for epoch in (epochs[0], epochs[-1])
        )
        if first and last:
            change = difference(last, first)
            words.append(f"Task Arithmetic at {'the best λ' if column == 'best' else f'λ {column}'} {_points(*change)}")
            agree.append(change[2] < 0)
    return f"change in points from {epochs[0]} to {epochs[-1]} epochs: {'; '.join(words)}.", agree


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


_JUDGES: dict[str, Callable[[Results, str], Judged]] = {
    "1a": _methods,
    "1b": _variance,
    "1c": _imbalance,
    "3a": _descent,
    "3b": _orthogonality,
    "4a": _components,
    "4b": _directions,
    "4c": _ranks,
    "5": _truncation,
    "epochs": _epochs,
}
