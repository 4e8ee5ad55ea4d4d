"""What one visitor looks at among the rows that a merge breaks."""

from dataclasses import dataclass, field

import pandas as pd

from merging.playground.rows import Outcome
from merging.services.settings import Settings


@dataclass(eq=False)
class Broke:
    """What one visitor looks at among the rows of a task.

    Attributes
    ----------
    pair : (label of the first, label of the second) that rows are limited to
    rows : of `merging.playground.changed_rows`, of the comparison that is shown
    known : {(merge or None, task, rows): outcome}
    token : counts what is asked
    """

    task: str = ""
    against: str = "own"
    kind: str = "broken"
    pair: tuple[str, str] | None = None
    search: str = ""
    page: int = 0
    rows: pd.DataFrame | None = None
    table: pd.DataFrame | None = None
    known: dict[tuple[Settings | None, str, int], Outcome] = field(default_factory=dict)
    asked: tuple[Settings, Settings | None, int] | None = None
    token: int = 0

    @property
    def shown(self) -> pd.DataFrame:
        """The rows that kind, pair and search leave."""
        assert self.rows is not None
        rows = self.rows[self.rows["kind"] == self.kind]
        if self.pair is not None:
            rows = rows[(rows["first"] == self.pair[0]) & (rows["second"] == self.pair[1])]
        return rows[rows["text"].str.contains(self.search.strip(), case=False, regex=False)] if self.search else rows
