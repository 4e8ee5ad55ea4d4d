"""A visitor's page without a browser: it holds the components' values, sends the page's own events as the browser does,
and follows what comes after them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
from gradio_client.utils import apply_diff

API = "/gradio_api"
T = TypeVar("T")


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own: beside a test's browser this one has a running loop already."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work).result()


class RefusedError(Exception):
    """The server said no, in a sentence."""


class FaultError(Exception):
    """The server said no without a sentence, or not at all as a server should."""


def judge(status: int, content: Any) -> Exception:
    """Tell a polite refusal from a fault."""
    said = content.get("error") or content.get("detail") if isinstance(content, dict) else content
    if isinstance(said, list) and said and isinstance(said[0], dict):  # what FastAPI says of a body
        said = f"The body does not fit: {said[0].get('msg')}"
    sentence = isinstance(said, str) and len(said.split()) >= 3 and "Traceback" not in said
    return RefusedError(said) if sentence else FaultError(f"{status}: {str(content)[:300]}")


class Layout:
    """What `/config` says of the page: its components, and its events by (elem_id, event)."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.components = {one["id"]: one for one in config["components"]}
        self.events = {one["id"]: one for one in config["dependencies"]}
        self.names = {one["props"].get("elem_id"): id_ for id_, one in self.components.items()}
        self.tabs = {one["props"].get("id"): id_ for id_, one in self.components.items() if one["type"] == "tabitem"}
        self.on: dict[tuple[Any, str], list[int]] = defaultdict(list)
        self.after: dict[int, list[int]] = defaultdict(list)
        for id_, event in self.events.items():
            for target, name in event["targets"]:
                self.on[None if name == "load" else target, name].append(id_)
            if event["trigger_after"] is not None:
                self.after[event["trigger_after"]].append(id_)

    def values(self) -> dict[int, Any]:
        """Return what the components hold when the page opens; states are the server's."""
        return {
            id_: None if one["type"] == "state" else one["props"].get("value") for id_, one in self.components.items()
        }


