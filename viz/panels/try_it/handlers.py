"""What happens on the Try it panel: plain values in, texts for its components out, no Gradio.

A keystroke or a moved λ is answered at once by one batched pass (`ask`); who did it, where and the story over λ follow
when nothing has moved for a moment (`explain`). Every question has a token: what belongs to an earlier one is dropped.
"""

from collections.abc import Iterator
from functools import lru_cache
from html import escape
from time import sleep
from typing import Any

import pandas as pd

from merging.errors import MergeError
from merging.features.progress import Progress
from merging.services.playground import Playground, texts_of
from merging.services.settings import Settings
from viz.panels.kit.alert import alert
from viz.panels.kit.events import paced
from viz.panels.merge.session import Session
from viz.panels.osrm.views import nothing
from viz.panels.try_it import views
from viz.panels.try_it.bars import answers_to, bars_html, summary, top
from viz.panels.try_it.session import TrySession

SETTLE = 0.15  # seconds without a move before the slower figures begin
PAUSE = 0.3
FAST = ("bars", "summary", "note")
SLOW = ("labels", "story", "layers", "loudness", "blame", "work")
OUTPUTS = ("about", *FAST, *SLOW)
PICTURE = "picture"
EMPTY = "Write a text, or choose an example: every task answers it."
Options = dict[str, dict[str, Any]]


