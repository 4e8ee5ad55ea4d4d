"""What the tables of the OSRM experiment say: averages and gap recovered per arm, what each change brings, and the
answer in a sentence.

Intervals (95 %) are bootstrapped over the test rows of each task and over the repetitions that there are
(`merging.evaluation.intervals`). With one repetition they hold the test rows only; with two to four they still say too
little about another training.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation.intervals import Interval, Marks, average, difference, gap_recovered
from ..training.variants import BASELINE
from .ledger import Ledger
from .sweep import ALONE, BASE, CONTENDERS, FIXED, best_scalings, unpack

AT = (*(f"λ {scaling:g}" for scaling in FIXED), "best λ")
"""Where a method is tested; one without a scaling, the base and the adapters alone stand under the last."""
BEST = AT[-1]

OWN, ROWS, SCALE, DATA = (
    "own A: a seed for each task instead of one (gaussian)",
    "orthonormal rows instead of gaussian ones of that length",
    "scale: rows of length 1 instead of gaussian's (orthonormal)",
    "data: OSRM's subspace instead of a random one (length 1)",
)
LONG_DATA = "data: OSRM's subspace instead of a random one (gaussian's length)"
STEPS = {
    OWN: ("gaussian_own", BASELINE),
    ROWS: ("orthonormal_scaled", "gaussian_own"),
    SCALE: ("orthonormal_own", "orthonormal_scaled"),
    DATA: ("osrm", "orthonormal_own"),
}
"""The way from OSRM's baseline to OSRM, one change at a time: the four add up to the whole."""
EFFECTS = STEPS | {
    "scale: rows of length 1 instead of gaussian's (OSRM)": ("osrm", "osrm_scaled"),
    LONG_DATA: ("osrm_scaled", "orthonormal_scaled"),
    "PEFT's default instead of gaussian (own seeds): shorter rows": ("default_own", "gaussian_own"),
    "OSRM against its own baseline (gaussian, one seed)": ("osrm", BASELINE),
    "OSRM as released against that baseline": ("osrm_official", BASELINE),
    "OSRM as released instead of a random subspace (length 1)": ("osrm_official", "orthonormal_own"),
}
"""What is compared with what, (variant, reference): each line changes one thing, but for those against the baseline."""
ORDER = ("axis", "value", "variant", "method", "at")

Repetitions = dict[int, dict[str, Any]]
"""{repetition: {task: marks (rows,)}}"""
Cells = dict[tuple[str, float, str], dict[tuple[str, str], Repetitions]]
"""{(axis, value, variant): {(method, at): marks}}"""


def summarise(ledger: Ledger) -> None:
    """Write ``summary`` (averages, gap recovered), ``effects`` (paired differences of averages) and ``answers`` from
    the tables on disk.
    """
    cells = tested(ledger)
    ledger.replace("summary", pd.DataFrame(_summary(cells), columns=[*ORDER, "n", *_BOUNDS]))
    columns = ["effect", "variant", "reference", "method", "at", "n", "difference", "low", "high"]
    ledger.replace("effects", pd.DataFrame(_effects(cells), columns=columns))
    said = [
        (method, _answer(cells, method)) for method in dict.fromkeys(m for places in cells.values() for m, _ in places)
    ]
    ledger.replace("answers", pd.DataFrame([one for one in said if one[1]], columns=["method", "answer"]))


def tested(ledger: Ledger) -> Cells:
    """Return the marks of every set of adapters on test, by method and where it is tested; what lacks a task is left
    out.

    Along an axis the arms themselves stand at their own value, in the first repetition, as everything on an axis.
    """
    table = ledger.table("test")
    if table.empty:
        return {}
    cells: Cells = defaultdict(lambda: defaultdict(dict))
    whole = table[table.axis == "arm"].task.nunique()
    best = _best(ledger.table("sweep"))
    groups = table.groupby(["axis", "value", "variant", "repetition", "method", "scaling"], sort=False)
    for (axis, value, variant, repetition, method, scaling), rows in groups:
        if len(rows) == (value if axis == "tasks" else whole):
            # in one order: draws of the bootstrap depend on it, and processes append in any
            marks = {row.task: unpack(row.hits, row.total) for row in rows.sort_values("task").itertuples()}
            for at in _places(method, scaling, best.get((axis, value, variant, repetition, method))):
                cells[axis, value, variant][method, at][int(repetition)] = marks
    for axis, value, variant in [key for key in cells if key[0] == "tasks"]:
        # fewer tasks are the arm's own adapters: what they lie between is the arm's, of these tasks
        [tasks, *_] = (
            set(marks) for repetitions in cells[axis, value, variant].values() for marks in repetitions.values()
        )
        for end in ((BASE, BEST), (ALONE, BEST)):
            arm = cells.get(("arm", 0.0, variant), {}).get(end, {})
            ends = {r: {task: marks[task] for task in marks if task in tasks} for r, marks in arm.items() if r == 0}
            cells[axis, value, variant][end] = ends
    for axis, value, variant in _homes(ledger):
        for place, repetitions in cells.get(("arm", 0.0, variant), {}).items():
            if 0 in repetitions:
                cells[axis, value, variant][place] = {0: repetitions[0]}
    return cells


