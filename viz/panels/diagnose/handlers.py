"""What happens on the Diagnose panel: plain values in, texts for its components out, no Gradio.

The browser follows λ, the weights and, where no other option of decouple is on, γ by itself; the server is asked for
what plug-ins, texts and methods that are not linear change, and for what is measured on demand.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from merging.errors import MergeError
from merging.recipes.spec import MergeSpec
from merging.services.settings import MOST_TASKS, Settings
from merging.services.workbench import Workbench
from merging.shipped import POOLS
from viz.panels.diagnose.bundle import bundle
from viz.panels.kit.events import paced
from viz.panels.merge.controls import Catalogue, form_of

PAUSE = 0.2
WITHOUT_TASKS = (
    "These adapters were opened without tasks: what follows from the weights is shown, nothing is measured on data."
)
PLUGGED = ("orthogonalize", "penalty", "decouple", "mu")


@dataclass
class DiagnoseSession:
    """What one visitor looks at: the merge, the one it was taken over from, and what runs on demand."""

    settings: Settings | None = None
    taken: Settings | None = None
    fresh: bool = False  # the controls were set here, and the browser has not been told what they say
    run: int = 0
    sent: dict[str, str] = field(default_factory=dict)

    def changed(self, **values: str) -> dict[str, str]:
        """Keep those values that differ from what the page already shows."""
        news = {name: value for name, value in values.items() if self.sent.get(name) != value}
        self.sent.update(news)
        return news


class DiagnoseHandlers:
    """The handlers, on one workbench; what belongs to a visitor is in the session that they are given."""

    def __init__(self, workbench: Workbench, methods: Catalogue) -> None:
        self.workbench, self.methods = workbench, methods

    # -- the merge that is looked at -----------------------------------------------------------------------------------

    def take(self, session: DiagnoseSession, settings: Settings) -> dict[str, Any]:
        """Look at the Merge tab's merge, unless that is what was last taken over; give controls and figures."""
        fresh = session.taken != settings
        if fresh:
            session.settings = session.taken = settings
            session.fresh = True
        session.sent.clear()  # the tab may have been drawn anew
        return {"controls": self.options(settings) if fresh else {}} | self.draw(session)

    def move(self, session: DiagnoseSession, form: Mapping[str, Any]) -> dict[str, str]:
        """Look at another merge of the same method and pool: what the panel's own controls say."""
        if session.settings is None:
            return {}
        session.settings = self.settings(session.settings, form)
        session.sent.pop("linked", None)  # the page asks again when an older answer came after a newer one
        return self.draw(session)

    def keep(self, session: DiagnoseSession, form: Mapping[str, Any]) -> None:
        """Note what the controls say without drawing: λ moves in the browser alone."""
        if session.settings is not None:
            session.settings = self.settings(session.settings, form)

    def settings(self, settings: Settings, form: Mapping[str, Any]) -> Settings:
        """Return the settings with what the panel's controls say."""
        names = ["scaling"] if settings.spec.scaling is not None else []
        names += PLUGGED if self.methods[settings.spec.method].plugins else []
        weights = [float(form[f"weight_{place}"]) for place in range(len(settings.spec.weights))]
        changed = {name: form[name] for name in names} | {"weights": weights, "k": int(form["k"])}
        return settings.changed(**changed)

    def given_back(self, session: DiagnoseSession, form: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return what the Merge tab's controls become when it takes over what the panel's own say."""
        if session.settings is None:
            return {}
        settings = session.settings = session.taken = self.settings(session.settings, form)
        return form_of(self.methods, settings)

    def options(self, settings: Settings) -> dict[str, dict[str, Any]]:
        """Return value, label and visibility of every control for a merge."""
        values, plugged = settings.spec.to_dict(), self.methods[settings.spec.method].plugins
        found: dict[str, dict[str, Any]] = {
            "scaling": {"value": values.get("scaling", 1.0), "visible": "scaling" in values},
            **{name: {"value": values[name], "visible": plugged} for name in PLUGGED},
            "k": {"value": values["k"]},
        }
        tasks = self.workbench.tasks(settings.pool)
        for place in range(MOST_TASKS):
            used = place < len(tasks)
            found[f"weight_{place}"] = (
                {"value": settings.spec.weights[place], "label": self.workbench.title(tasks[place]), "visible": True}
                if used
                else {"visible": False}
            )
        return found

    def draw(self, session: DiagnoseSession) -> dict[str, str]:
        """Draw what is known without reading a text."""
        settings = session.settings
        assert settings is not None
        values = {"about": self.about(settings)}
        if settings.spec.needs_data and not self.workbench.texts_read(settings):
            return session.changed(**values, note="<p>This merge needs texts; they are read first.</p>")
        try:
            diagnosis = self.workbench.diagnosis(settings)
        except MergeError as error:
            return session.changed(**values, note=f'<p class="ms-error" role="alert">{escape(str(error))}</p>')
        titles = [self.workbench.title(task) for task in self.workbench.tasks(settings.pool)]
        method = self.methods[settings.spec.method].title
        values["linked"] = bundle(
            diagnosis, settings, titles, method, self.full(settings), self.pools_compared, session.fresh
        )
        session.fresh = False
        note = ""
        if diagnosis.grams.data is None:
            follows = self.workbench.measured(settings.pool)
            note = "What is measured on data follows when the texts are read." if follows else WITHOUT_TASKS
        return session.changed(**values, note=f"<p>{note}</p>" if note else "")

    def about(self, settings: Settings) -> str:
        """Say which merge is looked at."""
        magnitude = settings.spec.decouple
        rests = (
            " The figures follow γ when its slider rests."
            if magnitude.strength and not magnitude.follows_strength
            else ""
        )
        text = settings.spec.words(like=settings.spec, skip=["scaling"])  # the controls say the plug-ins
        pool = self.workbench.pools.get(settings.pool, "your own set")
        return (
            f"<p>{escape(text)}, on {escape(pool)}. Moving a slider here asks “what if”; the Merge tab stays as it "
            f"is.{rests}</p>"
        )

    def look(self, session: DiagnoseSession) -> Iterator[dict[str, str]]:
        """Read the texts that the figures on data need, unless that has been done, and draw again."""
        settings = session.settings
        if settings is None:
            return
        read = False
        for step, due in paced(self.workbench.read_moments(settings), PAUSE):
            now = session.settings
            if now is None or (now.pool, now.spec.k) != (settings.pool, settings.spec.k):
                return
            read = True
            if due:
                yield session.changed(note=f'<p role="status">{step.sentence}</p>')
        if read or "linked" not in session.sent:
            yield self.draw(session)

    @cached_property
    def pools_compared(self) -> dict[str, str]:
        """Return, per side, the overlap of the shipped pools as trained: shared seed against own seeds against OSRM."""
        sentences = {}
        for side in ("A", "B"):
            means = []
            for pool, title in self.workbench.pools.items():
                if pool not in POOLS:
                    continue
                settings = Settings(pool, MergeSpec(next(iter(self.methods))))
                pairs, chance = self.workbench.overlap(settings, side, self.workbench.modules(pool))
                means.append(f"{title} {pairs[pairs['adapter_a'] != pairs['adapter_b']]['overlap'].mean():.2f}")
            sentences[f"overlap_{side}"] = (
                f"As trained, mean over pairs: {'; '.join(means)}; by chance {chance:.2f}." if means else ""
            )
        return sentences

    def full(self, settings: Settings) -> dict[str, pd.DataFrame] | None:
        """Return the statistics of the full fine-tunes, if they ship."""
        return self._full if settings.pool in POOLS else None

    @cached_property
    def _full(self) -> dict[str, pd.DataFrame] | None:
        paths = {name: Path(self.workbench.tables) / f"do_{name}.csv" for name in ("columns", "variance")}
        if not all(path.exists() for path in paths.values()):
            return None
        tables = {name: pd.read_csv(path) for name, path in paths.items()}
        variance = tables["variance"]
        full = variance[variance["source"] == "full"]
        return tables | {"variance": full} if len(full) else None
