"""The plot component: a Plotly figure in a `gr.HTML` that is updated in place, with caption, table, CSV and PNG.

`gr.Plot` builds a new node for every value, so zoom, hover and legend clicks are lost at each move of a slider. Here
the browser keeps one node and calls `Plotly.react` (assets/js/plot.js). The value is a JSON text made by
:func:`payload`.
"""

from html import escape
from pathlib import Path

import gradio as gr
import orjson
import pandas as pd
import plotly

from viz.figures.theme import Figure

ASSETS = Path(__file__).parents[3] / "assets"
STYLES = tuple(
    ASSETS / "css" / f"{name}.css"
    for name in ("page", "merge", "tune", "diagnose", "adapters", "osrm", "try", "lessons", "server")
)
SCRIPTS = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js", ASSETS / "js" / "plot.js")
DIAGNOSE = (ASSETS / "js" / "norms.js", ASSETS / "js" / "diagnose.js")
LESSON = tuple(ASSETS / "js" / f"{name}.js" for name in ("screen", "two_vectors", "handout", "gallery"))
EARLY = tuple(ASSETS / "js" / f"{name}.js" for name in ("address", "one_of", "words", "access", "place"))
"""Scripts that run before any component does."""


def address(path: Path) -> str:
    """Give the address of a served file; relative, so that the app also works below a root path."""
    return f"gradio_api/file={path.as_posix()}"


HEAD = "".join(f'<script src="{address(path)}"></script>' for path in SCRIPTS)
LESSON_HEAD = "".join(f'<script src="{address(path)}"></script>' for path in LESSON)
GALLERY_HEAD = f"{HEAD}{LESSON_HEAD}"
EARLY_HEAD = "".join(f'<script src="{address(path)}"></script>' for path in EARLY)
"""For the components that need them: Gradio waits for the scripts of a component's head, not of the page's."""
DIAGNOSE_HEAD = EARLY_HEAD + HEAD + "".join(f'<script src="{address(path)}"></script>' for path in DIAGNOSE)

TEMPLATE = """
<figure class="ms-figure" data-empty aria-labelledby="{id}-title">
  <h2 id="{id}-title">{title}</h2>
  <figcaption>{empty}</figcaption>
  <div class="ms-legend"></div>
  <div class="ms-plot"></div>
  <details class="ms-data">
    <summary aria-label="Table of “{title}”">Table</summary>
    <div class="ms-scroll" tabindex="0" role="region" aria-label="{title}: data"><table></table></div>
  </details>
  <div class="ms-tools">
    <button type="button" data-save="csv" aria-label="Download the data of “{title}” as CSV">CSV</button>
    <button type="button" data-save="png" aria-label="Download “{title}” as PNG">PNG</button>
    <button type="button" data-large aria-pressed="false" aria-label="“{title}” on the whole page"><svg width="14" \
height="14" viewBox="0 0 14 14" aria-hidden="true"><path d="M8 1h5v5M13 1 8 6M6 13H1V8M1 13l5-5"/></svg></button>
  </div>
</figure>
"""


def plot(elem_id: str, title: str, empty: str = "") -> gr.HTML:
    """Make a plot component that says `empty`; give it values made by :func:`payload`."""
    return gr.HTML(
        html_template=TEMPLATE.format(id=elem_id, title=escape(title), empty=escape(empty)),
        js_on_load="window.mergescopePlot(element, props, watch)",
        head=HEAD,
        elem_id=elem_id,
        apply_default_css=False,
        container=False,
        padding=False,
    )


def payload(figure: Figure, caption: str, table: pd.DataFrame, filename: str) -> str:
    """Pack a figure with its caption and the table behind it.

    Parameters
    ----------
    figure : dict
        From viz.figures.
    caption : str
        Plain text: how to read the figure.
    table : DataFrame
        What is shown as the table and saved as CSV.
    filename : str
        Name of the downloads, without ending.
    """
    rows = table.astype(object).where(table.notna(), None).to_numpy().tolist()
    data = {"columns": [str(column) for column in table.columns], "rows": rows}
    packed = {"figure": figure, "caption": caption, "table": data, "filename": filename}
    return orjson.dumps(packed, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def serve_files() -> None:
    """Let Gradio hand out the scripts and the style sheet (and nothing beside them)."""
    gr.set_static_paths([*STYLES, *SCRIPTS, *EARLY, *DIAGNOSE, *LESSON])