def _best(sweep: pd.DataFrame) -> dict[tuple[Any, ...], float]:
    if sweep.empty:
        return {}
    groups = sweep.groupby(["axis", "value", "variant", "repetition"], sort=False)
    return {(*key, method): best for key, rows in groups for method, best in best_scalings(rows).items()}


def _places(method: str, scaling: float, best: float | None) -> Iterator[str]:
    if method in (BASE, ALONE) or not CONTENDERS[method].scaled:
        yield BEST
        return
    yield from (at for at, fixed in zip(AT, FIXED, strict=False) if np.isclose(scaling, fixed))
    if best is not None and np.isclose(scaling, best):
        yield BEST


def _homes(ledger: Ledger) -> list[tuple[str, float, str]]:
    """Return where on the measured axes the arms themselves are: (axis, value, variant)."""
    runs, sets = ledger.table("runs"), ledger.table("test")[["axis", "variant"]].drop_duplicates()
    homes: list[tuple[str, float, str]] = []
    if runs.empty:
        return homes
    for axis, variant in sets[~sets.axis.isin(["arm", "epochs"])].itertuples(index=False):
        arm = runs[(runs.axis == "arm") & (runs.variant == variant) & (runs.repetition == 0)]
        if len(arm):
            settings = json.loads(arm.settings.iloc[0])
            homes.append((axis, float(len(arm) if axis == "tasks" else settings[axis]), variant))
    return homes


_BOUNDS = ["average", "low", "high", "gap", "gap_low", "gap_high"]


def _summary(cells: Cells) -> Iterator[tuple[Any, ...]]:
    for (axis, value, variant), places in cells.items():
        for (method, at), repetitions in places.items():
            if not repetitions:
                continue
            kept = _shared(repetitions, *(places.get((name, BEST), {}) for name in (BASE, ALONE)))
            gap: Interval = (np.nan, np.nan, np.nan)
            if kept and method not in (BASE, ALONE):
                base, alone = (_stack(places[name, BEST], kept) for name in (BASE, ALONE))
                recovered = gap_recovered(base, alone, _stack(repetitions, kept))
                gap = (recovered.mean, recovered.low, recovered.high)
            yield axis, value, variant, method, at, len(repetitions), *average(_stack(repetitions)), *gap


def _effects(cells: Cells) -> Iterator[tuple[Any, ...]]:
    for effect, (variant, reference) in EFFECTS.items():
        one, other = (cells.get(("arm", 0.0, name), {}) for name in (variant, reference))
        for method, at in one:
            kept = _shared(one[method, at], other.get((method, at), {}))
            if kept and method != BASE:
                found = difference(_stack(one[method, at], kept), _stack(other[method, at], kept))
                yield effect, variant, reference, method, at, len(kept), *found


def answer(ledger: Ledger, method: str = "task_arithmetic") -> str:
    """Say in one sentence how much of what OSRM gains over its own baseline is an own A, scale and data, at the best λ
    and at λ = 1.
    """
    said = _answer(tested(ledger), method)
    return (
        said
        or "Not measured yet: the answer needs a whole repetition of five arms, which `mergescope experiment osrm` "
        "trains."
    )


def _answer(cells: Cells, method: str) -> str:
    places = BEST, AT[1]
    arms = [BASELINE, *(variant for variant, _ in STEPS.values())]
    marks = {(arm, at): cells.get(("arm", 0.0, arm), {}).get((method, at), {}) for arm in arms for at in places}
    kept = _shared(*marks.values())
    if not kept:
        return ""

    def points(variant: str, reference: str) -> str:
        both = [difference(_stack(marks[variant, at], kept), _stack(marks[reference, at], kept)) for at in places]
        return " and ".join(f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})" for value, low, high in both)

    own, rows, scale, data = (points(*STEPS[step]) for step in (OWN, ROWS, SCALE, DATA))
    longer, reference = EFFECTS[LONG_DATA]
    marks |= {(longer, at): cells.get(("arm", 0.0, longer), {}).get((method, at), {}) for at in places}
    # scale and data do not add up: what the data bring depends on how long the rows are
    whole = all(set(kept) <= set(marks[longer, at]) for at in places)
    other = f" (with rows of gaussian's length {points(longer, reference)})" if whole else ""
    n, title = len(kept), CONTENDERS[method].title
    honest = (
        "one repetition: the 95 % intervals cover the test texts, not another training"
        if n == 1
        else f"{n} repetitions: 95 % intervals over test texts and these trainings, too few to be sure of a point"
    )
    return (
        f"With {title} at its best λ and at λ = 1, OSRM gains {points('osrm', BASELINE)} points over its own baseline, "
        f"of which an own A for each task brings {own}, orthonormal rows of the same length {rows}, rows of length 1 "
        f"instead of gaussian's {scale}, and the data {data}{other} ({honest})."
    )


def _shared(*some: Mapping[int, Any]) -> list[int]:
    """Return the repetitions that all have."""
    return sorted(set.intersection(*(set(repetitions) for repetitions in some)))


def _stack(repetitions: Mapping[int, Mapping[str, Any]], kept: list[int] | None = None) -> Marks:
    """Return {task: marks (repetitions, rows)}, of the repetitions ``kept``; None = of all."""
    chosen = [repetitions[number] for number in (sorted(repetitions) if kept is None else kept)]
    return {task: np.stack([marks[task] for marks in chosen]) for task in chosen[0]}
