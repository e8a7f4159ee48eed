"""`python -m readme`: write the README's settings table anew from the settings class."""

from __future__ import annotations

from pathlib import Path

from claude_crds.settings import table
from claude_router.settings import RouterSettings

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"


def settings_table() -> str:
    """The table in Markdown."""
    rows = [
        f"| `{env}` | {f'`{default}`' if default else ''} | {meaning} ({allowed}) |"
        for env, default, allowed, meaning in table(RouterSettings)
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def with_table(text: str) -> str:
    """The README's text with the table as it should be."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + settings_table() + END + tail


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
