"""The way to a borrowed GPU: what goes in and out of the streams crosses a process boundary, so it must pickle; and
what a server reads ahead.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SPACES = '''
"""A stand-in for Hugging Face's `spaces`: pickles what ZeroGPU would send to its worker and back."""
import functools
import inspect
import pickle

DURATIONS = []


def GPU(function=None, *, duration=60):
    if function is None:
        return functools.partial(GPU, duration=duration)
    assert inspect.isgeneratorfunction(function), "ZeroGPU forwards a generator's stop only if it is a synchronous one"

    @functools.wraps(function)
    def borrowed(*args):
        DURATIONS.append(duration(*args) if callable(duration) else duration)
        for item in function(*pickle.loads(pickle.dumps(args))):
            yield pickle.loads(pickle.dumps(item))

    return borrowed
'''

PROGRAM = """
import json
import sys
from dataclasses import asdict
from pathlib import Path

import spaces
import app
from viz.panels.merge.controls import opening
from merging.services.plan import Plan
from merging.features.progress import Progress
from merging.methods import METHODS

bench = app.workbench()
settings = opening(bench, METHODS)
stream = app.stream_accuracy(settings.to_dict(), 50)
progress = []
while isinstance(step := next(stream), Progress):
    progress.append(step)
estimates = [step, *(next(stream) for _ in bench.tasks(settings.pool)[1:])]
stream.close()
leaving = app.stream_leave_out(settings.to_dict(), "layer", 1)
left_out = []
while len(changes := [change for step in left_out for change in step.changes]) < len(bench.tasks(settings.pool)):
    left_out.append(next(leaving))
leaving.close()
root, stop = Path(sys.argv[1]), Path(sys.argv[1]) / "stop"
plan = asdict(Plan(("sms_spam", "movie"), "default_own", epochs=1, rows=32))
events = []
for event in app.stream_training(plan, str(root), str(stop)):
    events.append(event)
    stop.touch()  # in another process only the disk is shared
scores = list(app.stream_merge({"sms_spam": events[-1].folder}, 0.5))
scaling = app.stream_scaling(settings, 4)
curve = next(step for step in scaling if not isinstance(step, Progress))
scaling.close()
unread = bench.texts_read(settings)
app.get_ready()
print(json.dumps({
    "trained": [asdict(event) for event in events],
    "scores": scores,
    "left_out": [(step.left_out, step.done, step.total) for step in left_out],
    "changes": [asdict(change) for change in changes],
    "tasks": bench.tasks(settings.pool),
    "modules": len(bench.modules(settings.pool)),
    "progress": [asdict(step) for step in progress],
    "estimates": [asdict(step) for step in estimates],
    "curve": curve.method.tolist(),
    "read": [unread, bench.texts_read(settings)],
    "durations": spaces.DURATIONS,
}))
"""


@pytest.mark.slow
def test_what_is_streamed_crosses_the_process_boundary(tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text(SPACES)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["curve"] == ["do_merging"] * 8
    assert result["read"] == [False, True]
    loading, merging = result["progress"][:2], result["progress"][2:]
    assert [step["what"] for step in loading] == ["loading"] * 2
    assert [step["done"] for step in merging] == list(range(result["modules"] + 1))
    assert all(step["what"] == "merging" and step["total"] == result["modules"] for step in merging)
    assert {item["task"] for item in result["estimates"]} == set(result["tasks"])
    for item in result["estimates"]:
        low, high = item["interval"]
        assert 0 <= low <= item["accuracy"] <= high <= 1
        assert 0 < item["done"] <= item["total"] <= 50
    done = [step[1] for step in result["left_out"]]
    assert done == sorted(set(done))
    # a row of each task with everything, and without each of six layers
    assert {total for _, _, total in result["left_out"]} == {len(result["tasks"]) * (1 + 6)}
    assert {name for name, _, _ in result["left_out"]} == {"", "0"}
    assert [change["task"] for change in result["changes"]] == result["tasks"]
    assert {change["left_out"] for change in result["changes"]} == {"0"}
    assert {event["task"] for event in result["trained"]} == {"sms_spam"}
    assert (tmp_path / "sms_spam" / "adapter_config.json").exists()
    assert result["scores"][-1][-2:] == [100, 100]
    assert len(result["durations"]) == 5
    assert all(0 < duration <= 300 for duration in result["durations"])
