"""What happens in the chat: plain values in, texts for its components out, no Gradio."""

from collections.abc import Iterator
from time import monotonic
from typing import Any

from merging.errors import MergeError
from merging.playground.chat import ANSWER, PROMPT, Decoding
from merging.services.chat import OWN, Chat
from viz.panels.kit.alert import alert
from viz.panels.kit.events import paced
from viz.panels.try_it.chat_html import status, turns_html
from viz.panels.try_it.chat_session import Turn
from viz.panels.try_it.session import TrySession

PAUSE = 0.15
MOST_TURNS = 8
"""Prompts that stay on the page with their answers."""
ABOUT = (
    f"Base, adapters and merge answer the same prompt, with the same random numbers. At most {PROMPT} tokens of a "
    f"prompt are read and {ANSWER} of an answer are written; each prompt is answered afresh. Nothing is stored: it "
    "goes with this page."
)


class ChatHandlers:
    """The handlers, on one chat; what belongs to a visitor is in the session that they are given."""

    def __init__(self, chat: Chat) -> None:
        self.chat, self.workbench = chat, chat.workbench

    def shown(self, session: TrySession) -> bool:
        """Tell whether the base of the merge that is looked at writes at all."""
        return session.settings is not None and self.chat.writes(session.settings.pool)

    def begin(
        self, session: TrySession, written: str, temperature: float, most: float, seed: float | None, template: bool
    ) -> dict[str, str]:
        """Take a prompt up; whatever is still being answered stops."""
        session.talk.next()
        settings = session.settings
        if settings is None:
            return {}
        try:
            decoding = Decoding(float(temperature), int(most), int(seed or 0))
        except MergeError as error:
            return {"status": alert(error)}
        pinned = {"pinned": session.pinned[1]} if session.pinned else {}
        tasks = self.workbench.tasks(settings.pool)
        titles: dict[str, tuple[str, int | None]] = {"base": ("base", None)}
        titles |= {f"{OWN}{task}": (self.workbench.title(task), place) for place, task in enumerate(tasks)}
        titles |= {"merge": ("merge", None), "pinned": ("pinned", None)}
        turn = Turn(
            settings.pool, written, {"merge": settings} | pinned, session.task, decoding, bool(template), titles
        )
        session.talk.turns = [*session.talk.turns, turn][-MOST_TURNS:]
        return self._drawn(session)

    def answer(self, session: TrySession) -> Iterator[dict[str, str]]:
        """Stream the answers to the last prompt, then the likelihoods of the label words."""
        talk = session.talk
        turn, token = talk.turns[-1] if talk.turns else None, talk.token
        if turn is None or turn.state != "waiting":
            return
        try:
            yield from self._answer(session, turn, token)
        except MergeError as error:
            if talk.token == token:
                talk.turns.remove(turn)
                yield self._drawn(session) | {"status": alert(error)}
            return
        if talk.token == token:
            turn.state = "done"
            yield self._drawn(session)

    def _answer(self, session: TrySession, turn: Turn, token: int) -> Iterator[dict[str, str]]:
        talk = session.talk
        for step, due in paced(self.chat.ready(*turn.merges.values()), PAUSE):
            if talk.token != token:
                return
            if due:
                yield {"status": f"<p>{step.sentence}</p>"}
        prompt = self.chat.prompt(turn.pool, turn.prompt, turn.template)
        voices = self.chat.voices(turn.pool, turn.task, turn.merges)
        turn.state, began = "answering", None
        for answers, due in paced(self.chat.answers(turn.pool, prompt, voices, turn.decoding), PAUSE):
            if talk.token != token:
                return
            turn.answers = answers
            written = sum(len(answer.tokens) for answer in answers.values())
            if began is None:
                began, first = monotonic(), written
            else:
                turn.steps, turn.counted, turn.seconds = turn.steps + 1, written - first, monotonic() - began
            if due:
                yield self._drawn(session)
        turn.state = "weighing"
        yield self._drawn(session)
        for (name, labels), due in paced(self.chat.labels(turn.pool, prompt, voices, turn.task), PAUSE):
            if talk.token != token:
                return
            turn.labels[name] = labels
            if due:
                yield self._drawn(session)

    def stop(self, session: TrySession) -> dict[str, str]:
        """Stop before the next token, and leave what there is of the answers."""
        session.talk.next()
        return self._drawn(session)

    def clear(self, session: TrySession) -> dict[str, str]:
        """Forget all prompts and answers."""
        session.talk.next()
        session.talk.turns = []
        return self._drawn(session)

    def take(self, session: TrySession) -> tuple[str | None, dict[str, str]]:
        """Give the text of the panel's own box in the prompt of the task that is looked at."""
        settings = session.settings
        if settings is None or not session.text:
            return None, {"status": alert("There is no text: write one in the box “Your text”.")}
        try:
            asked = self.chat.asked(settings.pool, session.task, session.text)
        except MergeError as error:
            return None, {"status": alert(error)}
        return (session.text if asked is None else asked), {}

    def _drawn(self, session: TrySession) -> dict[str, str]:
        turns = session.talk.turns
        names: dict[str, Any] = {turn.task: self.workbench.title(turn.task) for turn in turns}
        return {"turns": turns_html(turns, names), "status": status(turns[-1]) if turns else ""}
