"""The Lessons tab and the card over the other tabs: layout and wiring; what a step does is in handlers.py."""

from typing import Any

import gradio as gr

from merging.services.gallery import gallery
from merging.services.lessons import shipped_lessons, shipped_tables
from merging.services.workbench import Workbench
from viz.panels.kit.events import NOW, QUIET
from viz.panels.kit.picked import picked
from viz.panels.lessons.card import card, code_html, list_html
from viz.panels.lessons.gallery import Drawings, drawn, gallery_html
from viz.panels.lessons.handlers import Before, LessonHandlers
from viz.panels.merge.controls import Catalogue
from viz.panels.merge.panel import MergeTab, become
from viz.panels.merge.session import Session

ARRIVED = "() => window.mergescopeLesson.arrived()"


def lessons_tab(drawings: Drawings) -> None:
    """Lay out the list of lessons and the gallery."""
    cards = gallery()
    with gr.Column(elem_id="ms-lessons"):
        gr.HTML(list_html(shipped_lessons()), apply_default_css=False, container=False, padding=False)
        shown = gallery_html(cards, shipped_tables())

    def draw(event: gr.EventData) -> str:
        return drawn(cards, drawings, str(event.name))

    shown.draw(draw, None, shown, **QUIET)


def lessons_card(workbench: Workbench, methods: Catalogue, merging: MergeTab) -> None:
    """Lay the card out and wire it to the Merge tab."""
    lessons = shipped_lessons()
    panel, before = LessonHandlers(workbench, methods, lessons), gr.State(Before())
    shown = card(lessons, shipped_tables())
    code = picked("ms-lesson-code")
    controls = merging.controls

    def step(before: Before, session: Session, event: gr.EventData) -> list[Any]:
        return become(controls, panel.step(before, session, str(event.name)))

    def leave(before: Before, session: Session) -> list[Any]:
        return become(controls, panel.leave(before, session))

    def draw_code(event: gr.EventData) -> str:
        return code_html(str(event.name))

    shown.code(draw_code, None, code, **NOW)
    code.pick(lambda: "", None, code, **NOW)
    for trigger, move in ((shown.step, step), (shown.leave, leave)):
        event = trigger(move, [before, merging.session], list(controls.values()), **NOW)
        merging.after(event)
        event.then(None, js=ARRIVED, **NOW)
