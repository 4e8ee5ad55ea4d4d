"""What visitors do, each with something of its own to tell whether what it sees is its own.

A visitor's token stands in whatever it names. Every byte that the server sends to a page is searched for tokens and for
keys of visitors: those of others must never be there.
"""

from __future__ import annotations

import asyncio
import json
import re
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic

import httpx
from driver import FaultError, Layout, Page

ADAPTERS = Path(__file__).parents[2] / "assets" / "adapters" / "papers"
TOKEN = re.compile(r"tok[0-9a-f]{8}kot")
KEY = re.compile(r"guest[0-9a-f]{16}")
SCALING = "ms-slider_0"  # λ, of the method that the app opens with


@dataclass
class Notes:
    """What a load test has seen, of all visitors."""

    moves: list[float] = field(default_factory=list)
    evaluations: int = 0
    visits: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    crosstalk: list[str] = field(default_factory=list)

    def told(self, event: str, error: Exception) -> None:
        if isinstance(error, FaultError):
            self.faults.append(f"{event}: {error}")
        else:
            self.refused[str(error)] = self.refused.get(str(error), 0) + 1


class Visitor:
    """One visitor at one page after the other, until the time is over."""

    def __init__(
        self, client: httpx.AsyncClient, layout: Layout, notes: Notes, folder: Path, number: int, rows: int = 200
    ) -> None:
        self.client, self.layout, self.notes, self.rows = client, layout, notes, rows
        self.random = Random(number)
        self.token = f"tok{number:08x}kot"
        self.folder = folder / self.token
        self.folder.mkdir()
        self.key = ""

    async def visit(self, does: Callable[[Page], Awaitable[None]], until: float, once: bool = False) -> None:
        """Open a page, do something on it, and close the tab in the middle of whatever runs; again until it is time,
        unless `once` is enough.
        """
        while monotonic() < until:
            self.key = ""
            page = Page(self.client, self.layout, self._seen, self.notes.told)
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(until - monotonic(), 0)):
                    await page.open(self.random.choice(["", f"pool=papers&limit={self.rows}&method=task_arithmetic"]))
                    self.notes.visits += 1
                    await does(page)
            except TimeoutError:
                pass
            except (httpx.HTTPError, json.JSONDecodeError, KeyError) as error:
                self.notes.faults.append(f"{does.__name__}: {type(error).__name__} {error}")
            finally:
                await page.close()
            if once:
                return

    def _seen(self, text: str) -> None:
        others = {*TOKEN.findall(text)} - {self.token}
        keys = {*KEY.findall(text)}
        self.key = self.key or next(iter(keys), "")
        if others or keys - {self.key}:
            self.notes.crosstalk.append(f"{self.token} saw {sorted(others | (keys - {self.key}))}")

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.notes.crosstalk.append(f"{self.token}: {what}")

    async def pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.random.uniform(least, most))

    # -- what they do --------------------------------------------------------------------------------------------------

    async def move(self, page: Page) -> None:
        """Move λ and look at the figures' answer: it is of this very λ."""
        scaling = round(self.random.uniform(0.01, 1.49), 4)
        began, refused = monotonic(), sum(self.notes.refused.values()) + len(self.notes.faults)
        await page.fire(SCALING, "input", scaling)
        self.notes.moves.append(monotonic() - began)
        if refused == sum(self.notes.refused.values()) + len(self.notes.faults):
            self.expect(f"scaling: {scaling}" in (page.value("ms-recipe") or ""), f"the recipe is not of {scaling}")

    async def slides(self, page: Page) -> None:
        """Move λ again and again, evaluate now and then, pin it under an own name."""
        for turn in range(6):
            await self.move(page)
            await self.pause(0.5, 3)
            if turn == 3:
                await page.settle()
                self.notes.evaluations += 1
                await page.fire("ms-pin", "click")
                pins = re.findall(r"title:([A-Z])", page.value("ms-compare") or "")
                if pins:
                    await page.fire("ms-compare", "pick", data={"name": f"title:{pins[-1]}:{self.token}"})
                    self.expect(self.token in page.value("ms-compare"), "the own pin has another name")

    async def learns(self, page: Page) -> None:
        """Go through a lesson, and leave it."""
        name = self.random.choice(["adapter", "scaling"])
        for step in range(4):
            await page.fire("ms-lesson-card", "step", data={"name": f"{name}/{step}"})
            await self.pause(1, 4)
        await page.fire("ms-lesson-card", "leave")
        await page.settle()

    async def tries(self, page: Page) -> None:
        """Have a sentence answered."""
        await page.select("try")
        for turn in range(3):
            await page.fire("ms-try-text", "change", f"How many {self.token} are there, {turn}?")
            await self.pause(1, 3)
        await page.settle()

    async def uploads(self, page: Page) -> None:
        """Bring two adapters and a table of texts, open them as a pool, save the session, and move λ of it."""
        files = [self._zip("movie"), self._zip("trec"), self._table()]
        await page.select("adapters")
        await page.upload("ms-bring-files", *files)
        self.expect(self.token in (page.value("ms-shelf-table") or ""), "the own adapters are not on the shelf")
        await page.fire("ms-save-session", "click")
        await self._saved(page)
        await page.fire("ms-make-bare", "click")
        await page.settle()
        self.expect(KEY.match(page.value("ms-pool") or "") is not None, "the own pool is not open")
        for _ in range(3):
            await self.move(page)
            await self.pause(0.5, 2)

    async def trains(self, page: Page) -> None:
        """Train the smallest set that there is."""
        await page.select("osrm")
        chosen = {"ms-plan-variant": "default_own", "ms-plan-tasks": ["sms_spam", "movie"], "ms-plan-rows": 64}
        for elem_id, value in (chosen | {"ms-plan-epochs": 1}).items():
            await page.fire(elem_id, "input", value)
        await page.fire("ms-train", "click")
        await page.settle()
        await self.pause(2, 5)

    def _zip(self, task: str) -> Path:
        path = self.folder / f"{self.token} {task}.zip"
        if not path.exists():
            with zipfile.ZipFile(path, "w") as whole:
                for file in (ADAPTERS / task).iterdir():
                    whole.write(file, f"{self.token} {task}/{file.name}")
        return path

    def _table(self) -> Path:
        path = self.folder / f"{self.token}.csv"
        rows = [f"a {kind} sentence number {n},{kind} {self.token}" for n in range(20) for kind in ("good", "bad")]
        path.write_text("\n".join(["text,label", *rows]))
        return path

    async def _saved(self, page: Page) -> None:
        saved = page.value("ms-saved-session")
        if not isinstance(saved, dict):
            self.expect(False, "the own session was not saved")
            return
        answer = await self.client.get(f"/gradio_api/file={saved['path']}")
        path = self.folder / "saved.zip"
        path.write_bytes(answer.content)
        with zipfile.ZipFile(path) as whole:
            inside = "".join(whole.namelist()) + whole.read("session.json").decode()
        self.expect({*TOKEN.findall(inside)} == {self.token}, "the saved session is another's")


MIX = ("slides", "slides", "slides", "learns", "slides", "uploads", "slides", "tries", "slides", "slides")
"""What the visitors do, one after the other, again and again; of every 25 one trains."""


def behaviour(number: int) -> str:
    return "trains" if number % 25 == 12 else MIX[number % len(MIX)]
