"""What happens on the Merge panel: plain values in, texts for its components out, no Gradio.

Two steps follow every move. `redraw` merges and draws what depends on weights alone; `evaluate` then reads the texts
that the merge needs, draws what they change, and streams the accuracy. The current run lives in the session: a redraw
that changes the merge replaces it, and an evaluation that finds another run current, or its own cancelled, stops before
its next step. So the last move wins, in whatever order the browser's requests arrive.
"""

from collections.abc import Generator, Iterator
from functools import lru_cache
from html import escape
from time import monotonic, sleep
from typing import Any

from merging.errors import MergeError
from merging.evaluation.accuracy import Estimate
from merging.features.progress import Progress
from merging.services.link import from_query, settings_of_recipe
from merging.services.results import Stream
from merging.services.settings import LIMIT, Settings
from merging.services.workbench import MergeView, Workbench
from viz.panels.kit.alert import alert
from viz.panels.kit.events import paced
from viz.panels.kit.help import first_paragraph, method_page
from viz.panels.merge import views
from viz.panels.merge.compare import compare_html
from viz.panels.merge.controls import Catalogue, opening, opening_method, read, restored
from viz.panels.merge.recipe import recipe_payload
from viz.panels.merge.session import Run, Session, summarise
from viz.panels.merge.verdict import story_html, verdict_html

PAUSE = 0.12  # seconds between two drawings of a running evaluation
SETTLE = 0.1  # seconds without a move before an evaluation starts, so that a drag stays smooth
REFERENCE = "task_arithmetic"  # the plain sum, which the opening is compared with
ACCURACY = ("verdict", "accuracy", "sweep", "compare")
STREAMED = (*ACCURACY, "magnitude", "notes")
OUTPUTS = (*STREAMED, "recipe", "overlap", "teaches", "about", "page")


