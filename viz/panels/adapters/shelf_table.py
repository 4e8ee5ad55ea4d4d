"""The adapters that a visitor brought, as a table."""

from html import escape

import pandas as pd

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
