"""A visitor's own task from a file with texts and labels."""

from pathlib import Path

from merging.errors import MergeError
from merging.tasks.files import read_table
from merging.tasks.task import Task

LARGEST = 200_000_000  # bytes: 100,000 texts of 250 words have 146 MB
MOST_ROWS = 200_000  # 100,000 texts of 20 words are read in 3 s, and the server is everybody's


def read_task(path: Path) -> Task:
    """Read a task from a CSV, TSV or JSONL file; its name is the file's, its columns are guessed from their names.

    Raises
    ------
    MergeError
        With a sentence for people (see `merging.tasks.files.read_table`), also for more than `MOST_ROWS` rows.
    """
    table = read_table(path, max_bytes=LARGEST)
    if len(table) > MOST_ROWS:
        raise MergeError(
            f"{path.name} has {len(table):,} rows: at most {MOST_ROWS:,} can be used here, take a part of it."
        )
    return table.task()
