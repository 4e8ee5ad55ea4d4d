"""The adapters that a visitor brought, as a table."""

import base64
from html import escape

import pandas as pd

from merging.diagnostics.rehearsal import summary

COLUMNS = {
    "name": "adapter",
    "rank": "rank",
    "alpha": "alpha",
    "modules": "modules",
    "size": "‖ΔW‖ ÷ ‖W₀‖",
    "megabytes": "MB",
    "labels": "head",
    "licence": "licence",
    "base": "base",
}

MODULES = {
    "module": "module",
    "kind": "kind",
    "shape": "out × in",
    "what": "what",
    "merged_from": "from",
    "zero_in": "zero here in",
    "why": "why",
}
MOST_ROWS = 400
"""Rows that are shown; the file has all."""


def table_html(table: pd.DataFrame) -> str:
    """Write the adapters as a table; those that cannot be used are greyed and say why."""
    if table.empty:
        return (
            '<p class="ms-muted">Nothing here yet: drop zip files and tables of texts, an adapter’s two files, or name '
            "one on the hub.</p>"
        )
    head = "".join(f'<th scope="col">{title}</th>' for title in (*COLUMNS.values(), "fits"))
    rows = []
    for row in table.to_dict("records"):
        cells = "".join(f"<td>{escape(str(row[name]))}</td>" for name in COLUMNS)
        fits = (
            f'<span class="ms-warn">{escape(row["problem"])}</span>'
            if row["problem"]
            else '<span class="ms-good">yes</span>'
        )
        rows.append(f'<tr{" class=ms-grey" if row["problem"] else ""}>{cells}<td class="ms-why">{fits}</td></tr>')
    return (
        '<div class="ms-scroll" tabindex="0" role="region" aria-label="Your adapters"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def modules_html(rows: pd.DataFrame) -> str:
    """Write what a merge of them would do, module by module, folded below its summary, with all of it as a CSV file.

    Parameters
    ----------
    rows : of `merging.diagnostics.rehearsal.dry_run`
    """
    head = "".join(f'<th scope="col">{title}</th>' for title in MODULES.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(row[name]))}</td>" for name in MODULES) + "</tr>"
        for row in rows.head(MOST_ROWS).to_dict("records")
    )
    more = f"<p>The first {MOST_ROWS} of {len(rows):,} rows.</p>" if len(rows) > MOST_ROWS else ""
    file = base64.b64encode(rows.to_csv(index=False).encode()).decode()
    return (
        f'<details class="ms-dry-run"><summary>What a merge would do: {escape(summary(rows))}.</summary>'
        '<div class="ms-scroll" tabindex="0" role="region" aria-label="What a merge would do, module by module"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}"
        f'<p><a href="data:text/csv;base64,{file}" download="mergescope_dry_run.csv">Download as CSV</a></p></details>'
    )
