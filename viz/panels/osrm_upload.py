"""A visitor's own task from a file with texts and labels."""

from pathlib import Path

from merging.task_files import read_table
from merging.tasks import Task

LARGEST = 20_000_000  # bytes


def read_task(path: Path) -> Task:
    """Read a task from a CSV, TSV or JSONL file; its name is the file's, its columns are guessed from their names.

    Raises
    ------
    MergeError
        With a sentence for people (see `merging.task_files.read_table`).
    """
    return read_table(path, max_bytes=LARGEST).task()