class Page:
    """One visitor's page.

    Parameters
    ----------
    seen : is given every text that the server sends to this page
    told : is given every refusal and fault, with the event that met it; else they are raised
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        layout: Layout,
        seen: Callable[[str], None] = lambda text: None,
        told: Callable[[str, Exception], None] | None = None,
    ) -> None:
        self.client, self.layout, self.seen, self.told = client, layout, seen, told
        self.hash, self.query = secrets.token_hex(6), ""
        self.values = layout.values()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.messages: dict[str, asyncio.Queue[dict[str, Any]]] = defaultdict(asyncio.Queue)
        self.open_events: set[str] = set()
        self.stream: asyncio.Task[None] | None = None

    def value(self, elem_id: str) -> Any:
        return self.values[self.layout.names[elem_id]]

    async def open(self, query: str = "") -> None:
        """Open the page; returns when its first figures are there, what it evaluates goes on."""
        self.query = query
        self._background(self._heartbeat())
        await asyncio.gather(*(self.run(id_) for id_ in self.layout.on[None, "load"]))

    async def fire(self, elem_id: str, event: str, value: Any = None, data: Any = None) -> None:
        """Do what an event of a component does; returns after its own answer, what follows goes on behind it."""
        target = self.layout.names[elem_id]
        if value is not None:
            self.values[target] = value
        await asyncio.gather(*(self.run(id_, target, data) for id_ in self.layout.on[target, event]))

    async def select(self, tab: str) -> None:
        """Open a tab."""
        target = self.layout.tabs[tab]
        await asyncio.gather(*(self.run(id_, target, {"value": tab}) for id_ in self.layout.on[target, "select"]))

    async def upload(self, elem_id: str, *files: Path, several: bool = True) -> None:
        """Give files to a component, as the browser does; one that takes one file has `several` false."""
        parts = [("files", (file.name, file.read_bytes())) for file in files]
        answer = await self.client.post(f"{API}/upload", files=parts)
        if answer.status_code != 200:
            raise judge(answer.status_code, answer.text)
        value = [
            {"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}
            for path, file in zip(answer.json(), files, strict=True)
        ]
        await self.fire(elem_id, "upload", value if several else value[0])

    async def settle(self) -> None:
        """Wait until all that follows is done."""
        while waiting := [task for task in self.tasks if task.get_name() == "event"]:
            await asyncio.gather(*waiting)

    async def close(self) -> None:
        """Close the tab: whatever runs is left alone."""
        for task in [*self.tasks, *([self.stream] if self.stream else [])]:
            task.cancel()
            with suppress(asyncio.CancelledError, httpx.HTTPError, RefusedError, FaultError):
                await task

    async def run(self, id_: int, target: int | None = None, data: Any = None) -> None:
        """Run one event and let those that come after it follow."""
        event, good = self.layout.events[id_], True
        if event["backend_fn"]:
            try:
                await (self._queued if event["queue"] else self._at_once)(event, target, data)
            except (RefusedError, FaultError) as error:
                if self.told is None:
                    raise
                self.told(event["api_name"], error)
                good = False
        for after in self.layout.after[id_]:
            if good or not self.layout.events[after]["trigger_only_on_success"]:
                self._background(self.run(after, target))

    def _background(self, work: Any) -> None:
        task = asyncio.create_task(work, name="event" if work.__name__ != "_heartbeat" else "heartbeat")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _body(self, event: dict[str, Any], target: int | None, data: Any) -> dict[str, Any]:
        given = [self.values[id_] for id_ in event["inputs"]]
        return {
            "data": given,
            "event_data": data,
            "fn_index": event["id"],
            "trigger_id": target,
            "session_hash": self.hash,
        }

    async def _at_once(self, event: dict[str, Any], target: int | None, data: Any) -> None:
        answer = await self.client.post(f"{API}/run/predict{self._search}", json=self._body(event, target, data))
        self.seen(answer.text)
        content = answer.json()
        if answer.status_code != 200:
            raise judge(answer.status_code, content)
        self._take(event, content["data"])

    async def _queued(self, event: dict[str, Any], target: int | None, data: Any) -> None:
        answer = await self.client.post(f"{API}/queue/join{self._search}", json=self._body(event, target, data))
        if answer.status_code != 200:
            raise judge(answer.status_code, answer.json())
        mine = answer.json()["event_id"]
        self.open_events.add(mine)
        if self.stream is None or self.stream.done():
            self.stream = asyncio.create_task(self._listen())
        shown: list[Any] = []
        try:
            while True:
                message = await self.messages[mine].get()
                output = message.get("output") or {}
                if message["msg"] == "process_generating":
                    shown = (
                        [apply_diff(old, new) for old, new in zip(shown, output["data"], strict=True)]
                        if shown
                        else output["data"]
                    )
                    self._take(event, shown)
                elif message["msg"] == "process_completed":
                    if not message["success"]:
                        raise judge(200, output)
                    if "data" in output:
                        self._take(event, output["data"])
                    return
                elif message["msg"] == "unexpected_error":
                    raise FaultError(message["message"])
        finally:
            self.open_events.discard(mine)
            self.messages.pop(mine, None)

    async def _listen(self) -> None:
        """Hand on what the server sends, as long as anybody waits for it."""
        while self.open_events:
            try:
                lost = await self._stream()
            except (httpx.HTTPError, ValueError) as error:
                lost = f"the stream broke: {type(error).__name__} {error}"
            for waiting in self.open_events if lost else ():
                self.messages[waiting].put_nowait({"msg": "unexpected_error", "message": lost})

    async def _stream(self) -> str:
        """Read one stream to its end; return why it broke, or nothing."""
        params = {"session_hash": self.hash}
        async with self.client.stream("GET", f"{API}/queue/data", params=params, timeout=300) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                self.seen(line)
                message = json.loads(line[5:])
                if message["msg"] == "close_stream":
                    return ""
                if message["msg"] == "unexpected_error":
                    return str(message.get("message"))
                if message.get("event_id") in self.open_events:
                    self.messages[message["event_id"]].put_nowait(message)
        return "the stream ended"

    async def _heartbeat(self) -> None:
        async with self.client.stream("GET", f"{API}/heartbeat/{self.hash}", timeout=None) as answer:
            async for _ in answer.aiter_bytes():
                pass

    @property
    def _search(self) -> str:
        return f"?{self.query}" if self.query else ""

    def _take(self, event: dict[str, Any], data: list[Any]) -> None:
        for id_, new in zip(event["outputs"], data, strict=True):
            if isinstance(new, dict) and new.get("__type__") == "update":
                if "value" in new:
                    self.values[id_] = new["value"]
            else:
                self.values[id_] = new


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Layout]]:
    """Give a client of the server and the page's layout."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200, keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=url.rstrip("/"), limits=limits, timeout=120) as client:
        yield client, Layout((await client.get("/config")).json())
