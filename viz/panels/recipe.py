"""The recipe of the current merge as text, to read and to copy."""

from html import escape

import gradio as gr

from viz.panels.component import ASSETS

TEMPLATE = """
<section class="ms-recipe" aria-labelledby="ms-recipe-title">
  <h2 id="ms-recipe-title">Recipe</h2>
  <p class="ms-muted">Save it as a file: <code>mergescope merge recipe.yaml -o folder</code> makes the same adapter again.</p>
  <div class="ms-tools"><button type="button">Copy</button></div>
  <pre tabindex="0" role="region" aria-label="Recipe as YAML"><code>${value}</code></pre>
</section>
"""


def recipe() -> gr.HTML:
    """Make the empty recipe; its value is made by :func:`recipe_html`."""
    return gr.HTML(
        value="",
        html_template=TEMPLATE,
        js_on_load=(ASSETS / "js" / "copy.js").read_text(encoding="utf-8"),
        elem_id="ms-recipe",
        apply_default_css=False,
        container=False,
        padding=False,
    )


def recipe_html(yaml: str) -> str:
    """Write a recipe's text as HTML."""
    return escape(yaml)
