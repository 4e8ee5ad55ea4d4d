"""One self-contained HTML file about a set of adapters: the figures of the app, with Plotly inside, no request to
anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from viz.figures.magnitude import magnitude_distribution, magnitude_quantiles
from viz.figures.overlap import overlap_matrix, subspace_overlap
from viz.figures.theme import Figure
from viz.figures.weights import cosine_of_updates, energy_against_rank, norms_per_module, signs_per_module
from viz.panels.kit.plot import SCRIPTS, STYLES, TEMPLATE, payload

PAGE_STYLE = """
body { margin: 0; font-family: system-ui, sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 16px; }
main > h1 { font-size: 20px; }
main > .ms-words { max-width: 80ch; }
#ms-report { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
#ms-report .ms-card {
  min-width: 0; padding: 14px; background: var(--ms-card); border: 1px solid var(--ms-line); border-radius: 10px;
}
.ms-scroll { overflow-x: auto; }
main > .ms-scroll table { border-collapse: collapse; font-size: 13px; margin: 8px 0 16px; }
main > .ms-scroll :is(td, th) {
  padding: 4px 10px; border-bottom: 1px solid var(--ms-line); text-align: left; white-space: nowrap;
}
"""
START = """
document.body.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
for (const card of document.querySelectorAll("[data-figure]")) {
  mergescopePlot(card, { value: document.getElementById(card.dataset.figure).textContent }, () => {});
}
"""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the report shows, as plain tables.

    Attributes
    ----------
    adapters, modules : see `merging.diagnostics.compatibility.CompatibilityReport`
    problems, warnings : sentences
    columns, magnitude_variance, cosines, signs, spectra : see the functions of these names in
        `merging.diagnostics.measures`
    overlaps : {"A": frame, "B": frame} with adapter_a, adapter_b, module, overlap
    chance : {"A": level, "B": level}
    """

    adapters: pd.DataFrame
    modules: pd.DataFrame
    problems: Sequence[str]
    warnings: Sequence[str]
    columns: pd.DataFrame
    magnitude_variance: pd.DataFrame
    cosines: pd.DataFrame
    signs: pd.DataFrame
    spectra: pd.DataFrame
    overlaps: Mapping[str, pd.DataFrame]
    chance: Mapping[str, float]


def html_report(inspection: Inspection) -> str:
    """Return the whole page as text, under 6 MB for pools of the usual size."""
    figures = _figures(inspection)
    cards = "".join(_card(f"figure-{i}", title) for i, (title, _) in enumerate(figures))
    data = "".join(
        f'<script type="application/json" id="figure-{i}">{_inert(value)}</script>'
        for i, (_, value) in enumerate(figures)
    )
    scripts = "".join(f"<script>{_inert(path.read_text(encoding='utf-8'))}</script>" for path in SCRIPTS)
    style = "".join(path.read_text(encoding="utf-8") for path in STYLES)
    names = ", ".join(escape(str(name)) for name in inspection.adapters["adapter"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Mergescope: {names}</title><style>{style}{PAGE_STYLE}</style>{scripts}</head>"
        '<body><gradio-app><div class="gradio-container"><main>'
        f"<h1>Mergescope: {len(inspection.adapters)} adapters</h1>{_words(inspection)}"
        f'<div class="ms-scroll" tabindex="0" role="region" aria-label="Adapters">{_table(inspection.adapters)}</div>'
        f'<div id="ms-report">{cards}</div></main></div></gradio-app>{data}<script>{START}</script></body></html>'
    )


def _figures(inspection: Inspection) -> list[tuple[str, str]]:
    names = [str(name) for name in inspection.adapters["adapter"]]
    norms = inspection.modules.pivot_table(index="module", columns="adapter", values="norm", sort=False)[names]
    columns = inspection.columns.assign(task=inspection.columns["adapter"])
    quantiles = magnitude_quantiles(columns, names)
    variance = inspection.magnitude_variance["variance"].mean()
    figures: list[tuple[str, Figure, str, pd.DataFrame]] = [
        (
            "Norm of the update, ||B·A||, per module",
            norms_per_module(norms),
            "Frobenius norm of each adapter's scaled update, modules in the order of the layers. A row that outshines "
            "the others will dominate a sum.",
            norms.reset_index(),
        ),
        (
            "Magnitude distribution, log₁₀ column norm",
            magnitude_distribution(quantiles, quantiles[["quantile"]], names),
            f"Norms of the columns of each B·A. Variance across adapters / mean²: {variance:.2f}; DO-Merging (arXiv "
            "2505.15875) says: the larger, the worse the merge.",
            quantiles,
        ),
    ]
    for side, rows in (("A", "rows of A"), ("B", "columns of B")):
        matrix = overlap_matrix(_mean(inspection.overlaps[side], "overlap"), names)
        figures.append(
            (
                f"Subspace overlap, {rows}, 0 to 1",
                subspace_overlap(matrix),
                f"Mean cos² of the principal angles, averaged over modules; by chance {inspection.chance[side]:.2f} "
                "(Hu et al., LoRA, section 7.2).",
                matrix.rename_axis("adapter").reset_index(),
            )
        )
    cosines = overlap_matrix(_mean(inspection.cosines, "cosine").rename(columns={"cosine": "overlap"}), names)
    energy = inspection.spectra.groupby(["adapter", "index"], sort=False)["energy"].mean().reset_index()
    figures += [
        (
            "Cosine of the updates, −1 to 1",
            cosine_of_updates(cosines),
            "⟨W_a, W_b⟩ / (||W_a|| ||W_b||), averaged over modules. Near 0: a sum keeps both at full length (Ilharco "
            "et al., Task Arithmetic).",
            cosines.rename_axis("adapter").reset_index(),
        ),
        (
            "Energy kept after truncation, share of ||B·A||²",
            energy_against_rank(energy, names),
            "How much of an update its first directions hold, averaged over modules: what an export at a lower rank "
            "keeps of it alone.",
            energy,
        ),
        (
            "Sign conflict, share of entries and of magnitude",
            signs_per_module(inspection.signs),
            "Grey: entries that two adapters or more change in opposite directions (TIES, arXiv 2306.01708). Blue: "
            "what cancels in the sum.",
            inspection.signs,
        ),
    ]
    return [
        (title, payload(figure, caption, table, f"mergescope_{i}"))
        for i, (title, figure, caption, table) in enumerate(figures)
    ]


def _inert(text: str) -> str:
    """Keep a script's own text from closing its element."""
    return text.replace("</", "<\\/")


def _mean(pairs: pd.DataFrame, value: str) -> pd.DataFrame:
    return pairs.groupby(["adapter_a", "adapter_b"], sort=False)[value].mean().reset_index()


def _card(figure: str, title: str) -> str:
    drawn = TEMPLATE.format(id=f"{figure}-card", title=escape(title), empty="")
    return f'<div class="ms-card" data-figure="{figure}">{drawn}</div>'


def _words(inspection: Inspection) -> str:
    verdict = "These adapters cannot be merged." if inspection.problems else "These adapters can be merged."
    lines = "".join(f"<li>{escape(line)}</li>" for line in (*inspection.problems, *inspection.warnings))
    return f'<div class="ms-words"><p>{verdict}</p><ul>{lines}</ul></div>'


def _table(frame: pd.DataFrame) -> str:
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in frame.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(_show(value))}</td>" for value in row) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _show(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
