"""A visitor's own task from a file with texts and labels."""

from pathlib import Path

from merging.errors import MergeError
from merging.services.limits import LIMITS
from merging.tasks.files import read_table
from merging.tasks.task import Task


def read_task(path: Path) -> Task:
    """Read a task from a CSV, TSV or JSONL file; its name is the file's, its columns are guessed from their names.

    Raises
    ------
    MergeError
        With a sentence for people (see `merging.tasks.files.read_table`), also for more than `Limits.table_rows` rows.
    """
    table = read_table(path, max_bytes=LIMITS.table_bytes)
    if len(table) > LIMITS.table_rows:
        raise MergeError(
            f"{path.name} has {len(table):,} rows: at most {LIMITS.table_rows:,} can be used here, take a part of it."
        )
    return table.task()
