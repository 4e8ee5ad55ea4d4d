"""The gallery: every figure of both papers as a card that draws its figure when it is opened (assets/js/gallery.js)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr
import orjson

from merging.errors import MergeError
from merging.recipes.spec import K
from merging.services.gallery import Card
from merging.services.lessons import filled, measure
from merging.services.workbench import Workbench
from viz.panels.diagnose.do_views import DoViews
from viz.panels.kit.plot import GALLERY_HEAD, TEMPLATE
from viz.panels.merge.views import rank_view
from viz.panels.osrm.found import SIMPLEST, Found

SECOND_HAND = "Second-hand: the paper's body could not be read, this comes from reviews and re-implementations."
RANK_OF = ("trec", "3", "query")  # the task, layer and module whose rank is drawn
JS = 'window.mergescopeGallery(element, props, watch, (name) => trigger("draw", { name }))'


@dataclass(frozen=True)
class Drawings:
    """Where the figures come from: the shipped experiments, as their own tabs draw them."""

    workbench: Workbench
    osrm: Found
    do_merging: DoViews

    def draw(self, kind: str) -> str:
        """Draw one figure, see `Card.draw`."""
        source, _, name = kind.partition("/")
        if source == "rank":
            return rank_view(self.workbench, "papers", K, *RANK_OF)
        if source == "do":
            return self.do_merging.show(name)
        if name.startswith("found_"):
            return self.osrm.along(name, SIMPLEST)
        shown: dict[str, Callable[[], str]] = {
            "interference": self.osrm.interference,
            "drift": self.osrm.drift,
            "scaling": lambda: self.osrm.scaling(SIMPLEST),
            "effects": lambda: self.osrm.effects(SIMPLEST),
        }
        return shown[name]()


def drawn(cards: Sequence[Card], drawings: Drawings, name: str) -> str:
    """Draw the figure of the card of that name, packed with it.

    Raises
    ------
    MergeError
        If there is no such card.
    """
    card = next((card for card in cards if card.id == name), None)
    if card is None:
        raise MergeError(f"There is no figure {name[:40]!r} in the gallery: open one from its list.")
    return orjson.dumps({"name": name, "shown": orjson.Fragment(drawings.draw(card.draw))}).decode()


def gallery_html(cards: Sequence[Card], tables: Path) -> gr.HTML:
    """Make the gallery with all its cards closed; its event is `draw`."""
    papers = dict.fromkeys(card.paper for card in cards)
    sections = "".join(
        f"<h3>{paper}</h3>" + "".join(_card(card, tables) for card in cards if card.paper == paper) for paper in papers
    )
    counts = ", ".join(
        f"{sum(card.outcome == outcome for card in cards)} {outcome}"
        for outcome in dict.fromkeys(card.outcome for card in cards)
    )
    heading = f"<h2>Every figure of both papers</h2><p>{len(cards)} cards: {counts}. Open one to draw it.</p>"
    return gr.HTML(
        html_template=f'<section class="ms-gallery" aria-label="Figures of both papers">{heading}{sections}</section>',
        js_on_load=JS,
        head=GALLERY_HEAD,
        elem_id="ms-gallery",
        apply_default_css=False,
        container=False,
        padding=False,
    )


def _card(card: Card, tables: Path) -> str:
    outcome = escape(f"{card.outcome}: {card.because}" if card.because else card.outcome)
    mark = card.outcome.split()[0]
    numbers = {name: measure(number, tables) for name, number in card.numbers.items()}
    measured = filled(card.measured, numbers) if card.measured else "not measured yet; the command below does it."
    rows = [("The paper", escape(card.claim)), ("Here", escape(measured)), ("Outcome", outcome)]
    said = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows)
    hand = f'<p class="ms-muted">{SECOND_HAND}</p>' if card.second_hand else ""
    title = escape(
        f"{card.paper}, figure {card.figure}" if card.figure[0].isdigit() else f"{card.paper}, {card.figure}"
    )
    name = escape(card.title)
    return (
        f'<details class="ms-card" id="ms-figure-{card.id}" data-card="{card.id}">'
        f'<summary><b>{title}</b> {name} <span class="ms-outcome" data-outcome="{mark}">{escape(card.outcome)}</span>'
        f"</summary><dl>{said}</dl>{hand}{TEMPLATE.format(id=f'ms-gallery-{card.id}', title=name, empty='')}"
        f'<p class="ms-gallery-links">Repeat it: <code>{escape(card.command)}</code> '
        f'<button type="button" data-lesson="{card.lesson}" data-step="{card.step}" '
        f'aria-label="Lesson of {title}">Its lesson</button> <a href="?figure={card.id}">Link to this figure</a></p>'
        "</details>"
    )
