"""Put visitors on a server of its own, and measure it: `python tests/load/run.py --sessions 50 --seconds 300`.

It ends with 1 where something failed that does not depend on the machine's speed: an error that is no sentence, a
visitor who saw another's, memory that stays. Gradio keeps a closed page for an hour; here for a second, so that it can
be seen what a visitor who has left still holds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from driver import connected, run_apart  # noqa: E402
from pages import served  # noqa: E402
from visitors import MIX, Notes, Visitor, behaviour  # noqa: E402

from merging.experiments.load_test import COLUMNS, load_table  # noqa: E402
from merging.services.limits import PROFILE, PUBLIC  # noqa: E402

TABLE = ROOT / "assets" / "tables" / "load.csv"
STAYS = 1.15  # of the memory before, at most, once all have left
PATIENCE = 60  # seconds for memory to go back
REHEARSAL = 120  # seconds that one visit of each kind may take
ARRIVING = 0.2  # of the time: within it all visitors come, one after the other, as a class opens a link


@dataclass
class Memory:
    """Resident bytes of the server, and of what it has started, while the visitors are there."""

    server: psutil.Process
    before: int = 0
    peak: int = 0

    def now(self) -> int:
        family = [self.server, *self.server.children(recursive=True)]
        return sum(one.memory_info().rss for one in family if one.is_running())

    async def watch(self) -> None:
        while True:
            self.peak = max(self.peak, self.now())
            await asyncio.sleep(0.5)

    async def gone(self) -> int:
        """Return what is left once all have gone, as soon as it is little enough."""
        end = monotonic() + PATIENCE
        while self.now() > STAYS * self.before and monotonic() < end:
            await asyncio.sleep(0.5)
        return self.now()


async def load(url: str, server: psutil.Process, sessions: int, seconds: float, rows: int) -> dict[str, Any]:
    """Let one visitor of each kind come and go, measure, let all come; return a row of the table, and what failed."""
    memory, rehearsal, notes = Memory(server), Notes(), Notes()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        async with connected(url) as (client, layout):
            # what all visitors share (bases, texts that were read, threads) is there before it is counted
            kinds = [*dict.fromkeys(MIX), "trains"]
            first = [Visitor(client, layout, rehearsal, folder, 10_000 + n, rows) for n in range(len(kinds))]
            end = monotonic() + REHEARSAL
            visits = (one.visit(getattr(one, kind), end, once=True) for one, kind in zip(first, kinds, strict=True))
            await asyncio.gather(*visits)
            await asyncio.sleep(5)
            memory.before = memory.now()
            watch = asyncio.create_task(memory.watch())
            end = monotonic() + seconds

            async def come(number: int) -> None:
                await asyncio.sleep(ARRIVING * seconds * number / sessions)
                visitor = Visitor(client, layout, notes, folder, number, rows)
                await visitor.visit(getattr(visitor, behaviour(number)), end)

            await asyncio.gather(*map(come, range(sessions)))
            watch.cancel()
            after = await memory.gone()
    moves = np.array(notes.moves or [np.nan])
    return {
        "sessions": sessions,
        "seconds": int(seconds),
        "machine": processor(),
        "visits": notes.visits,
        "moves": len(notes.moves),
        "evaluations": notes.evaluations,
        "refused": sum(notes.refused.values()),
        "errors": len(notes.faults) + len(rehearsal.faults),
        "crosstalk": len(notes.crosstalk) + len(rehearsal.crosstalk),
        "p50": round(float(np.percentile(moves, 50)), 3),
        "p95": round(float(np.percentile(moves, 95)), 3),
        "before": memory.before,
        "peak": memory.peak,
        "after": after,
        "said": [*rehearsal.faults, *rehearsal.crosstalk, *notes.faults, *notes.crosstalk],
        "refusals": rehearsal.refused | notes.refused,
    }


def processor() -> str:
    """Name the machine's cores."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return f"{os.cpu_count()} cores, {models[0] if models else platform.machine()}"


def problems(row: dict[str, Any]) -> list[str]:
    """Return the bars that were missed, of those that hold on any machine."""
    return [
        *(f"{row[what]} {what}" for what in ("errors", "crosstalk") if row[what]),
        *(["nobody moved"] if not row["moves"] else []),
        *([f"memory stays: {row['after']} bytes of {row['before']}"] if row["after"] > STAYS * row["before"] else []),
        *(f"left behind: {name}" for name in row["left"]),
        *([f"{row['tracebacks']} tracebacks in the server's log"] if row["tracebacks"] else []),
    ]


def left_in(folder: Path) -> list[str]:
    """Return what visitors have left on the disk, once they have had the time to go."""
    end = monotonic() + PATIENCE
    while (left := [path.name for path in folder.glob("mergescope-*")]) and monotonic() < end:
        sleep(0.5)
    return left


def measured(sessions: int, seconds: float, rows: int) -> dict[str, Any]:
    """Start a server, put visitors on it, and return what came of it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        variables = {"GRADIO_IS_E2E_TEST": "1", "GRADIO_HEARTBEAT_INTERVAL": "5", "TMPDIR": place} | {PROFILE: PUBLIC}
        with served(folder, "app.py", **variables) as url:
            port = str(urlsplit(url).port)
            children = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
            server = next(one for one in children if one.environ().get("GRADIO_SERVER_PORT") == port)
            row = run_apart(load(url, server, sessions, seconds, rows))
            row["left"] = left_in(folder)
            log = (folder / "log.txt").read_text()
            row["tracebacks"] = log.count("Traceback (most recent call last)")
            if row["tracebacks"]:
                row["log"] = log[log.index("Traceback (most recent call last)") :][:4000]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rows", type=int, default=200, help="test rows per task of an evaluation")
    parser.add_argument("--record", action="store_true", help=f"add the result to {TABLE.relative_to(ROOT)}")
    asked = parser.parse_args()
    row = measured(asked.sessions, asked.seconds, asked.rows)
    for name, value in row.items():
        print(f"{name}: {value}")
    kept = pd.DataFrame([{name: row[name] for name in COLUMNS}])
    missed = problems(row)
    if asked.record:
        before = [pd.read_csv(TABLE)] if TABLE.exists() else []
        pd.concat([*before, kept]).to_csv(TABLE, index=False)
    print(load_table(kept))
    sys.exit("; ".join(missed) or 0)


if __name__ == "__main__":
    main()
