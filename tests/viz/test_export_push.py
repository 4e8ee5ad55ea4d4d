"""Export to the hub: shown first, pushed as shown, with the right login only; and the card has the accuracy of exactly
this merge.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from fake_workbench import METHODS, FakeWorkbench
from hub_stand_in import TOKEN, Hub, hub_stand_in
from huggingface_hub import HfApi

from merging.errors import MergeError
from merging.methods import METHODS as CATALOGUE
from merging.services.bundle import write_zip
from merging.services.workbench import Workbench
from viz.panels.export.panel import export_panel
from viz.panels.export.push import (
    _on_this_machine,
    _other,
    _with_token,
    push,
    push_section,
    show,
    signed_in,
    this_machine,
    way,
)
from viz.panels.export.session import ExportSession, Pending, measured
from viz.panels.kit.address import Address
from viz.panels.merge.controls import opening, restored
from viz.panels.merge.panel import MergeTab
from viz.panels.merge.session import Run, Score, Session, gap_of

SETTINGS = opening(FakeWorkbench(), METHODS)
TASKS = ("trec", "movie")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the zip file of a merge."""
    bench = Workbench()
    *_, last = write_zip(bench, opening(bench, CATALOGUE), "adapter", None, "movie", tmp_path_factory.mktemp("export"))
    assert last.file is not None
    return last.file


@pytest.fixture
def session(written: Path, tmp_path: Path) -> ExportSession:
    """Return the session of a visitor who has just written a merge."""
    session = ExportSession()
    session.take(Path(shutil.copy(written, tmp_path / written.name)))
    return session


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_stand_in(tmp_path / "hub-cache", monkeypatch) as stand_in:
        yield stand_in


def mine() -> HfApi:
    return HfApi(token=TOKEN)


def request(client: str = "127.0.0.1", **headers: str) -> Any:
    return SimpleNamespace(client=SimpleNamespace(host=client), headers={"host": "localhost:7860"} | headers)


def sentence(error: BaseException, *words: str) -> bool:
    return "\n" not in str(error) and str(error).endswith(".") and all(word in str(error) for word in words)


def files_of(hub: Hub, name: str) -> dict[str, bytes]:
    repo = hub.repos[name]
    return {file: content for file, content in repo.commits[repo.branches["main"]].items() if file != ".gitattributes"}


# -- shown, then pushed
# --------------------------------------------------------------------------------------------------


def test_a_push_is_shown_whole_and_writes_nothing_before(session: ExportSession, hub: Hub, written: Path) -> None:
    text = show(session, " me/merge ", True, mine)
    assert hub.repos == {}
    assert "<b>me/merge</b>, private" in text
    assert "as me:" in text
    with zipfile.ZipFile(written) as packed:
        for info in packed.infolist():
            name = info.filename.partition("/")[2]
            assert f'<td>{name}</td><td class="ms-number">{info.file_size:,}</td>' in text
    assert "everybody" in show(session, "me/merge", False, mine)


def test_what_was_shown_is_pushed_once(session: ExportSession, hub: Hub, written: Path) -> None:
    show(session, "me/merge", True, mine)
    assert push(session, mine) == f"{hub.endpoint}/me/merge"
    assert hub.repos["me/merge"].private
    with zipfile.ZipFile(written) as packed:
        assert files_of(hub, "me/merge") == {i.filename.partition("/")[2]: packed.read(i) for i in packed.infolist()}
    assert [path.name for path in session.files[0].parent.iterdir() if path.is_dir() and path.name != "hub-cache"] == []
    with pytest.raises(MergeError) as caught:
        push(session, mine)
    assert sentence(caught.value, "show it first")


def test_a_public_repository_is_made_only_when_asked_for(session: ExportSession, hub: Hub) -> None:
    show(session, "me/open", False, mine)
    push(session, mine)
    assert not hub.repos["me/open"].private


@pytest.mark.parametrize("change", ["another target", "another form", "another file", "nothing shown"])
def test_a_push_that_was_not_shown_as_it_is_does_not_happen(
    change: str, session: ExportSession, hub: Hub, tmp_path: Path
) -> None:
    if change != "nothing shown":
        show(session, "me/merge", True, mine)
    if change == "another target":
        _other(session)
    elif change == "another form":
        session.outdated()
    elif change == "another file":
        session.take(Path(shutil.copy(session.files[0], tmp_path / "other.zip")))
    with pytest.raises(MergeError) as caught:
        push(session, mine)
    assert sentence(caught.value, "show it first")
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("target", "word"), [("merge", "user/name"), ("", "user/name"), ("me/a@b", "user/name"), ("me/<b>", "user/name")]
)
def test_a_target_that_is_no_name_is_refused(target: str, word: str, session: ExportSession, hub: Hub) -> None:
    with pytest.raises(MergeError) as caught:
        show(session, target, True, mine)
    assert sentence(caught.value, word)
    assert session.pending is None


