"""`python -m readme`: write the settings tables of the documents anew from the settings classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from claude_crds.settings import table
from claude_operator.settings import OperatorSettings
from claude_router.cluster.settings import ClusterSettings
from claude_router.settings import RouterSettings
from claude_worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
OPERATE = ROOT / "docs" / "operate.md"

TABLES: dict[Path, dict[str, type[Any]]] = {
    README: {"settings": RouterSettings},
    OPERATE: {
        "settings of the router": ClusterSettings,
        "settings of the operator": OperatorSettings,
        "settings of the worker": WorkerSettings,
    },
}
"""Document → what stands in the comments around each table, and the class that it shows."""


def settings_table(cls: type[Any]) -> str:
    """The table in Markdown."""
    rows = [
        f"| `{env}` | {f'`{default}`' if default else ''} | {_sentence(meaning)} ({allowed}) |"
        for env, default, allowed, meaning in table(cls)
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def with_tables(document: Path, text: str) -> str:
    """The document's text with its tables as they should be."""
    for name, cls in TABLES[document].items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{document.name}: {begin.strip()} or {end} is missing")
        text = head + begin + settings_table(cls) + end + tail
    return text


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


if __name__ == "__main__":
    for path in TABLES:
        path.write_text(with_tables(path, path.read_text()))
