"""DO-Merging's figures as measured: from the tables of ``mergescope experiment do`` to figure, caption and table of
each.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from merging.experiments.do_pieces.markdown import title
from merging.experiments.do_pieces.results import Results
from merging.experiments.do_pieces.verdicts import FIGURES, verdict
from merging.shipped import POOLS
from viz.figures import do_experiment as draw
from viz.figures.do_magnitude import titles_of, variance
from viz.figures.theme import Figure
from viz.panels.kit.plot import payload
from viz.panels.osrm.views import nothing

COMMAND = "mergescope experiment do"
SAME_ROWS = "default"  # the pool whose rows, epochs and heads are the full fine-tunes'
SIDES = {SAME_ROWS: "LoRA", "full": "full fine-tunes"}
LINES = "Dotted: λ 0.3. Solid: λ 1."
THREE = "Dotted: λ 0.3. Solid: λ 1. Dashed: λ that is best on validation. Grey: no merge."
NEEDS = {
    "1a": ("methods", "ends"),
    "1b": ("variance",),
    "1c": ("imbalance", "imbalance_geometry"),
    "3a": ("descent", "descent_geometry"),
    "3b": ("descent", "descent_geometry"),
    "4a": ("components",),
    "4b": ("directions", "directions_geometry"),
    "4c": ("ranks",),
    "5": ("truncation",),
    "epochs": ("epochs",),
}
"""Figure -> the tables without which there is nothing to draw."""
CAPTIONS = {
    "1a": "Full fine-tunes of the same tasks, rows, epochs and starts of the heads. Open circle: λ 0.3, filled: λ 1, "
    "diamond: λ that is best on validation. DO-Merging takes full fine-tunes truncated to a rank at which they can be "
    "orthogonal.",
    "1b": "A point per module, the bar is their mean; 0: all tasks are equally large. The formula is ours.",
    "1c": "One adapter of a pool times 1/4 to 4, and the other pools as they are. Open: λ 0.3. Filled: λ 1. Scaling "
    "an adapter changes its own accuracy as well, which the hover gives.",
    "3a": "The descent that makes factors orthogonal, stopped early, each adapter measured on its own task. Solid: "
    "the smaller penalty; dashed: the larger one, which holds factors to where they were.",
    "3b": f"The same runs, merged by Task Arithmetic; along a line from right to left the descent goes on. {LINES}",
    "4a": "Paired on the same test rows, each at its own best λ on validation; the table has λ 0.3 and 1 too.",
    "4b": "Each adapter's directions are turned towards one common subspace (A: what it reads, B: what it writes) "
    "while all singular values and norms "
    f"are kept. {LINES} Long dashes: each adapter alone, which suffers too.",
    "4c": f"The same training at other ranks, alpha twice the rank. {THREE}",
    "5": f"Full fine-tunes truncated to a rank, with the share of energy that it keeps. {THREE}",
    "epochs": f"Checkpoints of one run a task, whose learning rate falls to 0 at the last. {THREE}",
}


class DoViews:
    """The figures on a folder of tables, which may be missing or still growing."""

    def __init__(self, tables: Path) -> None:
        self.results = Results(tables)
        self.pools = {name: spec.title for name, spec in POOLS.items()}
        self._shown: dict[str, tuple[tuple[int, ...], str]] = {}

    @property
    def choices(self) -> list[tuple[str, str]]:
        """(title, key) of every figure, whether measured or not."""
        return [(name if key == "epochs" else f"{key}: {name}", key) for key, (name, _) in FIGURES.items()]

    @property
    def first(self) -> str:
        """The first figure that there is something of."""
        return next((key for key in FIGURES if self.available(key)), next(iter(FIGURES)))

    def available(self, figure: str) -> bool:
        """Tell whether a figure's tables have rows."""
        return self.results.has(*NEEDS[figure])

    def show(self, figure: str | None) -> str:
        """Give one figure with the claim, what was measured, and whether that reproduces it."""
        figure = figure if figure in FIGURES else self.first
        name = f"mergescope_do_{figure}"
        if not self.available(figure):
            return nothing(f"Claim: {FIGURES[figure][1]} Not measured yet: “{COMMAND}” makes the table.", name)
        # intervals of a hundred merges take a second: once per state of the tables
        stamp = self.results.stamp
        if self._shown.get(figure, ((),))[0] != stamp:
            drawn, table = _DRAWN[figure](self)
            caption = f"{verdict(figure, self.results, SAME_ROWS).line} {CAPTIONS[figure]}"
            self._shown[figure] = stamp, payload(drawn, caption, table, name)
        return self._shown[figure][1]

    # -- one per figure ------------------------------------------------------------------------------------------------

    def _methods(self) -> tuple[Figure, pd.DataFrame]:
        scores = self.results.methods()
        return draw.methods(scores, SIDES, title), scores

    def _variance(self) -> tuple[Figure, pd.DataFrame]:
        modules = self.results.table("variance")
        return variance(modules, titles_of(list(dict.fromkeys(modules["source"])), self.pools)), self.results.variance()

    def _imbalance(self) -> tuple[Figure, pd.DataFrame]:
        scores = self.results.imbalance()
        return draw.imbalance(scores, title), scores

    def _descent(self) -> tuple[Figure, pd.DataFrame]:
        scores = self.results.descent()
        return draw.descent(scores, self.pools), scores[scores["method"] == draw.ALONE]

    def _orthogonality(self) -> tuple[Figure, pd.DataFrame]:
        scores = self.results.descent()
        return draw.orthogonality(scores, self.pools), scores[scores["method"] != draw.ALONE]

    def _components(self) -> tuple[Figure, pd.DataFrame]:
        gains = self.results.components()
        return draw.components(gains, title, self.pools), gains

    def _directions(self) -> tuple[Figure, pd.DataFrame]:
        scores = self.results.directions()
        return draw.directions(scores, self.pools), scores

    def _ranks(self) -> tuple[Figure, pd.DataFrame]:
        scores = self.results.ranks(SAME_ROWS)
        return draw.against(scores, "rank", "LoRA rank", title), scores

    def _truncation(self) -> tuple[Figure, pd.DataFrame]:
        scores = self.results.truncation()
        energy = dict(zip(scores["rank"], scores["energy"], strict=True))
        ranks = [*sorted(rank for rank in energy if rank), *([0] if 0 in energy else [])]
        ticks = {rank: f"{rank} ({energy[rank]:.0%})" if rank else "all" for rank in ranks}
        return draw.against(scores, "rank", "rank of the truncation (energy kept)", title, ticks), scores

    def _epochs(self) -> tuple[Figure, pd.DataFrame]:
        scores = self.results.epochs()
        return draw.against(scores, "epochs", "epochs before the merge", title), scores


def heading() -> str:
    """Write the heading of the part of the page."""
    return (
        "<h2>DO-Merging's figures, measured</h2>"
        "<p>Our reconstruction on the shipped pools: what the paper claims, what came out here.</p>"
    )


_DRAWN: dict[str, Callable[[DoViews], tuple[Figure, pd.DataFrame]]] = {
    "1a": DoViews._methods,
    "1b": DoViews._variance,
    "1c": DoViews._imbalance,
    "3a": DoViews._descent,
    "3b": DoViews._orthogonality,
    "4a": DoViews._components,
    "4b": DoViews._directions,
    "4c": DoViews._ranks,
    "5": DoViews._truncation,
    "epochs": DoViews._epochs,
}
