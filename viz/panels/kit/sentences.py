"""Every error that leaves the server is one sentence, also for those who call it past the page."""

import logging
from contextlib import nullcontext
from typing import Any

import gradio as gr
from fastapi import Request
from fastapi.responses import JSONResponse

from merging.errors import MergeError
from viz.panels.kit.events import answering

MISFIT = (
    "The server could not do this: what it was sent does not fit the page, or it met a fault of its own, which its log "
    "shows. Reload the page and try again."
)


class Sentences(gr.Blocks):
    """Blocks whose events fail with a sentence: the library's, or `MISFIT` for what nobody has foreseen.

    Gradio answers the latter with no words at all, and a page's events can be called with anything in any order: this
    is the one place where all errors are caught, since here the stranger is at the other end.
    """

    async def process_api(self, block_fn: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Process one event as Gradio does; raises `gr.Error` for whatever goes wrong."""
        event = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        try:
            with nullcontext() if event.queue else answering():
                return await super().process_api(block_fn, *args, **kwargs)
        except gr.Error:
            raise
        except MergeError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            raise gr.Error(MISFIT) from error


async def misfit(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that failed before it reached any event."""
    logging.getLogger("mergescope").warning("a request to %s failed: %s", request.url.path, type(error).__name__)
    return JSONResponse({"error": MISFIT}, 500)
