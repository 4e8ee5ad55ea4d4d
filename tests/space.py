"""Assemble what a Space gets, and see that it works there: `python tests/space.py`; it takes some minutes.

The tracked files of a commit, a fresh virtual environment with requirements.txt and the Gradio of the README's header
and nothing else, an app folder that cannot be written to, an empty HOME, a `spaces` that hands values through
pickles as ZeroGPU does, and a browser that sees the app in another site's frame.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any
from urllib.request import urlopen

import psutil
import yaml
from playwright.sync_api import Frame, Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from conftest import FLAGS, chromium  # noqa: E402

MOST_BYTES = 16_000_000_000
"""Memory of cpu-basic."""
STARTS = 1800  # seconds that the README's header gives a Space to start
STUB = """
import functools, inspect, pickle

def GPU(function=None, duration=60, **options):
    if function is None:
        return functools.partial(GPU, duration=duration, **options)
    assert inspect.isgeneratorfunction(function)

    @functools.wraps(function)
    def borrowed(*given, **named):
        given, named = pickle.loads(pickle.dumps((given, named)))
        assert (duration(*given, **named) if callable(duration) else duration) > 0
        for step in function(*given, **named):
            yield pickle.loads(pickle.dumps(step))

    return borrowed

def gradio_auto_wrap(function):
    return function
"""
STUBS = {
    "spaces/__init__.py": STUB,
    "spaces/reloading.py": "def start_reload_server(**options):\n    pass\n",
    "spaces-0.51.3.dist-info/METADATA": "Metadata-Version: 2.1\nName: spaces\nVersion: 0.51.3\n",
}
"""What Gradio asks of the package on a Space."""
FRAME = (
    '<!doctype html><title>Another site</title><link rel="icon" href="data:,">'
    '<iframe src="{url}" width="1340" height="940" allow="clipboard-write" '
    'sandbox="allow-downloads allow-forms allow-modals allow-popups allow-same-origin allow-scripts"></iframe>'
)


def header() -> dict[str, Any]:
    """Read the README's header, which is the Space's configuration."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "README.md").read_text().split("---")[1])
    return found


def python(version: str) -> str:
    """Find the Python that the header asks for, else the newest."""
    versions = Path.home() / ".pyenv" / "versions"
    for name in (version, "3.13", "3.12", "3.11"):
        known = sorted(versions.glob(f"{name}.*/bin/python"))
        if found := shutil.which(f"python{name}") or (str(known[-1]) if known else None):
            return found
    return sys.executable


def assembled(commit: str, place: Path) -> Path:
    """Write the tracked files of a commit."""
    app = place / "app"
    app.mkdir()
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(app)], input=packed, check=True)
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(app)], check=True)
    return app