def test_nothing_can_be_shown_before_a_file_is_written(hub: Hub) -> None:
    with pytest.raises(MergeError) as caught:
        show(ExportSession(), "me/merge", True, mine)
    assert sentence(caught.value, "write it first")


def test_a_repository_with_files_is_left_alone(session: ExportSession, hub: Hub) -> None:
    show(session, "me/merge", True, mine)
    push(session, mine)
    before = files_of(hub, "me/merge")
    show(session, "me/merge", True, mine)
    with pytest.raises(MergeError) as caught:
        push(session, mine)
    assert sentence(caught.value, "has files")
    assert files_of(hub, "me/merge") == before


# -- whose login
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "local"),
        ({"OAUTH_CLIENT_ID": "x"}, "local"),
        ({"SPACE_ID": "me/s"}, "none"),
        ({"SPACE_ID": "me/s", "OAUTH_CLIENT_ID": "x"}, "oauth"),
    ],
)
def test_whose_login_a_push_has(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACE_ID", "OAUTH_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert way() == expected


def test_who_is_not_signed_in_never_pushes_with_the_spaces_own_token(
    session: ExportSession, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shown, pushed = _with_token()
    text, button, note = shown(session, "me/merge", True, None)
    assert (text, button["interactive"]) == ("", False)
    assert "Nobody is signed in" in note
    session.pending = Pending(session.files[0], "me/merge", True)
    assert "Nobody is signed in" in [*pushed(session, None)][-1][0]
    assert hub.asked == []
    with pytest.raises(MergeError):
        signed_in(None)


def test_who_is_signed_in_pushes_with_their_own_token(session: ExportSession, hub: Hub) -> None:
    shown, pushed = _with_token()
    token = gr.OAuthToken(token=TOKEN, scope="contribute-repos", expires_at=0)
    _, button, note = shown(session, "me/merge", True, token)
    assert (button["interactive"], note) == (True, "")
    first, last = pushed(session, token)
    assert "Pushing" in first[0]
    assert f'<a href="{hub.endpoint}/me/merge"' in last[0]
    assert set(hub.repos) == {"me/merge"}


@pytest.mark.parametrize(
    "from_elsewhere",
    [
        request("192.168.1.7"),
        request(host="abc.gradio.live"),
        request(host="evil.example:7860"),
        request(**{"x-forwarded-for": "203.0.113.5"}),
        SimpleNamespace(client=None, headers={}),
    ],
)
def test_a_strangers_browser_has_not_this_machines_login(
    from_elsewhere: Any, session: ExportSession, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(MergeError) as caught:
        this_machine(from_elsewhere)
    assert sentence(caught.value, "localhost")
    shown, _ = _on_this_machine()
    assert "localhost" in shown(session, "me/merge", True, from_elsewhere)[2]
    assert hub.asked == []


def test_this_machines_browser_pushes_with_its_login_or_is_told_to_log_in(
    session: ExportSession, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, pushed = _on_this_machine()
    assert "hf auth login" in shown(session, "me/merge", True, request())[2]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert shown(session, "me/merge", True, request())[1]["interactive"]
    assert "Pushed" in [*pushed(session, request("::1", host="[::1]:7860"))][-1][0]
    assert set(hub.repos) == {"me/merge"}


@pytest.mark.parametrize("whose", ["local", "oauth", "none"])
def test_the_section_starts_private_with_a_closed_button(whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.routes.attach_oauth", lambda app: None)  # needs what only Spaces install
    with gr.Blocks() as demo:
        section = push_section(gr.State(ExportSession()), whose)
    by_id = {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}
    assert by_id["ms-push-private"].value is True
    assert not section.push.interactive
    assert ("ms-push-login" in by_id) == (whose == "oauth")
    assert ("ms-push-none" in by_id) == (whose == "none")
    assert by_id["ms-push-target"].visible == (whose != "none")
    assert not any(isinstance(block, gr.Textbox) and block.type == "password" for block in demo.blocks.values())
    assert demo.expects_oauth == (whose == "oauth")


# -- accuracy for the card
# -----------------------------------------------------------------------------------------------


def run(**changes: Any) -> Run:
    scores = {"trec": Score(0.8, 0.7, 0.9, 200, 200), "movie": Score(0.6, 0.5, 0.7, 150, 150)}
    return replace(Run(SETTINGS, 200, TASKS, "a run", "done", scores), **changes)


def test_the_card_gets_the_accuracy_of_the_run_of_exactly_this_merge() -> None:
    found = measured(run(), SETTINGS, METHODS, False, None)
    assert [(e.task, e.accuracy, e.interval, e.done) for e in found.accuracy.estimates] == [
        ("trec", 0.8, (0.7, 0.9), 200),
        ("movie", 0.6, (0.5, 0.7), 150),
    ]
    assert found.said == "With the accuracy measured on the Merge tab (150 to 200 test rows per task)."
    other_seed = SETTINGS.changed(seed=SETTINGS.spec.seed + 1)  # of a method without random masks: the same merge
    assert measured(run(), other_seed, METHODS, False, None).accuracy == found.accuracy


@pytest.mark.parametrize(
    "unfit",
    [
        (None, SETTINGS, False),
        (run(), SETTINGS.changed(decouple=SETTINGS.spec.decouple.strength / 2 + 0.1), False),
        (run(scores={"trec": Score(0.8, 0.7, 0.9, 200, 200)}), SETTINGS, False),
        (run(), SETTINGS, True),
    ],
    ids=["no run", "other settings", "a task is missing", "a lower rank"],
)
def test_any_other_accuracy_is_left_out_and_said_so(unfit: tuple[Run | None, Any, bool]) -> None:
    found = measured(unfit[0], unfit[1], METHODS, unfit[2], None)
    assert found.accuracy is None
    assert ("exact merge" if unfit[2] else "Evaluate on the Merge tab first") in found.said


def test_a_merge_for_one_task_has_that_tasks_accuracy_only() -> None:
    emr = SETTINGS.changed(method="emr", orthogonalize="off", decouple=0.0)
    found = measured(run(settings=emr), emr, METHODS, False, "movie")
    assert [estimate.task for estimate in found.accuracy.estimates] == ["movie"]


def test_the_panel_writes_the_accuracy_of_the_visitors_run_into_the_card(tmp_path: Path) -> None:
    bench = Workbench()
    settings = opening(bench, CATALOGUE)
    values = {name: options.get("value") for name, options in restored(bench, CATALOGUE, settings).items()}
    with gr.Blocks() as demo:
        form = {name: gr.State(value) for name, value in values.items()}
        with gr.Tab("Export") as tab:
            export_panel(
                tab,
                Address(),
                bench,
                CATALOGUE,
                MergeTab(form, form, lambda event: None, lambda event: None, gr.State(Session())),
            )
    write = next(fn.fn for fn in demo.fns.values() if fn.fn and fn.fn.__name__ == "run")
    visitor, exporting = Session(), ExportSession()
    tasks, marks = tuple(bench.tasks(settings.pool)), "1" * 28 + "0" * 4
    scores = {task: Score(0.875, 0.71, 0.953, 32, 32, marks) for task in tasks}
    visitor.run = Run(settings, 32, tasks, "", "done", scores)
    steps = [*write(exporting, visitor, "adapter", [], 0, *values.values())]
    assert any("With the accuracy measured on the Merge tab (32 test rows per task)." in step[0] for step in steps)
    assert exporting.current is not None
    with zipfile.ZipFile(exporting.current) as packed:
        card = next(packed.read(name).decode() for name in packed.namelist() if name.endswith("README.md"))
    assert "| task | accuracy | 95 % interval | test rows |" in card
    assert card.count("| 0.875 | 0.710 to 0.953 | 32 |") == len(tasks)
    gap = gap_of(scores, bench.references(settings.pool))
    assert f"Gap recovered: {gap.mean:.0%} ({gap.low:.0%} to {gap.high:.0%}), mean of {len(gap.tasks)} tasks" in card
    visitor.run = None
    steps = [*write(exporting, visitor, "adapter", [], 0, *values.values())]
    assert any("Evaluate on the Merge tab first" in step[0] for step in steps)
    with zipfile.ZipFile(exporting.current) as packed:
        assert not any(b"## Accuracy" in packed.read(name) for name in packed.namelist() if name.endswith("README.md"))
    exporting.close()