class TryHandlers:
    """The handlers, on one playground; what belongs to a visitor is in the session that they are given."""

    def __init__(self, playground: Playground) -> None:
        self.playground, self.workbench = playground, playground.workbench
        self.titles = lru_cache(maxsize=64)(self._titles)

    def _titles(self, tasks: tuple[str, ...]) -> dict[str, str]:
        return {task: self.workbench.title(task) for task in tasks}

    def titles_of(self, settings: Settings) -> dict[str, str]:
        """Return {task: title} of a pool, in the order of its colours."""
        return self.titles(tuple(self.workbench.tasks(settings.pool)))

    # -- what is looked at ---------------------------------------------------------------------------------------------

    def open(self, session: TrySession, settings: Settings, merging: Session) -> tuple[dict[str, str], Options]:
        """Look at the Merge tab's merge and its last pin; give what is drawn, and what the controls become."""
        session.ask()
        if session.taken != settings:
            session.settings = session.taken = settings
        pins = [pin for pin in merging.pins if pin.settings.pool == settings.pool]
        session.pinned = (pins[-1].called, pins[-1].settings) if pins else None
        titles = self.titles_of(settings)
        missing = session.task if session.task not in titles else ""  # of another pool, or of a link
        session.task = next(iter(titles)) if missing or not session.task else session.task
        session.sent.clear()  # the tab may have been drawn anew
        scaling = session.settings.spec.scaling if session.settings else None
        options: Options = {
            "task": {"choices": [(title, task) for task, title in titles.items()], "value": session.task},
            "scaling": {"value": scaling, "visible": True} if scaling is not None else {"visible": False},
            "use": {"visible": scaling is not None},
            "picture": {"visible": self.playground.sees(settings.pool)},
        }
        if self.playground.sees(settings.pool) != (session.picture is not None):
            session.texts, session.picture = (), None
            options["picture"] |= {"value": None}
        options |= self._examples(settings)
        session.said = None  # answered anew by `explain`, as the merge may be another one
        blank = {} if session.texts else self._blank("")
        lost = f'<p class="ms-warning">It has no task “{escape(missing)}”.</p>' if missing else ""
        return session.changed({"about": self.about(session) + lost} | blank), options

    def _examples(self, settings: Settings) -> Options:
        measured = self.workbench.measured(settings.pool)
        return {"random": {"interactive": measured}, "examples": {"visible": measured}}

    def examples(self, settings: Settings) -> list[tuple[str, str]]:
        """Return (what the list shows, text) of example texts."""
        titles = self.titles_of(settings)
        found = self.playground.examples(settings.pool) if self.workbench.measured(settings.pool) else []
        return [(f"{titles[task]}: {text if len(text) < 70 else f'{text[:69]}…'}", text) for task, text in found]

    def about(self, session: TrySession) -> str:
        """Say which merges answer."""
        settings = session.settings
        assert settings is not None
        pool = self.workbench.pools.get(settings.pool, "your own set")
        skipped = ["scaling"] if settings.spec.scaling is not None else []
        words = settings.spec.words(self.workbench.defaults(settings.pool, settings.spec.method), skip=skipped)
        pinned = f" Pinned: {escape(session.pinned[0])}." if session.pinned else ""
        return f"<p>{escape(words)}, on {escape(pool)}, as the Merge tab has it.{pinned}</p>"

    def scale(self, session: TrySession, scaling: float) -> dict[str, str]:
        """Look at the merge at another λ."""
        if session.settings is None or session.settings.spec.scaling is None:
            return {}
        session.settings = session.settings.changed(scaling=float(scaling))
        return self.ask(session)

    def write(self, session: TrySession, written: str) -> tuple[dict[str, str], Options]:
        """Take up what stands in the box."""
        try:
            texts = tuple(texts_of(written))
        except MergeError as error:
            session.ask()
            session.texts, session.said = (), None
            return session.changed(self._blank(alert(error))), {"text": {"visible": False}}
        if texts == session.texts and session.said is not None:  # a button has put it there, and it was answered
            return {}, {}
        session.texts = texts
        session.chosen = min(session.chosen, max(len(texts) - 1, 0))
        if session.truth is not None and session.truth[0] not in texts:
            session.truth = None
        return self.ask(session), {"text": self._texts(session)}

    def look(self, session: TrySession, picture: Any) -> dict[str, str]:
        """Take up a picture (of PIL), or that there is none any more."""
        session.texts, session.picture, session.chosen, session.ends = (), None, 0, None
        if picture is not None:
            session.texts, session.picture = (PICTURE,), picture
        return self.ask(session)

    @staticmethod
    def _texts(session: TrySession) -> dict[str, Any]:
        many = len(session.texts) > 1
        names = [f"{i + 1}: {t if len(t) < 60 else f'{t[:59]}…'}" for i, t in enumerate(session.texts)]
        choices = [(name, place) for place, name in enumerate(names)]
        return {"choices": choices, "value": session.chosen if many else None, "visible": many}

    def random(self, session: TrySession) -> tuple[str, dict[str, str], Options]:
        """Put a random test row of the chosen task into the box, with its truth."""
        assert session.settings is not None
        text, label = self.playground.row(session.settings.pool, session.task)
        return self.put(session, text, session.task, label)

    def put(self, session: TrySession, text: str, task: str, label: str) -> tuple[str, dict[str, str], Options]:
        """Put a test row that was found elsewhere into the box."""
        session.truth, session.task, session.label, session.chosen = (text, task, label), task, "", 0
        session.said = None
        values, options = self.write(session, text)
        return text, values, options | {"task": {"value": task}}

    def choose(self, session: TrySession, task: str | None = None, text: int | None = None) -> dict[str, str]:
        """Look at another task, or at another of the texts; nothing is read again."""
        session.ask()
        session.task, session.label = task or session.task, ""
        session.chosen = session.chosen if text is None else int(text)
        return session.changed(self._drawn(session))

    # -- answers -------------------------------------------------------------------------------------------------------

    def ask(self, session: TrySession) -> dict[str, str]:
        """Let everybody answer, and draw that; nothing where a later question has come in between."""
        token, settings, texts = session.ask(), session.settings, session.texts
        if settings is None or not texts:
            session.said = None
            return session.changed(self._blank("")) if settings else {}
        try:
            said = self._answers(session, settings, texts)
        except MergeError as error:
            return session.changed(self._blank(alert(error))) if session.token == token else {}
        if session.token != token:
            return {}
        session.said = said
        return session.changed(self._drawn(session))

    def _answers(self, session: TrySession, settings: Settings, texts: tuple[str, ...]) -> pd.DataFrame:
        """Return the answers; those of base and adapters are kept while the texts stay."""
        key = (settings.pool, texts)
        who = {"merge": settings} if self._can_merge(settings) else {}
        if session.pinned and self._can_merge(session.pinned[1]):
            who["pinned"] = session.pinned[1]
        if session.picture is not None:
            return self.playground.seen(settings.pool, session.picture, {"base": None, "own": None, **who})
        if session.ends is None or session.ends[0] != key:
            everybody = self.playground.said(settings.pool, texts, {"base": None, "own": None, **who})
            session.ends = key, everybody[everybody["source"].isin(["base", "own"])]
            return everybody
        merges = self.playground.said(settings.pool, texts, who) if who else session.ends[1].head(0)
        return pd.concat([session.ends[1], merges], ignore_index=True)

    def _can_merge(self, settings: Settings) -> bool:
        return not settings.spec.needs_data or self.workbench.texts_read(settings)

    @staticmethod
    def _blank(note: str) -> dict[str, str]:
        empty = {name: nothing("", f"mergescope_{name}") for name in SLOW[:-1]}
        return {"bars": "", "summary": f"<p>{EMPTY}</p>", "note": note, "work": "", **empty}

    def _drawn(self, session: TrySession) -> dict[str, str]:
        settings, said = session.settings, session.said
        if settings is None or said is None:
            return self._blank("")
        titles, mine = self.titles_of(settings), answers_to(said, session.chosen)
        truth = session.truth[1:] if session.truth and session.truth[0] == session.text else None
        return {
            "bars": bars_html(mine, [*titles], titles.__getitem__, session.task, truth),
            "summary": f"<p>{escape(summary(mine, [*titles], titles.__getitem__, session.task))}</p>",
            "note": self._notes(session, settings, titles),
        }

    def _notes(self, session: TrySession, settings: Settings, titles: dict[str, str]) -> str:
        cut = self.playground.reads(settings.pool, session.text) if session.picture is None else {}
        notes = []
        if cut:
            limits, tokens = sorted({limit for limit, _ in cut.values()}), max(count for _, count in cut.values())
            who = "Every task" if len(cut) == len(titles) else ", ".join(titles[task] for task in cut)
            notes.append(f"{who} reads the first {' or '.join(map(str, limits))} of this text's {tokens} tokens.")
        if not self._can_merge(settings):
            notes.append("This merge needs texts of the tasks; they are read first.")
        return "".join(f"<p>{escape(note)}</p>" for note in notes)

    # -- why -----------------------------------------------------------------------------------------------------------

    def explain(self, session: TrySession) -> Iterator[dict[str, str]]:
        """Read what the merge needs, answer if that was missing, then draw who did it, where, and the story over λ."""
        token, settings = session.token, session.settings
        if settings is None or session.explained == token:
            return
        session.explained = token
        sleep(SETTLE)
        if session.token != token:
            return
        waiting = session.said is None or not self._can_merge(settings)
        for step, due in paced(self.playground.ready(settings), PAUSE):
            if session.token != token:
                return
            if due:
                yield session.changed({"work": f'<p role="status">{step.sentence}</p>'})
        if waiting and session.texts:
            if session.token != token:
                return
            yield self.ask(session)
            token = session.explained = session.token
        if not session.text or session.said is None:
            yield session.changed({"work": ""})
            return
        yield from self._reasons(session, settings, token)

    def _reasons(self, session: TrySession, settings: Settings, token: int) -> Iterator[dict[str, str]]:
        if session.picture is not None:
            why = "Reasons are told of texts only."
            others = {name: nothing(why, f"mergescope_{name}") for name in ("story", "layers", "loudness", "blame")}
            yield session.changed({"labels": self._labels(session, settings), "work": "", **others})
            return
        drawn = {
            "labels": self._labels,
            "story": self._story,
            "layers": self._layers,
            "loudness": self._loudness,
        }
        for name, draw in drawn.items():
            if session.token != token:
                return
            yield session.changed({name: self._or_why(draw, session, settings, name)})
        try:
            yield from self._blame(session, settings, token)
        except MergeError as error:
            yield session.changed({"blame": nothing(str(error), "mergescope_who_did_it"), "work": ""})

    @staticmethod
    def _or_why(draw: Any, session: TrySession, settings: Settings, name: str) -> str:
        try:
            return draw(session, settings)
        except MergeError as error:
            return nothing(str(error), f"mergescope_{name}")

    def _labels(self, session: TrySession, settings: Settings) -> str:
        said = session.said
        assert said is not None
        named = said.assign(written=[session.texts[place] for place in said["text"]])
        return views.labels_view(named, session.chosen, session.task, self.titles_of(settings))

    def _story(self, session: TrySession, settings: Settings) -> str:
        frame = self.playground.over_scaling(settings, session.text, session.task)
        labels = self.playground.questions(settings.pool)[session.task].labels
        return views.story_view(frame, settings, session.task, labels, self.titles_of(settings))

    def _layers(self, session: TrySession, settings: Settings) -> str:
        frame = self.playground.layers(settings, session.text, session.task)
        labels = self.playground.questions(settings.pool)[session.task].labels
        return views.layers_view(frame, session.task, labels, self.titles_of(settings))

    def _loudness(self, session: TrySession, settings: Settings) -> str:
        frame = self.playground.loudness(settings, session.text, session.task)
        return views.loudness_view(frame, session.task, self.titles_of(settings))

    def _blame(self, session: TrySession, settings: Settings, token: int) -> Iterator[dict[str, str]]:
        for step, due in paced(self.playground.leave_one_out(settings, session.text, session.task), PAUSE):
            if session.token != token:
                return
            if isinstance(step, Progress):
                if due and step.done:
                    words = f"Merging without each adapter: {step.done} of {step.total}."
                    yield session.changed({"blame": nothing(words, "mergescope_who_did_it")})
                continue
            label = self._label(session)
            yield session.changed(
                {"blame": views.blame_view(step, session.task, label, self.titles_of(settings)), "work": ""}
            )

    @staticmethod
    def _label(session: TrySession) -> str:
        """Return the label that the question “who did it” is about: the own adapter's answer, which the merge may have
        lost.
        """
        assert session.said is not None
        said = answers_to(session.said, session.chosen)
        source = next(source for source in ("own", "merge", "base") if (session.task, source) in said)
        return session.label or top(said[session.task, source])[0]
