"""The way to a borrowed GPU: what goes in and out of `stream_accuracy` crosses a process boundary, so it must pickle."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
from dataclasses import asdict

import spaces
import app
from viz.panels.controls import choose, opening_method, read
from merging.methods import METHODS

bench = app.workbench()
pool, method = next(iter(bench.pools)), opening_method(METHODS)
form = {name: options.get("value") for name, options in choose(bench, METHODS, pool, method).items()}
settings = read(bench, METHODS, form | {"pool": pool, "method": method, "k": 100, "seed": 0})
stream = app.stream_accuracy(asdict(settings), 50)
items = [next(stream) for _ in bench.tasks(pool)]
stream.close()
print(json.dumps({"tasks": bench.tasks(pool), "items": items, "durations": spaces.DURATIONS}))
"""


def test_estimates_cross_the_process_boundary(tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text(SPACES)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {item[0] for item in result["items"]} == set(result["tasks"])
    for _, accuracy, low, high, seen, total in result["items"]:
        assert 0 <= low <= accuracy <= high <= 1
        assert 0 < seen <= total <= 50
    assert len(result["durations"]) == 1
    assert 0 < result["durations"][0] <= 120