class MergeHandlers:
    """The handlers, on one workbench; what belongs to a visitor is in the session that they are given."""

    def __init__(self, workbench: Workbench, methods: Catalogue, stream: Stream) -> None:
        self.workbench, self.methods, self.stream = workbench, methods, stream
        self.trained = lru_cache(maxsize=16)(lambda pool: views.as_trained(workbench, methods, pool))

    def open(
        self, session: Session, form: dict[str, Any], limit: int, part: tuple[str, str, str], query: str
    ) -> tuple[dict[str, str], dict[str, dict[str, Any]], str]:
        """Draw a page that shows nothing yet; give also what its controls become where its address holds a link.

        Of a link that means nothing here the third value says why, and the page opens as without it.
        """
        session.forget_page()
        options, said = {}, ""
        try:
            link = from_query(query, self.workbench)
        except MergeError as error:
            said = alert(error)
        else:
            if link is None:
                self._pin_reference(session, limit)
            else:
                options, limit = self._shown(*link), link[1]
        values = self.redraw(
            session, form | {name: o["value"] for name, o in options.items() if "value" in o}, limit, part
        )
        return values, options, said

    def restore(self, query: str) -> tuple[dict[str, dict[str, Any]], str]:
        """Give what the controls become where Back or Forward bring another merge, and why they cannot.

        An address without a merge is that of the opening.
        """
        try:
            link = from_query(query, self.workbench)
        except MergeError as error:
            return {}, alert(error)
        return self._shown(*(link or (opening(self.workbench, self.methods), LIMIT))), ""

    def _shown(self, settings: Settings, limit: int) -> dict[str, dict[str, Any]]:
        return restored(self.workbench, self.methods, settings) | {"limit": {"value": limit}}

    def paste(self, text: str) -> tuple[dict[str, dict[str, Any]], str]:
        """Give what the controls become for a pasted recipe, and what to say about it."""
        try:
            settings = settings_of_recipe(text, self.workbench)
        except MergeError as error:
            return {}, alert(error)
        said = f'<p class="ms-muted" role="status">The controls show it now: {escape(self.label(settings))}.</p>'
        return restored(self.workbench, self.methods, settings), said

    def redraw(self, session: Session, form: dict[str, Any], limit: int, part: tuple[str, str, str]) -> dict[str, str]:
        """Merge with the form's settings and draw all that is known at once; give what the page does not show yet."""
        settings = read(self.workbench, self.methods, form)
        tasks = tuple(self.workbench.tasks(settings.pool))
        run = Run(settings, limit, tasks, self.label(settings))
        run = session.start((settings.canonical(), limit), run)
        session.visit(settings, limit)
        self._take_known(run)
        method = self.methods[settings.spec.method]
        values = {"about": first_paragraph(method), "page": method_page(method)}
        values["teaches"] = f'<p class="ms-muted">{escape(self.workbench.help(settings.pool))}</p>'
        try:
            view = self.workbench.update(settings)
        except MergeError as error:
            run.state = "refused"
            values["notes"] = alert(error)
        else:
            values["notes"] = _notes(view)
            values["recipe"] = recipe_payload(self.workbench, settings, limit, view.recipe_yaml)
            # most moves change neither figure, and both cost more than the merge
            if session.moved("magnitude", (view.magnitude, settings.spec.method)) and view.magnitude is not None:
                values["magnitude"] = views.magnitude_view(self.workbench, settings, view, self.trained(settings.pool))
            if session.moved("overlap", (settings.pool, settings.spec.method, *part)):
                values["overlap"] = views.overlap_view(self.workbench, settings, *part)
            if not self.workbench.measured(settings.pool):
                run.state = "unmeasured"
        if session.run is not run:  # a later move has come in between
            return {}
        return session.changed(**values, **self.accuracy(session, run))

    def _take_known(self, run: Run) -> None:
        """Finish a run at once whose accuracy is known, unless the visitor wants it measured."""
        if run.state != "waiting" or run.live:
            return
        for estimate in self.workbench.known(run.settings, run.limit):
            run.take(estimate)
            run.state, run.known = "done", True

    def _pin_reference(self, session: Session, limit: int) -> None:
        """Pin the plain sum beside the merge that the page opens on, once, where its accuracy ships."""
        if session.pins or REFERENCE not in self.methods:
            return
        settings = opening(self.workbench, self.methods, REFERENCE)
        run = Run(settings, limit, tuple(self.workbench.tasks(settings.pool)), self.label(settings))
        self._take_known(run)
        if run.known:
            session.keep(run)

    def story(self) -> str:
        """Tell in three lines what the opening shows and what to move first, from its shipped numbers; nothing where
        none ship.
        """
        found = []
        for method in (REFERENCE, opening_method(self.methods)):
            settings = opening(self.workbench, self.methods, method)
            run = Run(settings, LIMIT, tuple(self.workbench.tasks(settings.pool)), "")
            self._take_known(run)
            found.append(summarise(run.scores, self.workbench.references(settings.pool)))
        plain, best = found
        return story_html(plain, best, len(self.workbench.tasks(next(iter(self.workbench.pools)))))

    def evaluate(self, session: Session) -> Iterator[dict[str, str]]:
        """Stream the accuracy of the current run, until it is complete, cancelled or no longer current."""
        run = session.run
        if run is None or run.cancelled or run.state in {"running", "refused", "unmeasured"}:
            return
        try:
            if run.state != "done":
                yield from self._evaluate(session, run)
        except MergeError as error:
            run.state, run.error = "failed", str(error)
        except Exception:
            run.state = "failed"
            yield self.accuracy(session, run)
            raise
        finally:
            if run.state == "running":  # stopped from outside, so that a later move may start it again
                run.state = "stopped"
        # The last word. For a run that is still current all of it: what was sent on another way may have arrived in
        # another order. For an outdated one nothing: Gradio sends a generator's last value once more when it ends.
        late = self.drawn(run.settings) if run.settings.spec.soft_osrm and run.state == "done" else {}
        yield self.accuracy(session, run) | late if session.run is run else {}

    def _evaluate(self, session: Session, run: Run) -> Iterator[dict[str, str]]:
        run.state = "running"
        sleep(SETTLE)
        if session.run is not run or run.cancelled:
            return
        # read here and not in the stream: what a borrowed GPU's process reads would be gone with it
        if not (yield from self._follow(session, run, self.workbench.read(run.settings))):
            return
        if run.settings.spec.mu:
            yield session.changed(**self.drawn(run.settings))
        began = monotonic()
        if (yield from self._follow(session, run, self.stream(run.settings.to_dict(), run.limit))):
            run.state, run.seconds = "done", monotonic() - began

    def _follow(
        self, session: Session, run: Run, steps: Iterator[Progress | Estimate]
    ) -> Generator[dict[str, str], None, bool]:
        """Take up one step after the other and draw from time to time; tell whether all steps were made."""
        for step, due in paced(steps, PAUSE):
            if session.run is not run or run.cancelled:
                return False
            if run.take(step) or due:
                yield session.changed(**self.accuracy(session, run))
        return True

    def cancel(self, session: Session) -> dict[str, str]:
        """Stop the current run before its next step, and leave what there is of it."""
        session.cancel()
        return session.changed(**self.accuracy(session, session.run)) if session.run else {}

    def pin(self, session: Session) -> dict[str, str]:
        """Keep the current run in the figures."""
        session.pin()
        return session.changed(**self.accuracy(session, session.run)) if session.run else {}

    def unpin(self, session: Session) -> dict[str, str]:
        """Forget all pinned runs."""
        return self.compare(session, "unpin:")

    def compare(self, session: Session, name: str) -> dict[str, str]:
        """Do what the comparison says: `against:A`, `unpin:A` (no letter: all) or `title:A:what it is called`."""
        what, _, letter = name.partition(":")
        if what == "unpin":
            session.unpin(letter)
        elif what == "against":
            session.against = letter
        elif what == "title":
            session.rename(*letter.partition(":")[::2])
        return session.changed(**self.accuracy(session, session.run)) if session.run else {}

    def turn(self, session: Session, back: bool) -> dict[str, dict[str, Any]]:
        """Give what the controls become one step back, or forward again; nothing where there is no step."""
        found = session.turn(back)
        if found is None:
            return {}
        return self._shown(*found)

    def accuracy(self, session: Session, run: Run) -> dict[str, str]:
        """Draw what depends on the accuracy of a run."""
        pool = run.settings.pool
        pins = session.pins_of(pool)
        references = self.workbench.references(pool)
        before = session.before if session.before and session.before.settings.pool == pool else None
        return {
            "verdict": verdict_html(run, before, references, self.workbench.title),
            "accuracy": views.accuracy_view(self.workbench, run, before, pins),
            "sweep": views.sweep_view(
                self.methods, references, self.workbench.sweep(pool), run, pins, session.curve_of(run.settings)
            ),
            "compare": compare_html(run, pins, references, self.workbench.title, session.against),
        }

    def drawn(self, settings: Settings) -> dict[str, str]:
        """Draw what a merge shows before it is evaluated, as far as its texts are read."""
        view = self.workbench.update(settings)
        values = {"notes": _notes(view)}
        if view.magnitude is not None:
            values["magnitude"] = views.magnitude_view(self.workbench, settings, view, self.trained(settings.pool))
        return values

    def label(self, settings: Settings) -> str:
        """Name a run for people: its method and parameters, and what differs from the values tuned for them."""
        return settings.spec.words(self.workbench.defaults(settings.pool, settings.spec.method))


def _notes(view: MergeView) -> str:
    return "".join(f"<p>{escape(note)}</p>" for note in view.notes)
