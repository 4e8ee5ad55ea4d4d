"""Call everything that the server answers with whatever fits nowhere, and upload what nobody should:
`python tests/load/fuzz.py --calls 10000 --uploads 2000 --seed 0`.

Every answer is held to be one sentence or what the page shows: no traceback, no path of the server, no file that was
not uploaded here, nothing of another visitor. Nothing that was sent may have been run, and no file may lie outside the
folders of visitors and of Gradio. It ends with 1 and the calls that broke this.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from driver import API, FaultError, Layout, Page, RefusedError, connected, judge, run_apart  # noqa: E402
from hostile import MARKER, hostile_file  # noqa: E402
from pages import served  # noqa: E402
from visitors import Notes, Visitor  # noqa: E402

SECRET = "canary-7c1f9b-secret"
WORKERS = 3
PATIENCE = 60  # seconds for the first answer of an event


@dataclass
class Attack:
    """What is attacked, and what came of it."""

    client: httpx.AsyncClient
    layout: Layout
    folder: Path
    victim: str = ""
    broken: list[str] = field(default_factory=list)
    refused: int = 0
    answered: int = 0
    doing: Path | None = None

    def __post_init__(self) -> None:
        self.secret = self.folder / "secret.txt"
        self.secret.write_text(SECRET)
        script = "<script>fetch('http://evil.example')</script><img src=x onerror=alert(1)>"
        file = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.zip"}
        deep: Any = 1
        for _ in range(300):
            deep = [deep]
        self.nasty: list[Any] = [
            *(None, True, False, 0, -1, 10**30, 1e308, -1e-300, float("nan"), float("inf")),
            *("", " ", "x" * 100_000, script, "\x00", "\ud800", "🔭" * 200, "%s%n{0}{x.__class__}", "'; DROP TABLE"),
            *("../../../../etc/passwd", "/etc/passwd", str(self.secret), f"file://{self.secret}", "~/.ssh/id_rsa"),
            *("http://169.254.169.254/latest/meta-data", "http://127.0.0.1:1/x", "user/../../etc", "json", "C:\\x"),
            *("guest0000000000000000", "guest0000000000000000-pool1", "A:B:C", "title:A:" + script, "unpin:", "close"),
            *("a: &a [*a]", "!!python/object/apply:os.system ['id']", "adapters: [{path: /etc/passwd}]\nmethod: ties"),
            *([], {}, [[]], [None], {"a": {}}, deep, [1, "a", None], {"__type__": "update", "value": script}),
            *({"path": str(self.secret)} | file, {"path": "/proc/self/environ"} | file, {"path": "../../x"} | file),
            *({"path": "http://127.0.0.1:1/"} | file, {"url": f"file://{self.secret}"} | file, {"path": None} | file),
            *([{"path": str(self.secret)} | file], [{"path": str(ROOT / "app.py")} | file] * 3),
        ]

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def calls(self, random: Random, count: int) -> None:
        """Make calls, one after the other, as one visitor."""
        events = [event for event in self.layout.events.values() if event["backend_fn"]]
        mine = random.randbytes(6).hex()
        for _ in range(count):
            event = random.choice(events)
            body = self._body(random, event, mine)
            where = f"{event['api_name']} {json.dumps(body)[:700]}"
            query = random.choice(["", "", self._query(random)])
            try:
                await self._call(random, event, body, query, where)
            except httpx.ReadError:  # Gradio ends the stream of a page that it has just seen go
                (await self.client.get("/config")).raise_for_status()
            except (httpx.HTTPError, ValueError) as error:
                self.broken.append(f"{type(error).__name__} {error} <- {where}")

    def _body(self, random: Random, event: dict[str, Any], mine: str) -> dict[str, Any]:
        """Make a body of which about a third fits nowhere."""
        values, share = self.layout.values(), random.choice([0.0, 0.2, 0.5, 1.0])
        data: Any = [
            random.choice(self.nasty) if random.random() < share else values.get(one) for one in event["inputs"]
        ]
        if random.random() < 0.05:
            data = random.choice([data[1:], [*data, None], data * 2, "text", None, {}])
        target = next((target for target, _ in event["targets"] if target), None)
        body = {"data": data, "fn_index": event["id"], "trigger_id": target, "session_hash": mine}
        name = random.choice([*self.nasty, "title:A:x", "against:A", "adapter/1", "use:0", "row:0", "pin:1", "0"])
        body["event_data"] = random.choice([None, {"name": name}, {"query": name}, {"values": name}, name])
        if random.random() < 0.08:
            body[random.choice([*body, "event_id", "simple_format", "batched", "oauth_token"])] = random.choice(
                self.nasty
            )
        return body

    def _query(self, random: Random) -> str:
        key = random.choice(["pool", "method", "scaling", "weights", "limit", "merge.task", "try.text", "lesson", "x"])
        value = str(random.choice(self.nasty)).encode(errors="replace").decode()[:20_000]
        return str(httpx.QueryParams({key: value, "pool": random.choice(["papers", "nope"])}))

    async def _call(self, random: Random, event: dict[str, Any], body: Any, query: str, where: str) -> None:
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        if random.random() < 0.02:
            headers[random.choice(["cookie", "x-forwarded-for", "referer", "x-gradio-user"])] = "a" * 20_000
        if not event["queue"] or random.random() < 0.1:
            answer = await self.client.post(f"{API}/run/predict?{query}", content=content, headers=headers)
            self._judge(answer.status_code, answer.text, where)
            return
        answer = await self.client.post(f"{API}/queue/join?{query}", content=content, headers=headers)
        self._judge(answer.status_code, answer.text, where)
        if answer.status_code == 200 and isinstance(body["session_hash"], str):
            await self._first(body["session_hash"], where)

    async def _first(self, mine: str, where: str) -> None:
        """Read until an event of the queue has given its first answer, then go."""
        params = {"session_hash": mine}
        async with self.client.stream("GET", f"{API}/queue/data", params=params, timeout=PATIENCE) as stream:
            async for line in stream.aiter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") in ("process_generating", "process_completed", "unexpected_error"):
                    good = message.get("success", False)
                    self._judge(
                        200 if good else 500,
                        json.dumps(message.get("output") or {"error": message.get("message")}),
                        where,
                    )
                    return

    def _judge(self, status: int, text: str, where: str) -> None:
        leaks = [what for what in (SECRET, "Traceback (most", "root:x:0", self.victim) if what and what in text]
        if status != 200:
            try:
                content = json.loads(text)
            except ValueError:
                content = text
            leaks += [what for what in (str(ROOT), "site-packages") if what in text and what not in where]
            wrong = judge(status, content)
            self.refused += 1
            if isinstance(wrong, FaultError):
                leaks.append(f"no sentence, {wrong}")
        else:
            self.answered += 1
        if leaks:
            self.broken.append(f"{leaks} in {text[:300]} <- {where}")

    # -- uploads -------------------------------------------------------------------------------------------------------

    async def uploads(self, random: Random, count: int) -> None:
        """Upload files, one after the other, as visitors who stay for twenty."""
        page = None
        for number in range(count):
            if page is None or number % 20 == 0:
                if page is not None:
                    await page.close()
                page = Page(self.client, self.layout, lambda text: self._judge(200, text, "page"), self._told)
                await page.open()
                await page.settle()
            self.doing = name = hostile_file(random, self.folder / f"upload-{number}", self.secret)
            elem_id = random.choice(["ms-bring-files", "ms-bring-files", "ms-task-file", "ms-plan-upload"])
            several = elem_id == "ms-bring-files"
            await page.upload(elem_id, name, several=several)
            if several and random.random() < 0.1:
                await page.fire("ms-bring-clear", "click")
        if page is not None:
            await page.close()

    def _told(self, event: str, error: Exception) -> None:
        self.refused += isinstance(error, RefusedError)
        if isinstance(error, FaultError):
            self.broken.append(f"{event} of {self.doing}: {error}")


async def attack(url: str, folder: Path, calls: int, uploads: int, seed: int) -> Attack:
    """Attack a server beside a visitor who has brought something, and see that it is still there."""
    random = Random(seed)
    async with connected(url) as (client, layout):
        one, notes = Attack(client, layout, folder), Notes()
        victim = Visitor(client, layout, notes, folder, seed)
        page = Page(client, layout, victim._seen, notes.told)
        await page.open()
        await victim.uploads(page)
        one.victim = victim.token
        share = [calls // WORKERS + (calls % WORKERS > place) for place in range(WORKERS)]
        await asyncio.gather(
            *(one.calls(Random(random.random()), count) for count in share),
            one.uploads(Random(random.random()), uploads),
        )
        await victim.move(page)
        one.broken += [*notes.faults, *notes.crosstalk]
        await page.close()
    return one


def attacked(calls: int, uploads: int, seed: int) -> list[str]:
    """Attack a server of its own; return what broke."""
    with tempfile.TemporaryDirectory() as place:
        folder, temporary, before = Path(place), Path(place) / "temporary", tree(ROOT)
        temporary.mkdir()
        marker = folder / "executed"
        variables = {"TMPDIR": str(temporary), "GRADIO_TEMP_DIR": str(temporary / "gradio")}
        variables |= {MARKER: str(marker), "PYTHONFAULTHANDLER": "1"}
        with served(folder, "app.py", **variables) as url:
            try:
                one = run_apart(attack(url, folder, calls, uploads, seed))
            except httpx.ConnectError:
                return [f"the server is gone:\n{(folder / 'log.txt').read_text()[-6000:]}"]
            strange = [
                path.name
                for path in temporary.iterdir()
                if not path.name.startswith(("mergescope-", "gradio", "torchinductor"))
            ]
        print(f"{one.answered} answers, {one.refused} refusals")
        one.broken += [f"in the temporary folder: {name}" for name in strange]
        one.broken += [f"in the app's folder: {name}" for name in sorted(tree(ROOT) ^ before)]
        one.broken += ["something that was sent has been run"] if marker.exists() else []
    return one.broken


def tree(folder: Path) -> set[str]:
    """Return the files of the app, without what Python keeps of its own."""
    places = [folder, *(place for name in ("assets", "merging", "viz") for place in (folder / name).rglob("*"))]
    files = {str(path) for place in places if place.is_dir() for path in place.iterdir()}
    return {path for path in files if not {"__pycache__"} & {*Path(path).parts} and not Path(path).name.startswith(".")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--uploads", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    broken = attacked(asked.calls, asked.uploads, asked.seed)
    print("\n".join(broken))
    sys.exit(f"{len(broken)} broke" if broken else 0)


if __name__ == "__main__":
    main()
