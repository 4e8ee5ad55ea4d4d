"""What strangers may try, in small: every endpoint with whatever fits nowhere, files that nobody should send, and what
only its owner may read. `python tests/load/fuzz.py` is the long form.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from driver import API, Layout
from fuzz import attacked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pages import served

from viz.panels.kit.sentences import MISFIT

pytestmark = pytest.mark.slow

HTML = "<img src=x onerror=alert(1)>"


def test_calls_and_uploads_of_all_kinds_break_nothing() -> None:
    assert attacked(calls=80, uploads=20, seed=0) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server writes."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_keepalive_connections=0)  # the server hangs up after what it could not do
    with (
        served(folder, "app.py", TMPDIR=str(folder), GRADIO_TEMP_DIR=str(folder / "uploads")) as url,
        httpx.Client(base_url=url, timeout=60, limits=limits) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def layout(client: httpx.Client) -> Layout:
    return Layout(client.get("config").json())


def test_no_file_of_the_machine_is_served(client: httpx.Client, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("canary")
    here = Path(__file__).resolve()
    for path in (
        secret,
        here,
        here.parents[2] / "app.py",
        "/etc/passwd",
        "/proc/self/environ",
        "app.py",
        ".git/config",
    ):
        for written in (path, f"../../../..{path}", f"/..{path}", f"{path}%00.png", f"file://{path}"):
            answer = client.get(f"{API[1:]}/file={written}")
            assert answer.status_code in (403, 404), path
            assert "canary" not in answer.text


def test_nobody_passes_by_the_queue(client: httpx.Client, layout: Layout) -> None:
    """Else its limits would be for those alone who keep them."""
    for event in layout.events.values():
        if event["backend_fn"] and event["queue"]:
            body = {"data": [None] * len(event["inputs"]), "fn_index": event["id"], "session_hash": "one"}
            assert client.post(f"{API[1:]}/run/predict", json=body).status_code == 404, event["api_name"]


def test_a_session_that_nobody_has_shows_nothing(client: httpx.Client) -> None:
    told = ""
    with (
        suppress(httpx.RemoteProtocolError),  # Gradio breaks the stream off once it has said so
        client.stream("GET", f"{API[1:]}/queue/data", params={"session_hash": "0123456789ab"}) as answer,
    ):
        for line in answer.iter_lines():
            told += line
    assert json.loads(told.removeprefix("data: "))["session_not_found"]


@pytest.mark.parametrize("fn_index", [10**9, -1])
def test_an_event_that_there_is_not_is_a_sentence(client: httpx.Client, fn_index: int) -> None:
    body = {"data": [], "fn_index": fn_index, "session_hash": "one"}
    answer = client.post(f"{API[1:]}/run/predict", json=body)
    assert answer.json() == {"error": MISFIT}


def test_a_file_keeps_none_of_the_folders_in_its_name(client: httpx.Client, folder: Path) -> None:
    for name in ("../../../escaped.zip", "/tmp/escaped.zip", "..\\escaped.zip"):
        [path] = client.post(f"{API[1:]}/upload", files={"files": (name, b"PK")}).json()
        assert Path(path).resolve().is_relative_to(folder / "uploads")


KEYS = st.sampled_from(["pool", "method", "scaling", "weights", "limit", "orthogonalize", "seed", "k", "mu", "nothing"])
VALUES = st.one_of(
    st.text(max_size=80), st.sampled_from([HTML, "../../x", "1e999", "nan", "papers", "ties", "1," * 2000, "\x00"])
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(KEYS, VALUES), max_size=6))
def test_any_link_opens_the_page_and_runs_no_html(client: httpx.Client, layout: Layout, pairs: list) -> None:
    """Whatever a link says, the page opens, and what it says of the link is text."""
    [opened] = [one for one in layout.on[None, "load"] if layout.events[one]["api_name"] == "opened"]
    event, values = layout.events[opened], layout.values()
    body = {"data": [values[one] for one in event["inputs"]], "fn_index": opened, "session_hash": "linked"}
    query = str(httpx.QueryParams(pairs))
    answer = client.post(f"{API[1:]}/run/predict?{query}", json=body)
    assert answer.status_code == 200, answer.text
    said = answer.json()["data"][event["outputs"].index(layout.names["ms-link-said"])]
    assert HTML not in said
    assert client.get(f"?{query}").status_code == 200
