"""The wiring of the chat."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from merging.playground.chat import ANSWER, HOTTEST, Decoding
from merging.services.limits import LIMITS
from merging.services.settings import MOST_SEED
from viz.panels.kit.events import NOW, QUIET, turns
from viz.panels.kit.picked import picked
from viz.panels.osrm.plan import html
from viz.panels.try_it.chat import ABOUT, ChatHandlers
from viz.panels.try_it.session import TrySession

DRAWN = ("turns", "status")


@dataclass(frozen=True)
class ChatSection:
    """The components; ``settings`` are what a prompt is asked with, in the order of `ChatHandlers.begin`."""

    card: gr.Column
    prompt: gr.Textbox
    settings: list[Any]
    take: gr.Button
    ask: gr.Button
    stop: gr.Button
    clear: gr.Button
    status: gr.HTML
    turns: gr.HTML


def lay_out_chat() -> ChatSection:
    """Lay the section out; it is hidden until a pool's base writes."""
    start = Decoding()
    with gr.Column(elem_classes=["ms-card", "ms-full"], elem_id="ms-chat", visible=False) as card:
        html("ms-chat-title", f"<h2>Chat</h2><p>{ABOUT}</p>")
        prompt = gr.Textbox(
            label="Prompt",
            lines=3,
            max_lines=10,
            max_length=LIMITS.text_characters,
            placeholder="Ask something",
            elem_id="ms-chat-prompt",
        )
        with gr.Row(elem_classes="ms-choices"):
            temperature = gr.Slider(
                *(0, HOTTEST, start.temperature),
                step=0.1,
                label="Temperature (0: the likeliest word)",
                elem_id="ms-chat-temperature",
                elem_classes="ms-slider",
            )
            most = gr.Slider(
                *(1, ANSWER, start.most),
                step=1,
                label="Tokens of an answer at most",
                elem_id="ms-chat-most",
                elem_classes="ms-slider",
            )
            number: dict[str, Any] = {"precision": 0, "minimum": 0, "maximum": MOST_SEED}
            seed = gr.Number(start.seed, **number, label="Seed", elem_id="ms-chat-seed")
            template = gr.Checkbox(False, label="In the base's chat template", elem_id="ms-chat-template")
        with gr.Row(elem_classes="ms-buttons"):
            ask = gr.Button("Ask", size="sm", variant="primary", elem_id="ms-chat-ask")
            stop = gr.Button("Stop", size="sm", elem_id="ms-chat-stop")
            take = gr.Button("Your text, as the task asks it", size="sm", elem_id="ms-chat-take")
            clear = gr.Button("Clear the chat", size="sm", elem_id="ms-chat-clear")
        status = html("ms-chat-status")
        turns = picked("ms-chat-turns")
    return ChatSection(card, prompt, [temperature, most, seed, template], take, ask, stop, clear, status, turns)


def wire_chat(section: ChatSection, panel: ChatHandlers, state: gr.State, after: Any) -> None:
    """Wire the section; ``after`` is the event after which the session holds the Merge tab's merge."""
    outputs = [section.turns, section.status]

    def send(values: dict[str, str]) -> list[Any]:
        return [values.get(name, gr.skip()) for name in DRAWN]

    def opened(session: TrySession) -> Any:
        return gr.update(visible=panel.shown(session))

    def begin(session: TrySession, written: str, *settings: Any) -> list[Any]:
        return send(panel.begin(session, written or "", *settings))

    def answer(session: TrySession) -> Iterator[list[Any]]:
        for values in panel.answer(session):
            yield send(values)
        yield send({})

    def take(session: TrySession) -> list[Any]:
        text, values = panel.take(session)
        return [gr.skip() if text is None else text, *send(values)]

    after.then(opened, state, section.card, **NOW)
    asked = gr.on(
        [section.ask.click, section.prompt.submit], begin, [state, section.prompt, *section.settings], outputs, **NOW
    )
    asked.then(answer, state, outputs, **turns("chats"), **QUIET)
    section.stop.click(lambda session: send(panel.stop(session)), state, outputs, **NOW)
    section.clear.click(lambda session: send(panel.clear(session)), state, outputs, **NOW)
    section.take.click(take, state, [section.prompt, *outputs], **NOW)
