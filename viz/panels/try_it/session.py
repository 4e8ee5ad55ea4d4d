"""What one visitor has on the Try it panel: the texts, which of them is looked at, and the merges that answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from merging.services.settings import Settings
from merging.services.visitor import Visitor
from viz.panels.try_it.broke_session import Broke
from viz.panels.try_it.chat_session import Talk

SOURCES = {"base": "base + head", "own": "own adapter", "merge": "merge", "pinned": "pinned"}
"""Who answers, and what the screen calls them; in their order."""


@dataclass(eq=False)
class TrySession:
    """One visitor's texts and answers; nothing of it outlives the page.

    Attributes
    ----------
    taken : what was last taken over from the Merge tab
    pinned : (label, the merge that was pinned there last), of the same pool
    picture : of PIL, where the base reads pictures; `texts` is then one word that stands for it
    chosen, task : which text and which task is looked at closely
    truth : (text, task, label) of a test row that was put into the box
    said : the answers to all texts
    ends : (pool and texts, what base and adapters say to them)
    broke : which rows of a task are looked at
    talk : what was asked in the chat
    examples_of : the pool whose examples are in the list
    token : counts what is asked; an answer to an earlier question is dropped
    explained : the question whose reasons have been asked for
    """

    visitor: Visitor = field(default_factory=Visitor)
    settings: Settings | None = None
    taken: Settings | None = None
    pinned: tuple[str, Settings] | None = None
    texts: tuple[str, ...] = ()
    picture: Any = None
    chosen: int = 0
    task: str = ""
    label: str = ""
    truth: tuple[str, str, str] | None = None
    said: pd.DataFrame | None = None
    token: int = 0
    explained: int = -1
    ends: tuple[tuple[str, tuple[str, ...]], pd.DataFrame] | None = None
    examples_of: str = ""
    broke: Broke = field(default_factory=Broke)
    talk: Talk = field(default_factory=Talk)
    sent: dict[str, str] = field(default_factory=dict)

    def ask(self) -> int:
        """Begin a new question; returns its token."""
        self.token += 1
        return self.token

    def close(self) -> None:
        """Forget the texts: the visitor has gone."""
        self.ask()
        self.talk.next()
        self.talk.turns = []
        self.texts, self.picture, self.truth, self.said, self.ends = (), None, None, None, None
        self.broke = Broke()
        self.sent.clear()

    @property
    def text(self) -> str:
        """The text that is looked at; empty where there is none."""
        return self.texts[self.chosen] if self.chosen < len(self.texts) else ""

    def changed(self, values: Mapping[str, str]) -> dict[str, str]:
        """Keep those values that differ from what the page already shows, and note that they are being sent."""
        news = {name: value for name, value in values.items() if self.sent.get(name) != value}
        self.sent.update(news)
        return news
