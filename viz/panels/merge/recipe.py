"""The recipe card: the current merge as YAML and as Python, to copy, to link to and to save, and a box to paste a
recipe into.
"""

import os
import re
from dataclasses import dataclass
from html import escape

import gradio as gr
import orjson

from merging.errors import MergeError
from merging.methods import METHODS
from merging.services.link import LONGEST, exact_rank, runnable, to_query
from merging.services.program import snippet
from merging.services.settings import Settings
from merging.services.workbench import Workbench
from viz.panels.kit.plot import ASSETS, EARLY_HEAD

SPACE = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

TEMPLATE = """
<section class="ms-recipe" aria-labelledby="ms-recipe-title" data-outer="{outer}">
  <h2 id="ms-recipe-title">Recipe</h2>
  <p class="ms-muted" data-hint></p>
  <div class="ms-tools">
    <button type="button" data-do="copy">Copy</button>
    <button type="button" data-do="link">Copy link</button>
    <button type="button" data-do="save">Download</button>
  </div>
  <div class="ms-form-row">
    <div class="ms-forms" role="group" aria-label="Write the merge as">
      <button type="button" data-form="yaml" aria-pressed="true">YAML</button>
      <button type="button" data-form="python" aria-pressed="false">Python</button>
    </div>
    <p class="ms-muted" role="status" data-said></p>
  </div>
  <pre tabindex="0" role="region" aria-label="Recipe as YAML"><code></code></pre>
</section>
"""


@dataclass(frozen=True)
class Paste:
    """The box for a recipe from elsewhere: its text, its button, and what is said about it."""

    text: gr.Textbox
    apply: gr.Button
    said: gr.HTML


def recipe() -> gr.HTML:
    """Make the empty recipe; its values are made by :func:`recipe_payload`."""
    return gr.HTML(
        html_template=TEMPLATE.format(outer=escape(outer_address())),
        js_on_load=(ASSETS / "js" / "recipe.js").read_text(encoding="utf-8"),
        head=EARLY_HEAD,
        elem_id="ms-recipe",
        apply_default_css=False,
        container=False,
        padding=False,
    )


def paste_box() -> Paste:
    """Make the closed box for a recipe from elsewhere."""
    with gr.Accordion("Paste a recipe", open=False, elem_id="ms-paste"):
        text = gr.Textbox(
            label="Recipe as YAML",
            placeholder="adapters: …",
            lines=6,
            max_lines=12,
            max_length=LONGEST,
            elem_id="ms-paste-text",
        )
        apply = gr.Button("Apply", size="sm", elem_id="ms-paste-apply")
        said = gr.HTML(elem_id="ms-paste-said", apply_default_css=False, container=False, padding=False)
    return Paste(text, apply, said)


def outer_address() -> str:
    """Give the address that visitors see where the app runs in a Space's frame; empty elsewhere, where the page knows
    its own.
    """
    space = os.environ.get("SPACE_ID", "")
    return f"https://huggingface.co/spaces/{space}" if SPACE.fullmatch(space) else ""


def recipe_payload(workbench: Workbench, settings: Settings, limit: int, recipe_yaml: str) -> str:
    """Pack what the card shows: the recipe, the program, the link's query (null where there is none), and what to know
    of them.
    """
    hints = []
    try:
        query, python = to_query(settings, limit), snippet(settings, workbench)
    except MergeError as error:
        query, python = None, f"# {error}\n"
        hints.append(str(error))
    rank = exact_rank(settings, workbench)
    if rank is not None:
        hints.append(f"Rank {rank} holds the dense result exactly; a smaller one is its best approximation.")
    if "task_id" in METHODS[settings.spec.method].needs:
        hints.append(
            "This method has other weights for each task, so no single adapter holds it and the command line writes "
            "none."
        )
    packed = {"yaml": runnable(recipe_yaml, settings, workbench), "python": python, "query": query, "hints": hints}
    return orjson.dumps(packed).decode()
