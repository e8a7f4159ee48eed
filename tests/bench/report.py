"""The figures, on the screen as they come and in docs/performance.md at the end."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import claude_crds
from claude_worker.cli import bundled_version

BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure; `limit` is what it was measured against in the same run, `goal` what it should be, `met` whether."""

    section: str
    what: str
    value: float
    unit: str
    limit: str = ""
    goal: str = ""
    met: bool | None = None

    @property
    def shown(self) -> str:
        digits = 0 if abs(self.value) >= 100 else 1 if abs(self.value) >= 10 else 2
        return f"{self.value:,.{digits}f} {self.unit}"

    @property
    def verdict(self) -> str:
        return "" if self.met is None else "met" if self.met else "**missed**"


class Report:
    """Collects figures."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        extra = "  ".join(x for x in (figure.limit, figure.goal and f"goal {figure.goal}", figure.verdict) if x)
        print(f"{figure.section:10}  {figure.what:58}  {figure.shown:>16}  {extra}", flush=True)

    def markdown(self) -> str:
        """The generated part of docs/performance.md."""
        rows = [f"| {f.section} | {f.what} | {f.shown} | {f.limit} | {f.goal} | {f.verdict} |" for f in self.figures]
        head = "| section | what | figure | limit, in the same run | goal | |\n|---|---|---:|---|---|---|"
        return f"{_machine()}\n\n{head}\n" + "\n".join(rows) + "\n"


def write(path: Path, report: Report) -> None:
    """Replace the generated part of the file."""
    text = path.read_text()
    head, _, rest = text.partition(BEGIN)
    path.write_text(head + BEGIN + report.markdown() + END + rest.partition(END)[2])


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {model}, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, claude-code-api {claude_crds.__version__}, "
        f"Claude Code {bundled_version()}, "
        f"aiohttp {version('aiohttp')}, uvicorn {version('uvicorn')}. Repeat with `make bench`."
    )
