"""The limits come from the environment, by their names; what is none is refused with the variable's name."""

from __future__ import annotations

import pytest
from builders import one_sentence

from merging.errors import MergeError
from merging.services import playground
from merging.services.limits import LIMITS, Limits, described
from merging.services.playground import texts_of


@pytest.mark.parametrize("name", Limits.model_fields)
def test_a_variable_sets_its_limit_and_no_other(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = Limits.read().model_dump()
    monkeypatch.setenv(f"MERGESCOPE_{name.upper()}", str(before[name] + 7))
    assert Limits.read().model_dump() == before | {name: before[name] + 7}
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
