"""What broke: the test rows that a merge breaks and mends; plain values in, texts for its components out, no Gradio."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.evaluation.intervals import as_values
from merging.features.progress import Progress
from merging.io.whole import whole_file
from merging.playground.rows import Outcome, changed_rows, confusion, mcnemar
from merging.services.playground import Playground
from merging.services.settings import LIMIT, Settings
from viz.panels.kit.alert import alert
from viz.panels.kit.events import paced
from viz.panels.merge.session import Session
from viz.panels.try_it import broke_html as written
from viz.panels.try_it.session import TrySession

PAUSE = 0.3
PAGE = 10
AGAINST = {"own": "own adapter → merge", "pinned": "pinned → merge"}
TURNS = {"previous": -1, "next": 1}
KINDS = {"broken": "broken by the merge", "mended": "mended by the merge"}
Stream = Callable[[str, dict[str, Any] | None, str, int], Iterator[Progress | Outcome]]
"""(pool, a merge as a dict or None for the own adapter, task, rows) -> progress, at last the outcome."""


class BrokeHandlers:
    """The handlers, on one playground; ``stream`` answers rows, perhaps on a borrowed GPU."""

    def __init__(self, playground: Playground, stream: Stream) -> None:
        self.playground, self.workbench, self.stream = playground, playground.workbench, stream

    # -- counts, from what the Merge tab has evaluated -----------------------------------------------------------------

    def counts(self, session: TrySession, merging: Session) -> str:
        """Say per task how many rows the merge breaks and mends, as far as the Merge tab has evaluated it."""
        settings = session.settings
        if settings is None:
            return ""
        titles = {task: self.workbench.title(task) for task in self.workbench.tasks(settings.pool)}
        if not self.workbench.measured(settings.pool):
            return "<p>These adapters were opened without tasks: there are no test rows.</p>"
        rows = self._marks(settings, merging) if session.settings == session.taken else None
        return written.counts_html(titles, rows, session.broke.task)

    def _marks(self, settings: Settings, merging: Session) -> list[written.Count] | None:
        run = merging.run
        if run is None or run.settings.canonical() != settings.canonical() or not run.scores:
            return None
        pins = [pin for pin in merging.pins_of(settings.pool) if pin is not run]
        found = []
        for row in self.workbench.references(settings.pool).itertuples():
            mine = run.scores.get(row.task)
            if mine is None or not mine.marks:
                continue
            own = _sides(row.single_marks, mine.marks)
            pinned = pins[-1].scores.get(row.task) if pins else None
            theirs = _sides(pinned.marks, mine.marks) if pinned is not None else None
            found.append(written.Count(row.task, own, theirs))
        return found or None

    # -- the rows of a task --------------------------------------------------------------------------------------------

    def look(self, session: TrySession, merging: Session, task: str) -> Iterator[dict[str, str]]:
        """Answer a task's rows by the own adapter, the merge and the pin, as far as that has not been done."""
        broke, settings = session.broke, session.settings
        if settings is None or task not in self.workbench.tasks(settings.pool):
            return
        broke.token += 1
        token, limit = broke.token, merging.run.limit if merging.run is not None else LIMIT
        broke.task, broke.pair, broke.page = task, None, 0
        pinned = session.pinned[1] if session.pinned else None
        broke.against = broke.against if pinned is not None else "own"
        wanted = [None, settings, *([pinned] if pinned else [])]
        yield {"counts": self.counts(session, merging)}
        try:
            for who in wanted:
                key = (who.canonical() if who else None, task, limit)
                if key in broke.known:
                    continue
                name = "the own adapter" if who is None else "the merge" if who is settings else "the pinned merge"
                steps = self.stream(settings.pool, who.to_dict() if who else None, task, limit)
                for step, due in paced(steps, PAUSE):
                    if broke.token != token:
                        return
                    if isinstance(step, Outcome):
                        broke.known[key] = step
                    elif due:
                        yield {"rows": written.working_html(f"{step.sentence[:-1]} by {name}.")}
        except MergeError as error:
            yield {"rows": alert(error)}
            return
        broke.asked = settings, pinned, limit
        self._compare(session)
        yield {"rows": self._page(session), "counts": self.counts(session, merging)}

    def _compare(self, session: TrySession) -> None:
        broke = session.broke
        assert broke.asked is not None
        settings, pinned, limit = broke.asked
        texts, truth, labels = self.playground.rows(settings.pool, broke.task, limit)
        first = None if broke.against == "own" or pinned is None else pinned.canonical()
        sides = (broke.known[first, broke.task, limit], broke.known[settings.canonical(), broke.task, limit])
        broke.rows = changed_rows(texts, truth, labels, *sides)
        broke.table = confusion(labels, *sides)

    def show(self, session: TrySession, **choice: Any) -> dict[str, str]:
        """Show another comparison, kind, page, pair of labels or search of the rows that are there."""
        broke = session.broke
        if broke.rows is None or broke.asked is None:
            return {}
        for name, value in choice.items():
            setattr(broke, name, value)
        broke.page = choice.get("page", 0)
        if "against" in choice:
            if broke.asked[1] is None:
                broke.against = "own"
            broke.pair = None
            self._compare(session)
        return {"rows": self._page(session)}

    def _page(self, session: TrySession) -> str:
        broke = session.broke
        assert broke.rows is not None and broke.table is not None and broke.asked is not None
        shown = broke.shown
        last = max(0, (len(shown) - 1) // PAGE)
        broke.page = min(max(broke.page, 0), last)
        counts = {kind: int((broke.rows["kind"] == kind).sum()) for kind in KINDS}
        settings, _, limit = broke.asked
        heading = written.heading(
            self.workbench.title(broke.task),
            AGAINST[broke.against],
            settings.spec.words(self.workbench.defaults(settings.pool, settings.spec.method)),
            counts,
            mcnemar(*counts.values()),
            limit,
        )
        part = shown.iloc[broke.page * PAGE : (broke.page + 1) * PAGE]
        names = AGAINST[broke.against].split(" → ")
        matrix = written.matrix_html(broke.table, broke.pair, names)
        return heading + matrix + written.rows_html(part, names, broke.page, last, len(shown), KINDS[broke.kind])

    def pick(self, session: TrySession, name: str) -> tuple[dict[str, str], tuple[str, str, str] | None]:
        """Do what a button among the rows says; give also (text, task, truth) where a row is to be tried."""
        broke = session.broke
        if broke.rows is None or broke.table is None:
            return {}, None
        what, _, rest = name.partition(":")
        if what == "row" and rest.isdecimal():
            found = broke.rows[broke.rows["row"] == int(rest)]
            if len(found):
                row = found.iloc[0]
                return {}, (str(row["text"]), broke.task, str(row["truth"]))
        if what == "pair":
            places = [int(part) for part in rest.split(":") if part.isdecimal()]
            labels = list(broke.table.index)
            if len(places) == 2 and max(places) < len(labels):
                pair = labels[places[0]], labels[places[1]]
                return self.show(session, pair=None if pair == broke.pair else pair), None
        if what == "page" and rest in TURNS:
            return self.show(session, page=broke.page + TURNS[rest]), None
        return {}, None

    def csv(self, session: TrySession) -> Path | None:
        """Write the rows of the comparison, both kinds, into the visitor's folder."""
        broke = session.broke
        if broke.rows is None:
            return None
        first, second = AGAINST[broke.against].split(" → ")
        names = {"first": first, "second": second, "sure_first": f"{first}: sure", "sure_second": f"{second}: sure"}
        path = session.visitor.folder("try") / f"mergescope_broken_{self.workbench.public_name(broke.task)}.csv"
        with whole_file(path) as fresh:
            broke.rows.rename(columns=names).to_csv(fresh, index=False)
        return path


def _sides(first: str, second: str) -> tuple[int, int] | None:
    """Return how many rows only the first and only the second gets right, on the rows that both have; None if there are
    none.
    """
    seen = [i for i, marks in enumerate(zip(first, second, strict=False)) if "." not in marks]
    if not seen:
        return None
    a, b = (as_values(marks)[seen].astype(bool) for marks in (first, second))
    return int((a & ~b).sum()), int((b & ~a).sum())
