"""The endpoints as programs meet them: the real app is started once, and asked by gradio_client and by the official MCP
client.
"""

import asyncio
import inspect
import json
import re
import zipfile
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from types import FunctionType, SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
import torch
from builders import distance, one_sentence
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult

import app
from merging import METHODS, Adapter, MergeError, merge
from merging.evaluation.accuracy import Hits, encode_task, evaluate, hits
from merging.features.progress import Progress
from merging.io.assets import assets_folder
from merging.models.layers import working_copy
from merging.models.load import load_base
from merging.services.link import to_query
from merging.services.settings import Settings
from merging.shipped import load_pool
from merging.tasks.task import Task
from viz.panels.kit.look import launch_options
from viz.panels.programs.endpoint import endpoint, in_time
from viz.panels.programs.endpoints import Programs

NAMES = ("methods", "inspect", "merge", "evaluate", "predict")
TIES = {"method": "ties", "scaling": 0.5}
ROWS = 50
TASKS = ("trec", "movie")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        demo = app.build()
        _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options())
        yield address
        demo.close()


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters that ship, as their owner would bring them."""
    return [packed(tmp_path_factory.mktemp("zips"), task) for task in TASKS]


def packed(folder: Path, task: str, without: tuple[str, ...] = ()) -> Path:
    archive = folder / f"{task}.zip"
    with zipfile.ZipFile(archive, "w") as whole:
        for file in (assets_folder() / "adapters" / "papers" / task).iterdir():
            if file.name not in without:
                whole.write(file, file.name)
    return archive


def unpacked(archive: Path | str, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as whole:
        whole.extractall(folder)
    [inside] = folder.iterdir()
    return inside


def sent(url: str, files: list[Path]) -> list[str]:
    """Upload files; return what the upload calls them."""
    parts = [("files", (file.name, file.read_bytes())) for file in files]
    return httpx.post(f"{url}gradio_api/upload", files=parts).json()


def as_tool(url: str, ask: Callable[[ClientSession], Any]) -> Any:
    """Ask the MCP server within one session."""

    async def asked() -> Any:
        async with (
            streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await ask(session)

    return asyncio.run(asked())


def text_of(result: CallToolResult) -> str:
    [content] = result.content
    return content.text


# -- gradio_client -----------------------------------------------------------------------------------------------------


def test_nothing_but_the_documented_endpoints_has_a_name(client: Client) -> None:
    known = client.view_api(print_info=False, return_format="dict")
    assert list(known["named_endpoints"]) == [f"/{name}" for name in NAMES]
    assert known["unnamed_endpoints"] == {}


def test_the_catalogue_has_every_method_with_a_merge_that_is_accepted(client: Client) -> None:
    known = client.predict(api_name="/methods")
    assert [method["name"] for method in known["methods"]] == list(METHODS)
    assert {pool["name"] for pool in known["pools"]} == set(app.workbench().pools)
    merge = next(method["merge"] for method in known["methods"] if method["name"] == "svd")
    [answer, *_] = client.predict(["Where is it?"], merge, pool="papers", task="trec", api_name="/predict")
    assert answer["source"] == "base"


def test_the_file_is_the_librarys_merge(client: Client, tmp_path: Path) -> None:
    archive = client.predict(TIES, pool="papers", head="trec", api_name="/merge")
    loaded, expected = Adapter.load(unpacked(archive, tmp_path)), merge(load_pool("papers"), "ties", scaling=0.5)
    assert loaded.head is not None
    for module in expected.modules:
        assert distance(loaded.deltas[module].dense(), expected.delta(module)) < 1e-5


def test_a_link_is_the_same_merge_as_its_values(client: Client, tmp_path: Path) -> None:
    chosen = Settings.from_dict({"pool": "easy", "method": "task_arithmetic", "scaling": 0.3, "weights": [1.0] * 8})
    link = f"https://somewhere/?{to_query(chosen)}&__theme=dark"
    ways = [(link, ""), (to_query(chosen).partition("&")[2], "easy"), (chosen.spec.to_dict(), "easy")]
    files = [client.predict(way, pool=pool, api_name="/merge") for way, pool in ways]
    found = [unpacked(file, tmp_path / str(place)) for place, file in enumerate(files)]
    weights, recipes = (
        {(path / name).read_bytes() for path in found} for name in ("adapter_model.safetensors", "recipe.yaml")
    )
    assert len(weights) == len(recipes) == 1


def test_accuracy_streams_and_ends_at_that_of_evaluate(client: Client) -> None:
    streamed = list(client.submit(TIES, pool="papers", rows=ROWS, api_name="/evaluate"))
    model, tokenizer = load_base("minilm")
    adapters = load_pool("papers")
    tasks = [encode_task(tokenizer, Task.load(task), "test", ROWS) for task in TASKS]

    def accuracies(subject: Any) -> dict[str, float]:
        heads = {adapter.task: adapter.head for adapter in adapters}
        return {e.task: e.accuracy for e in evaluate(model, tokenizer, subject, tasks, heads=heads)}

    last = streamed[-1]
    rows = {row["task"]: row for row in last["tasks"]}
    assert [state["finished"] for state in streamed] == [False] * (len(streamed) - 1) + [True]
    assert len(streamed) > 1
    assert {task: rows[task]["accuracy"] for task in TASKS} == accuracies(merge(adapters, "ties", scaling=0.5))
    assert {task: rows[task]["base"] for task in TASKS} == pytest.approx(accuracies(None))
    assert {adapter.task for adapter in adapters} == set(rows)
    assert {row["rows"] for row in rows.values()} == {ROWS}
    mean = sum(row["accuracy"] for row in rows.values()) / len(rows)
    assert last["average"]["value"] == pytest.approx(mean)
    assert last["average"]["low"] < mean < last["average"]["high"]
    assert last["gap_recovered"]["low"] < last["gap_recovered"]["value"] < last["gap_recovered"]["high"]


def test_an_answer_is_what_the_adapter_says_to_a_test_row(client: Client) -> None:
    model, tokenizer = load_base("minilm")
    adapter, task = next(a for a in load_pool("papers") if a.task == "trec"), Task.load("trec")
    row = encode_task(tokenizer, task, "test", 1)
    [batch] = hits(working_copy(model, adapter.deltas), tokenizer, adapter, [row])
    assert isinstance(batch, Hits)
    answers = client.predict([task.test.texts[0]], TIES, pool="papers", task="trec", api_name="/predict")
    own = next(answer for answer in answers if answer["source"] == "own")
    assert [answer["source"] for answer in answers] == ["base", "own", "merge"]
    assert own["label"] == task.labels[int(batch.predicted[0])]
    assert own["probability"] == pytest.approx(float(batch.confidence[0]), abs=1e-4)


def test_own_adapters_are_a_pool_for_as_long_as_one_call(client: Client, zips: list[Path], tmp_path: Path) -> None:
    mine = [handle_file(str(file)) for file in zips]
    known = client.predict(adapters=mine, api_name="/inspect")
    assert known["ok"]
    assert [row["adapter"] for row in known["adapters"]] == list(TASKS)
    archive = client.predict({"method": "average"}, adapters=mine, api_name="/merge")
    expected = merge([Adapter.load(file) for file in zips], "average")
    loaded = Adapter.load(unpacked(archive, tmp_path))
    for module in expected.modules:
        assert distance(loaded.deltas[module].dense(), expected.delta(module)) < 1e-5
    measured = client.predict({"method": "average"}, adapters=mine, rows=ROWS, api_name="/evaluate")
    assert [row["task"] for row in measured["tasks"]] == list(TASKS)
    assert measured["finished"]
    assert {row["base"] for row in measured["tasks"]} == {None}, "what a stranger's file records was not measured here"
    assert app.workbench()._own == {}
    assert not any("guest" in json.dumps(answer) for answer in (known, measured))


def test_adapters_without_a_task_are_merged_and_not_measured(client: Client, tmp_path: Path) -> None:
    mine = [handle_file(str(packed(tmp_path, task, ("head.safetensors", "mergescope.json")))) for task in TASKS]
    assert client.predict(TIES, adapters=mine, api_name="/merge").endswith(".zip")
    with pytest.raises(AppError) as refused:
        client.predict(TIES, adapters=mine, api_name="/evaluate")
    assert one_sentence(refused.value, "needs texts")
    assert app.workbench()._own == {}


WRONG: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "no pool": ("/merge", {"merge": TIES}, ("pool", "papers")),
    "pool of a visitor": ("/inspect", {"pool": "guest0000-pool1"}, ("pool", "papers")),
    "no method": ("/merge", {"merge": {"scaling": 1}, "pool": "papers"}, ("method",)),
    "unknown value": ("/merge", {"merge": TIES | {"drop": 1}, "pool": "papers"}, ("drop", "density")),
    "out of range": ("/merge", {"merge": TIES | {"density": 2}, "pool": "papers"}, ("density", "1")),
    "other steps": ("/merge", {"merge": TIES | {"steps": 10**9}, "pool": "papers"}, ("steps",)),
    "half JSON": ("/merge", {"merge": '{"method"', "pool": "papers"}, ("JSON",)),
    "link of another pool": ("/merge", {"merge": "pool=easy&method=ties", "pool": "papers"}, ("another pool",)),
    "too many rows": ("/evaluate", {"merge": TIES, "pool": "papers", "rows": 10**6}, ("50 to 1000",)),
    "rows of words": ("/evaluate", {"merge": TIES, "pool": "papers", "rows": "all"}, ("rows", "integer")),
    "one text": ("/predict", {"merge": TIES, "pool": "papers", "texts": "one"}, ("texts", "list")),
    "many texts": ("/predict", {"merge": TIES, "pool": "papers", "texts": ["a"] * 21}, ("20",)),
    "empty text": ("/predict", {"merge": TIES, "pool": "papers", "texts": ["a", " "]}, ("Text 2",)),
    "other task": ("/predict", {"merge": TIES, "pool": "papers", "texts": ["a"], "task": "poems"}, ("poems", "trec")),
    "other head": ("/merge", {"merge": TIES, "pool": "papers", "head": "poems"}, ("poems",)),
    "other base": ("/inspect", {"adapters": [], "base": "bert"}, ("bert", "minilm")),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(client: Client, name: str) -> None:
    endpoint, values, words = WRONG[name]
    with pytest.raises(AppError) as refused:
        client.predict(**values, api_name=endpoint)
    assert one_sentence(refused.value, *words)
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize("way", ["a path", "a file", "an address", "a way out", "not there"])
def test_a_file_that_was_not_uploaded_is_not_read(url: str, zips: list[Path], way: str) -> None:
    path = str(zips[0])
    given: Any = {
        "a path": path,
        "a file": {"path": path, "meta": {"_type": "gradio.FileData"}},
        "an address": f"{url}gradio_api/file={path}",
        "a way out": f"{gr.utils.get_upload_folder()}/../{zips[0].parent.name}/{zips[0].name}",
        "not there": f"{gr.utils.get_upload_folder()}/nothing.zip",
    }[way]
    posted = httpx.post(f"{url}gradio_api/call/inspect", json={"data": ["", [given], "minilm"]}).json()
    answer = httpx.get(f"{url}gradio_api/call/inspect/{posted['event_id']}", timeout=60).text
    refused = "event: error" in answer or '"ok": false' in answer or '"ok":false' in answer
    assert refused, answer
    assert "lora" not in answer


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
USUAL: dict[str, Any] = {
    "texts": ["a"],
    "merge": TIES,
    "pool": "papers",
    "adapters": ["x.zip"],
    "base": "minilm",
    "rank": None,
    "head": "",
    "rows": None,
    "task": "",
}


@pytest.mark.parametrize("name", NAMES[1:])
@settings(max_examples=30, deadline=None)
@given(values=st.fixed_dictionaries({name: st.just(value) | JSON for name, value in USUAL.items()}))
def test_any_values_are_answered_or_refused_in_a_sentence(name: str, values: dict[str, Any]) -> None:
    function = getattr(Programs(app.playground(), lambda *_: (step for step in ())), name)
    asked = [values[parameter] for parameter in inspect.signature(function).parameters]
    try:
        list(endpoint(function)(*asked, SimpleNamespace(headers={}), lambda *_, **options: None))
    except gr.Error as error:
        assert one_sentence(MergeError(error.message))


def test_a_call_that_takes_too_long_ends_with_what_it_has() -> None:
    closed = []

    def steps(result: bool) -> Iterator[Any]:
        try:
            yield Progress("merging", 0, 2)
            if result:
                yield "half"
            while True:
                sleep(0.01)
                yield Progress("merging", 1, 2)
        finally:
            closed.append(result)

    assert "half" in list(in_time(steps(True), 0.05))
    with pytest.raises(MergeError) as refused:
        list(in_time(steps(False), 0.05))
    assert one_sentence(refused.value, "0.05 seconds")
    assert closed == [True, False]


# -- MCP ---------------------------------------------------------------------------------------------------------------


def test_the_tools_are_the_endpoints_and_say_what_they_take(url: str) -> None:
    tools = as_tool(url, lambda session: session.list_tools()).tools
    assert [tool.name for tool in tools] == list(NAMES)
    for tool in tools:
        assert tool.description[0].isupper()
        assert "Returns: " in tool.description
        for name, value in tool.inputSchema["properties"].items():
            assert value.get("description", "").endswith("."), (tool.name, name)


def test_a_tool_gives_json_and_its_progress(url: str, client: Client, zips: list[Path]) -> None:
    messages: list[str | None] = []

    async def ask(session: ClientSession) -> CallToolResult:
        async def note(progress: float, total: float | None, message: str | None) -> None:
            messages.append(message)

        arguments = {"merge": TIES, "adapters": sent(url, zips), "rows": ROWS}
        return await session.call_tool("evaluate", arguments, progress_callback=note)

    result, mine = as_tool(url, ask), [handle_file(str(file)) for file in zips]
    assert not result.isError
    assert json.loads(text_of(result)) == client.predict(TIES, adapters=mine, rows=ROWS, api_name="/evaluate")
    assert any(message and "merging: Step" in message for message in messages)


def test_a_tool_takes_uploaded_files_and_gives_one_back(url: str, zips: list[Path], tmp_path: Path) -> None:
    first, second = sent(url, zips)
    addresses = [first, f"{url}gradio_api/file={second}"]
    result = as_tool(url, lambda s: s.call_tool("merge", {"merge": {"method": "average"}, "adapters": addresses}))
    (tmp_path / "merge.zip").write_bytes(httpx.get(text_of(result)).content)
    loaded = Adapter.load(unpacked(tmp_path / "merge.zip", tmp_path / "merge"))
    expected = merge([Adapter.load(file) for file in zips], "average")
    assert all(torch.allclose(loaded.deltas[m].dense(), expected.delta(m), atol=1e-5) for m in expected.modules)


def test_a_tools_error_is_the_sentence(url: str) -> None:
    result = as_tool(url, lambda session: session.call_tool("merge", {"merge": {"method": "nope"}, "pool": "papers"}))
    assert result.isError
    assert text_of(result).startswith("The merge's method = 'nope' is not one of average")


def test_the_readmes_programs_run(
    url: str, zips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (assets_folder().parent / "README.md").read_text()
    [program] = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "gradio_client" in block]
    assert "http://127.0.0.1:7860/" in program
    for name, file in zip("ab", zips, strict=True):
        (tmp_path / f"{name}.zip").write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    code = compile(
        program.replace("http://127.0.0.1:7860", url.rstrip("/")), "README", "exec", PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    asyncio.run(FunctionType(code, {})())
    said = capsys.readouterr().out
    assert "'finished': True" in said
    assert "mergescope_average_adapter.zip" in said
    assert '"label": "place"' in said
