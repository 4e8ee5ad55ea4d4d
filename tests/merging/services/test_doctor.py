"""The doctor: what it says is what is there and what the rest of the code does."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch
from typer.testing import CliRunner

from merging.cli.main import cli
from merging.io.wheels import WHEELS, kept
from merging.models.embedded import EMBEDDED
from merging.services.doctor import examined, uses
from merging.services.workbench import Workbench
from merging.training.settings import TrainingSettings


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of one's own."""
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path))
    return tmp_path


def test_an_empty_cache_holds_no_base_and_the_doctor_fetches_none(cache: Path) -> None:
    report = examined()
    assert (report.cache, report.cache_megabytes) == (str(cache), 0.0)
    assert [title for title, there in report.bases.items() if there == "here"] == []
    assert list(cache.iterdir()) == []


def test_a_wheel_in_the_cache_is_a_base_that_is_here_and_counts(cache: Path) -> None:
    (cache / "wheels").mkdir()
    with (cache / "wheels" / WHEELS["minilm"].filename).open("wb") as file:
        file.truncate(2_500_000)
    assert kept("minilm")
    assert not kept("smollm2")
    report = examined()
    assert report.cache_megabytes == 2.5
    assert report.bases[EMBEDDED["minilm"].title] == "here"
    assert "93 MB" in report.bases[EMBEDDED["smollm2"].title]


def test_the_machine_is_described_as_it_is() -> None:
    report = examined()
    assert report.device == Workbench().device
    assert report.device.startswith("GPU" if torch.cuda.is_available() else "CPU")
    assert 0 < report.free["memory"] <= psutil.virtual_memory().total / 1e9
    assert ("GPU memory" in report.free) == torch.cuda.is_available()
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "gradio")}
    assert report.versions == {"python": platform.python_version()} | packages


@pytest.mark.parametrize("gpu", [False, True])
def test_a_gpu_is_said_to_be_used_where_it_is(gpu: bool) -> None:
    known = uses(gpu)
    assert {work for work, where in known.items() if where.startswith("GPU")} == (
        {"evaluation", "training"} if gpu else set()
    )
    assert ("bfloat16" in known["training"]) == gpu == TrainingSettings().autocasts("cuda" if gpu else "cpu")


def test_the_command_prints_every_value_and_json_for_programs(cache: Path) -> None:
    known = asdict(examined()) | {"free": None}
    said = CliRunner().invoke(cli, ["doctor", "--json"])
    assert json.loads(said.output) | {"free": None} == known
    lines = CliRunner().invoke(cli, ["doctor"]).output.splitlines()
    assert f"device: {known['device']}" in lines
    assert f"versions, peft: {version('peft')}" in lines
    assert f"cache: {cache}" in lines
    assert len(lines) == sum(len(value) if isinstance(value, dict) else 1 for value in asdict(examined()).values())
