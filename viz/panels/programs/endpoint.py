"""How a function becomes an endpoint: what it is given is checked against its annotations, and its errors are one
sentence.
"""

import inspect
import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import wraps
from time import monotonic
from typing import Annotated, Any, get_args

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal
from pydantic import BeforeValidator, ValidationError, validate_call

from merging.errors import MergeError
from merging.features.progress import Progress
from merging.services.limits import LIMITS

SERVED = "/gradio_api/file="
"""Stands before a file's path in its address."""


def _as_file(given: Any) -> Any:
    """Return what Gradio calls a file; an MCP client names an uploaded one by its address alone."""
    return {"path": given, "meta": {"_type": "gradio.FileData"}} if isinstance(given, str) else given


Upload = Annotated[gr.FileData, BeforeValidator(_as_file)]
"""A file that was uploaded before: as `gradio_client.handle_file` sends it, or its address."""


def uploaded(files: list[gr.FileData] | None) -> list[str]:
    """Return where uploaded files are.

    Raises
    ------
    MergeError
        For anything that was not uploaded here.
    """
    paths = [file.path.rpartition(SERVED)[2] for file in files or []]
    for place, path in enumerate(paths, 1):
        if not is_in_or_equal(path, get_upload_folder()) or not path.endswith(".zip"):
            raise MergeError(f"Adapter {place} is no zip file that was uploaded here: upload it first.")
    return paths


def in_time(steps: Iterator[Any], seconds: float) -> Generator[Any, None, None]:
    """Yield steps for so long: nobody notices when an MCP client has gone, so its call must end by itself.

    Raises
    ------
    MergeError
        If there has been nothing but `Progress` by then; else the last result stays.
    """
    end, answered = monotonic() + seconds, False
    with closing(steps):  # type: ignore[type-var]
        for step in steps:
            if monotonic() > end:
                if answered:
                    return
                raise MergeError(f"This takes longer than the {seconds} seconds of a call here: ask for less at once.")
            answered = answered or not isinstance(step, Progress)
            yield step


def endpoint(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Return a function as `gr.api` takes it; its docstring stays the description of endpoint and tool.

    Parameters
    ----------
    function : a generator of results, each in place of the one before, and of `Progress`; the last result stays, see
        `in_time`. What it is given is checked against its annotations.
    """
    signature = inspect.signature(function)
    checked = validate_call(function)

    @wraps(function)
    def called(*given: Any) -> Iterator[Any]:
        *values, request, progress = given
        tool = request.headers.get("x-gradio-user") == "mcp"
        try:
            asked = checked(**dict(zip(signature.parameters, values, strict=True)))
            with closing(in_time(asked, LIMITS.program_seconds)) as steps:
                for step in steps:
                    if isinstance(step, Progress):
                        progress((step.done, step.total or None), desc=step.what)
                    else:
                        # what a tool returns is written by Gradio as Python does, here as JSON
                        yield (
                            json.dumps(step, ensure_ascii=False) if tool and not isinstance(step, gr.FileData) else step
                        )
        except ValidationError as error:
            first = error.errors()[0]
            name, message = first["loc"][0], first["msg"][0].lower() + first["msg"][1:]
            sentence = f"{name} = {str(first['input'])[:40]!r} does not fit: {message}."
            raise gr.Error(sentence, print_exception=False) from error
        except MergeError as error:
            raise gr.Error(str(error), print_exception=False) from error

    # Gradio takes one line for each argument
    called.__doc__ = re.sub(r"\n {8}", " ", inspect.getdoc(function) or "")
    # it finds out here what to pass: it knows the progress by its default and, of an endpoint, passes over parameters
    # by their types alone
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    added = {"request": None, "progress": gr.Progress()}
    parameters = [inspect.Parameter(name, kind, default=default) for name, default in added.items()]
    [step] = get_args(signature.return_annotation)
    result = get_args(step)[-1] if Progress in get_args(step) else step
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*signature.parameters.values(), *parameters], return_annotation=result
    )
    called.__annotations__ = function.__annotations__ | dict.fromkeys(added, gr.Request)
    return called
