"""The limits come from the environment, by their names; what is none is refused with the variable's name."""

from __future__ import annotations

import pytest
import torch
from builders import one_sentence

from merging.errors import MergeError
from merging.services import playground
from merging.services.limits import LIMITS, PROFILES, UNBOUNDED, Limits, described, profile_of
from merging.services.playground import texts_of


@pytest.mark.parametrize("name", Limits.model_fields)
def test_a_variable_sets_its_limit_and_no_other(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = Limits.read().model_dump()
    other = not before[name] if isinstance(before[name], bool) else before[name] + 7
    monkeypatch.setenv(f"MERGESCOPE_{name.upper()}", str(other))
    assert Limits.read().model_dump() == before | {name: other}
    assert described(f"MERGESCOPE_{name.upper()}")


@pytest.mark.parametrize("value", ["many", "-1", "1.5", ""])
def test_what_is_no_limit_is_refused_with_the_variables_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MERGESCOPE_OWN_TASKS", value)
    with pytest.raises(MergeError) as refused:
        Limits.read()
    assert one_sentence(refused.value, "MERGESCOPE_OWN_TASKS", repr(value))


def test_a_limit_holds_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts_of("one\ntwo") == ["one", "two"]
    monkeypatch.setattr(playground, "LIMITS", LIMITS.model_copy(update={"texts": 1}))
    with pytest.raises(MergeError) as refused:
        texts_of("one\ntwo")
    assert one_sentence(refused.value, "2 lines", "at most 1")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "laptop"),
        ({"MERGESCOPE_PROFILE": "gpu"}, "gpu"),
        ({"MERGESCOPE_PROFILE": "public", "SPACES_ZERO_GPU": "true"}, "zerogpu"),
        ({"SPACE_ID": "user/space", "SPACES_ZERO_GPU": "true"}, "zerogpu"),
        ({"SPACE_ID": "user/space", "MERGESCOPE_PROFILE": "laptop"}, "laptop"),
    ],
)
def test_the_host_calls_for_a_profile_unless_a_variable_names_one(environment: dict[str, str], expected: str) -> None:
    assert profile_of(environment) == expected


@pytest.mark.parametrize("environment", [{"SPACE_ID": "user/space"}, {"MERGESCOPE_PROFILE": "public"}])
def test_a_public_server_without_lent_gpus_has_the_profile_of_its_machine(environment: dict[str, str]) -> None:
    assert profile_of(environment) == ("gpu" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_sets_what_no_variable_does(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MERGESCOPE_PROFILE", "laptop")
    laptop = Limits.read().model_dump()
    monkeypatch.setenv("MERGESCOPE_PROFILE", name)
    assert Limits.read().model_dump() == laptop | PROFILES[name]
    monkeypatch.setenv("MERGESCOPE_UPLOADS", "3")
    assert Limits.read().uploads == 3
    # whoever serves strangers has a bound for everything that they hold
    held = {field for field in laptop if laptop[field] == UNBOUNDED}
    assert held
    assert name == "laptop" or held <= set(PROFILES[name])


def test_an_unknown_profile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGESCOPE_PROFILE", "desktop")
    with pytest.raises(MergeError) as refused:
        Limits.read()
    assert one_sentence(refused.value, "MERGESCOPE_PROFILE", "desktop", "zerogpu")
