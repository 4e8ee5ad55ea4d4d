"""The folders are the architecture: a package imports only from those below it, and nothing goes round in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("errors",),
    ("io",),
    ("adapters",),
    ("tasks",),
    ("models",),
    ("features", "evaluation"),
    ("osrm", "methods"),
    ("plugins",),
    ("recipes",),
    ("module_results",),
    ("merged",),
    ("engine",),
    ("training", "diagnostics", "export"),
    ("playground",),
    ("tuning",),
    ("shipped",),
    ("experiments",),
    ("services",),
    ("cli",),
)
"""From the ground up; those of one floor may import each other in the order in which they stand, or not at all."""
HEIGHT = {name: height for height, name in enumerate(name for floor in FLOORS for name in floor)}
EVERYTHING = sorted([*(ROOT / "merging").rglob("*.py"), *(ROOT / "viz").rglob("*.py"), ROOT / "app.py"])


def module(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module(path): path for path in EVERYTHING}


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield what a file imports from this project, wherever in the file: also for types, and late."""
    package = module(path) if path.name == "__init__.py" else module(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple((node.module or "").split(".")) if node.module else ()
            for name in node.names:
                yield (*base, name.name) if (*base, name.name) in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (tuple(name.name.split(".")) for name in node.names)


def own(path: Path) -> list[tuple[str, ...]]:
    return [target for target in imports(path) if target in MODULES]


@pytest.mark.parametrize(
    "path",
    [p for p in EVERYTHING if len(module(p)) > 1 and module(p)[0] == "merging"],
    ids=lambda p: ".".join(module(p)),
)
def test_a_package_imports_only_from_below(path):
    here = module(path)[1]
    above = [
        target
        for target in own(path)
        if (target[0] != "merging" and here != "cli")
        or (len(target) > 1 and target[0] == "merging" and HEIGHT[target[1]] > HEIGHT[here])
    ]
    assert not above, f"{path} imports {above}"


def test_no_circle_of_imports():
    left = {name: {target for target in own(path) if target != name} for name, path in MODULES.items()}
    # a package's __init__ hands names of its own files on, and loads with any of them: it is no room of its own
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    left = {name: targets - packages for name, targets in left.items() if name not in packages}
    while free := [name for name, targets in left.items() if not targets]:
        left = {name: targets - set(free) for name, targets in left.items() if name not in free}
    assert not left, f"in a circle: {sorted('.'.join(name) for name in left)}"


def test_figures_and_panels_import_no_torch():
    heavy = {"torch", "transformers", "peft"}
    found = [
        path
        for path in EVERYTHING
        if module(path)[0] == "viz"
        for target in imports(path)
        if target and target[0] in heavy
    ]
    assert not found


def test_no_file_is_too_long_to_be_read_at_one_sitting() -> None:
    styles = [*(ROOT / "assets").rglob("*.css"), *(ROOT / "assets").rglob("*.js")]
    lines = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in [*EVERYTHING, *styles]}
    # the browser's half of Diagnose is one closure
    assert {path: count for path, count in lines.items() if count > 350} == {"assets/js/diagnose.js": 511}
