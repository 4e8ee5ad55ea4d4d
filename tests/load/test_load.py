"""The load test, short: no error but polite refusals, nobody sees another's, nothing stays when all have left."""

import pytest
from run import measured, problems

pytestmark = pytest.mark.slow


def test_twenty_visitors_meet_no_fault_and_leave_nothing() -> None:
    row = measured(sessions=20, seconds=60, rows=50)
    assert problems(row) == [], row
