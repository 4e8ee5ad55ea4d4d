"""The dry run below the table of adapters: summed up in a line, whole in its file, and nobody's names are markup."""

import base64
import io
import re

import pandas as pd

from merging.diagnostics.rehearsal import Row
from viz.panels.adapters.shelf_table import MOST_ROWS, modules_html


def rows(count: int) -> pd.DataFrame:
    found = [Row("<b>broken</b>", "adapter", "", "refused", "", "", "it is DoRA.")]
    found += [
        Row(f"layer.{i}", "low-rank", "8x8", "merged", "a, b" if i else "a", "" if i else "b") for i in range(count)
    ]
    return pd.DataFrame([*found, Row("head of a", "head", "2x8", "left out", "a", "")], columns=Row._fields)


def test_the_line_counts_and_the_file_has_every_row() -> None:
    frame = rows(MOST_ROWS + 5)
    text = modules_html(frame)
    said = f"{MOST_ROWS + 5} modules merged, 1 of them zero in some adapter; 1 x adapter refused; 1 x head left out."
    assert f"<summary>What a merge would do: {said}</summary>" in text
    assert text.count("<tr>") == MOST_ROWS + 1
    assert f"The first {MOST_ROWS} of {len(frame)} rows." in text
    [file] = re.findall(r"data:text/csv;base64,([^\"]+)", text)
    read = pd.read_csv(io.BytesIO(base64.b64decode(file)), keep_default_na=False)
    pd.testing.assert_frame_equal(read, frame)


def test_names_are_text() -> None:
    assert "<b>broken" not in modules_html(rows(1))
