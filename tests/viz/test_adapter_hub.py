"""An adapter by its hub id on the Adapters tab: its files are listed before any is downloaded, and refusals stay in
place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import peft_folder, tiny_model
from fake_lab import FakeLab
from hub_stand_in import Hub, hub_stand_in

from viz.panels.adapters.handlers import AdaptersHandlers
from viz.panels.adapters.session import AdaptersSession

FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_stand_in(tmp_path / "hub-cache", monkeypatch) as stand_in:
        yield stand_in


@pytest.fixture
def panel() -> AdaptersHandlers:
    def base(source: str, dtype: str) -> tuple[Any, None]:
        return tiny_model(), None

    return AdaptersHandlers(FakeLab(), None, base, None)  # type: ignore[arg-type]


def test_files_are_listed_with_sizes_then_downloaded_one_by_one(
    hub: Hub, panel: AdaptersHandlers, tmp_path: Path
) -> None:
    peft_folder(tmp_path / "mine", tiny_model())
    commit = hub.add("me/mine", tmp_path / "mine")
    session = AdaptersSession()
    steps = panel.from_hub(session, " me/mine ")
    first = next(steps)["note"]
    assert hub.downloads() == []
    for name in FILES:
        size = (tmp_path / "mine" / name).stat().st_size
        assert f'<td>{name}</td><td class="ms-number">{size:,}</td><td>to come</td>' in first
    assert f"me/mine at commit {commit[:7]}:" in first
    assert next(steps)["note"].count("<td>here</td>") == 1
    assert len(hub.downloads()) == 1
    *_, last = steps
    assert last["note"].count("<td>here</td>") == len(FILES)
    assert [brought.name for brought in session.shelf] == ["mine"]
    assert "slots" in last


@pytest.mark.parametrize(
    ("name", "word"), [("", "Give a hub id"), ("a/b/c", "no hub id"), ("~/x", "no hub id"), ("me/absent", "me/absent")]
)
def test_what_cannot_be_fetched_is_said_and_nothing_is_put_on_the_shelf(
    name: str, word: str, hub: Hub, panel: AdaptersHandlers
) -> None:
    session = AdaptersSession()
    [only] = panel.from_hub(session, name)
    assert word in only["note"]
    assert 'role="alert"' in only["note"]
    assert session.shelf == []
