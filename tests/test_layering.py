"""The arrows between the packages, and the sizes that keep them readable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "claude_crds": "crds", "claude_operator": "operator", "claude_router": "router", "claude_worker": "worker-image",
}  # fmt: skip

SPOKEN = (
    "claude_worker.openai", "claude_worker.anthropic", "claude_worker.bounds", "claude_worker.connections",
    "claude_worker.dialect", "claude_worker.prefixes",
)  # fmt: skip
"""What router and worker both know: the APIs, HTTP under them, and the hash that names a history."""

# What of ours each package may import; a prefix covers what lies below it.
ARROWS = {
    "claude_crds": (),
    "claude_operator": ("claude_crds",),
    "claude_router": ("claude_crds", "claude_operator.decide", *SPOKEN),
    "claude_worker": ("claude_crds.git", "claude_crds.model_names", "claude_crds.names", "claude_crds.settings"),
}
FORBIDDEN = {
    "claude_router": ("kopf",),
    "claude_worker": ("kopf", "kubernetes", "fastapi", "aiohttp", "claude_agent_sdk"),
}
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 50


def files(package: str) -> list[Path]:
    return sorted((ROOT / FOLDERS[package] / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("package", FOLDERS)
def test_every_package_imports_only_what_its_part_may(package: str) -> None:
    found = [(path.name, name) for path in files(package) for name in imports(path)]
    assert found
    allowed = (package, *ARROWS[package])
    ours = [(p, n) for p, n in found if any(within(n, other) for other in FOLDERS)]
    assert [x for x in ours if not any(within(x[1], a) for a in allowed)] == []
    assert [x for x in found if any(within(x[1], f) for f in FORBIDDEN.get(package, ()))] == []


@pytest.mark.parametrize("package", FOLDERS)
def test_files_and_functions_stay_small(package: str) -> None:
    for path in files(package):
        source = path.read_text()
        assert source.count("\n") <= MOST_LINES_OF_A_FILE, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < MOST_LINES_OF_A_FUNCTION, f"{path}: {node.name}"


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_top_level_folders_are_not_packages(folder: str) -> None:
    """`operator/__init__.py` would take the place of the standard library's module."""
    assert not (ROOT / folder / "__init__.py").exists()