def installed(app: Path, place: Path) -> Path:
    """Make the virtual environment, as a Space does: requirements.txt, then the SDK."""
    venv, configuration = place / "venv", header()
    subprocess.run([python(str(configuration["python_version"])), "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "-q"]
    subprocess.run([*pip, "-r", str(app / "requirements.txt")], check=True)
    subprocess.run([*pip, f"gradio[oauth,mcp]=={configuration['sdk_version']}"], check=True)
    return venv


@contextmanager
def started(app: Path, venv: Path, place: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run app.py as a user who may write to HOME and the temporary folder alone."""
    stubs, home, temporary = (place / name for name in ("stubs", "home", "tmp"))
    for folder in (stubs, home, temporary):
        folder.mkdir()
    for name, text in STUBS.items():
        (stubs / name).parent.mkdir(exist_ok=True)
        (stubs / name).write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {
        name: value for name, value in os.environ.items() if re.match(r"PIP_|SSL_|REQUESTS_|HTTPS?_PROXY|LANG", name)
    }
    variables = kept | {
        "PATH": f"{venv / 'bin'}:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(stubs),
        "SPACE_ID": "somebody/mergescope",
        "SYSTEM": "spaces",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
    }
    # for root nothing is read-only, unless it gives that right up
    bound = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    with (place / "log.txt").open("w") as log:
        command = [*bound, str(venv / "bin" / "python"), "app.py"]
        server = subprocess.Popen(command, cwd=app, env=variables, stdout=log, stderr=log)
        try:
            url, end = f"http://127.0.0.1:{port}/", monotonic() + STARTS
            while not answers(url):
                if server.poll() is not None or monotonic() > end:
                    sys.exit(f"The app did not start:\n{(place / 'log.txt').read_text()[-4000:]}")
                sleep(0.5)
            yield url, psutil.Process(server.pid)
        finally:
            server.terminate()
            server.wait(30)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def watched(server: psutil.Process) -> Iterator[list[int]]:
    """Give a list whose one number is the most memory that the server has held."""
    peak, stop = [0], Event()

    def watch() -> None:
        while not stop.wait(0.5):
            peak[0] = max(peak[0], server.memory_info().rss)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def framed(url: str, place: Path) -> Iterator[str]:
    """Serve a page of another site that shows the app in a frame."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "index.html").write_text(FRAME.format(url=url))
    handler = partial(Silent, directory=str(outside))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}/"  # another name is another site
        server.shutdown()


def driven(address: str, url: str, said: Any = print) -> None:
    """Open the app in its frame, wait for its opening, move λ; fail on errors and on requests to other origins."""
    faults: list[str] = []
    expect.set_options(timeout=180_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page: Page = browser.new_page(viewport={"width": 1360, "height": 960})
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on("console", lambda message: message.type == "error" and faults.append(f"console: {message.text}"))
        page.on(
            "request",
            lambda request: request.url.startswith((address, url, "data:", "blob:")) or faults.append(request.url),
        )
        page.goto(address)
        frame: Frame = page.frames[1]
        began = monotonic()
        done = frame.locator('#ms-verdict [data-state="done"]')
        expect(done).to_be_visible()
        expect(frame.locator("#ms-magnitude .main-svg").first).to_be_visible()
        said(f"the opening merge is there after {monotonic() - began:.1f} s")
        slider, began = frame.locator("#ms-slider_0 input[type=range]"), monotonic()
        slider.focus()
        slider.press("ArrowLeft")
        expect(frame.locator("#ms-verdict [data-state]").first).not_to_have_attribute("data-state", "done")
        said(f"λ was moved to {slider.input_value()}, answered after {monotonic() - began:.1f} s")
        expect(done).to_be_visible()
        said(f"and evaluated after {monotonic() - began:.1f} s: {done.inner_text()[:90]!r}".replace("\\n", " "))
        for tab in ("Try it", "Adapters", "Diagnose", "OSRM", "Export"):
            frame.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(tempfile.gettempdir()) / "space.png"))
        browser.close()
    if faults:
        sys.exit("\n".join(faults))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--venv", type=Path, help="one that was made before")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        app = assembled(asked.commit, place)
        venv = asked.venv or installed(app, place)
        version = subprocess.run([venv / "bin" / "python", "--version"], check=True, capture_output=True, text=True)
        print(f"{version.stdout.strip()}, {len([*app.rglob('*')])} files of {asked.commit}")
        began = monotonic()
        with started(app, venv, place) as (url, server), watched(server) as peak, framed(url, place) as address:
            print(f"the app answers after {monotonic() - began:.1f} s")
            driven(address, url)
            wrote = [path for path in app.rglob("*") if path.stat().st_mtime > (place / "log.txt").stat().st_ctime]
            print(f"at most {peak[0] / 1e9:.2f} GB of memory; {len(wrote)} files written to the app's folder")
            log = (place / "log.txt").read_text()
            if peak[0] > MOST_BYTES or wrote or "Traceback" in log:
                sys.exit(f"Too much memory, files where none may be, or a fault:\n{log[-4000:]}")
        subprocess.run(["chmod", "-R", "u+w", str(app)], check=True)
    print("The Space works.")


if __name__ == "__main__":
    main()
