"""A visitor's own task from a CSV file with the columns text and label."""

from pathlib import Path

import pandas as pd

from merging.errors import MergeError
from merging.tasks import Task

LARGEST = 20_000_000  # bytes
COLUMNS = ("text", "label")


def read_task(path: Path) -> Task:
    """Read a task from a CSV file; its name is the file's.

    Raises
    ------
    MergeError
        With a sentence for people, if the file is too large, not UTF-8, no table with `text` and `label`, or holds rows that
        are no task (see `Task.from_rows`).
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise MergeError(f"{path.name} has {size / 1e6:.0f} MB: at most {LARGEST // 1_000_000} MB can be read here.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MergeError(f"{path.name} is not UTF-8 text: save it as “CSV UTF-8” and choose it again.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MergeError(f"{path.name} is no CSV table: {str(error).strip()}. It needs a header with text and label.") from error
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise MergeError(f"{path.name} has no column {' and no column '.join(missing)}: its header must name text and label.")
    return Task.from_rows(path.stem[:40] or "task", table["text"].tolist(), table["label"].tolist())
