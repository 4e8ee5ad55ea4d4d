"""What one visitor asks in the chat."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from merging.playground.chat import Answer, Decoding
from merging.services.chat import Labels
from merging.services.settings import Settings


@dataclass(eq=False)
class Turn:
    """One prompt and what everybody answers to it.

    Attributes
    ----------
    merges : {"merge" and "pinned", as far as there are such: which}
    task : whose label words are weighed
    titles : {who answers: (what the screen calls it, place of the colour or None)}
    state : waiting, answering, weighing, done or stopped
    seconds : since the first token, of ``counted`` tokens behind it
    """

    pool: str
    prompt: str
    merges: Mapping[str, Settings]
    task: str
    decoding: Decoding
    template: bool
    titles: Mapping[str, tuple[str, int | None]]
    state: str = "waiting"
    answers: Mapping[str, Answer] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int = 0
    counted: int = 0


@dataclass(eq=False)
class Talk:
    """What one visitor has asked; gone with the page.

    Attributes
    ----------
    token : counts what is asked and stopped; who answers for another one stops
    """

    turns: list[Turn] = field(default_factory=list)
    token: int = 0

    def next(self) -> int:
        """Let what runs stop; returns the token of what comes."""
        self.token += 1
        if self.turns and self.turns[-1].state not in {"done", "stopped"}:
            self.turns[-1].state = "stopped"
        return self.token
