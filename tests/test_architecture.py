"""The rooms of docs/architecture.md: no circle of imports, and none from a room below."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "whisper_recipe"
# From the ground up; those of a row don't import each other.
ROOMS = [
    {"__init__", "errors"},
    {"files", "processes", "languages", "tasks"},
    {"resumable"},
    {"report"},
    {"text"},
    {"model"},
    {"data"},
    {"training", "decoding"},
    {"scoring"},
    {"export"},
    {"serving"},
    {"cli"},
    {"__main__"},
]


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(names: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> those of the package that it imports: at its top, in its functions, or for its type hints alone."""
    found = {}
    for name, path in names.items():
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: a relative import"
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= inner & names.keys() or {node.module}
        found[name] = (wanted & names.keys()) - {name}
    return found


def room(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def test_no_module_imports_itself_through_others():
    graph = imports(modules())
    assert len(graph) > 50 and graph["whisper_recipe.data.fbank"] >= {"whisper_recipe.files", "whisper_recipe.errors"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None


def test_modules_import_from_rooms_above_their_own():
    level = {name: number for number, row in enumerate(ROOMS) for name in row}
    wrong = [
        f"{module} imports {other}"
        for module, others in imports(modules()).items()
        for other in others
        if room(module) != room(other) and level[room(other)] >= level[room(module)]
    ]
    assert not wrong
