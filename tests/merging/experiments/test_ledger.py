"""Tables that several processes fill: rows are added whole, and a piece of work is claimed by one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from merging.experiments.ledger import Ledger


def test_rows_are_found_again_by_their_key(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new", "x")
    assert ledger.lacks("runs", task="a")
    for scaling in (0.1 + 0.2, 1.0):
        ledger.append("runs", pd.DataFrame([{"task": "a", "scaling": scaling, "hits": "0012"}]))
    assert not ledger.lacks("runs", task="a", scaling=0.3)
    assert ledger.lacks("runs", task="b")
    assert ledger.rows("runs", scaling=1.0).hits.tolist() == ["0012"]


def test_a_summary_takes_the_place_of_the_last_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "x")
    for value in (1, 2):
        ledger.replace("summary", pd.DataFrame([{"value": value}]))
        assert ledger.table("summary").value.tolist() == [value]


def test_one_process_claims_a_piece_of_work_and_lets_go_of_it(tmp_path: Path) -> None:
    mine, other = Ledger(tmp_path, "x"), Ledger(tmp_path, "x")
    with mine.claim("a/b") as first, other.claim("a/b") as second, other.claim("c") as third:
        assert (first, second, third) == (True, False, True)
    with other.claim("a/b") as again:
        assert again
