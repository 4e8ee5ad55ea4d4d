"""Run the command line within the test: starting Python anew takes longer than most commands."""

import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from unittest.mock import patch

from merging.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str


def command(*words: object) -> Done:
    """Run `mergescope <words>`; what it does not tell in a sentence is raised."""
    out, err, code = StringIO(), StringIO(), 0
    called = ["mergescope", *map(str, words)]
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", called), patch.dict(os.environ):
        os.environ["COLUMNS"] = "60"
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())
