"""The chat as HTML: a card for each who answers, the newest prompt first; what people and models write stays text."""

from collections.abc import Mapping, Sequence
from html import escape

from merging.playground.chat import Answer
from merging.services.chat import Labels
from viz.panels.try_it.chat_session import Turn

SHOWN = 3
"""Labels that a card names, the most probable ones."""


def status(turn: Turn) -> str:
    """Say how far the newest prompt is, and how fast; those who listen hear only the end."""
    if turn.state == "waiting":
        return "<p>Asked.</p>"
    speed = (
        f"{turn.steps / turn.seconds:.1f} tokens/s each, {turn.counted / turn.seconds:.1f} in all" if turn.steps else ""
    )
    if turn.state == "answering":
        return f"<p>Answering. {speed}</p>"
    if turn.state == "weighing":
        return f"<p>Answered. {speed}. The label words are weighed.</p>"
    word = "Stopped" if turn.state == "stopped" else f"{len(turn.answers)} have answered"
    return f'<p role="status">{word}{f", at {speed}" if speed else ""}.</p>'


def turns_html(turns: Sequence[Turn], tasks: Mapping[str, str]) -> str:
    """Write all prompts with their answers.

    Parameters
    ----------
    tasks : {task: title}, of the turns' tasks
    """
    return "".join(_turn(turn, tasks[turn.task]) for turn in reversed(turns))


def _turn(turn: Turn, task: str) -> str:
    cards = "".join(
        _card(*turn.titles[name], answer, turn.labels.get(name), turn.state, task)
        for name, answer in turn.answers.items()
    )
    how = (
        "greedy"
        if not turn.decoding.temperature
        else f"temperature {turn.decoding.temperature:g}, seed {turn.decoding.seed}"
    )
    notes = [f"at most {turn.decoding.most} tokens", how, *(["chat template"] if turn.template else [])]
    return (
        f'<section class="ms-turn"><h3 class="ms-prompt" dir="auto">{escape(turn.prompt)}</h3>'
        f"<small>{escape(', '.join(notes))}</small>"
        f'<div class="ms-voices">{cards}</div></section>'
    )


def _card(title: str, place: int | None, answer: Answer, labels: Labels | None, state: str, task: str) -> str:
    colour = f" ms-task-{place % 8}" if place is not None else ""
    count = len(answer.tokens)
    end = "" if answer.ended else ", goes on" if state == "answering" else ", cut here"
    text = escape(answer.text.strip()) or '<span class="ms-muted">nothing</span>'
    weighed = ""
    if labels:
        best = sorted(labels, key=lambda one: -one[1])[:SHOWN]
        said = ", ".join(f"{escape(label)} {p:.2f}" for label, p in best)
        weighed = f"<small>{escape(task)}: {said}</small>"
    return (
        f'<article class="ms-voice{colour}"><h4>{escape(title)}</h4><p dir="auto">{text}</p>{weighed}'
        f"<small>{count} token{'s' if count != 1 else ''}{end}</small></article>"
    )
