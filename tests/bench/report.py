"""The figures, on the screen as they come and in docs/performance.md at the end."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import claude_crds
from claude_worker.cli import bundled_version

_TITLES = {
    "turn": "## Turns", "history": "## History", "relay": "## Relay", "gateway": "## Gateway",
    "teams": "## Teams", "memory": "## Memory",
    "start": "### To the first token", "hot": "### Turns, and what they write", "held": "### Memory held",
}  # fmt: skip
_HEAD = "| | figure | beside | of the two | goal | |\n|---|---:|---:|---:|---|---|"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure was measured against in the same run, in the same unit."""

    what: str
    value: float


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be, and whether it is."""

    what: str
    met: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `section` is a key of the titles above."""

    section: str
    what: str
    value: float
    unit: str
    limit: Limit | None = None
    goal: Goal | None = None

    @property
    def shown(self) -> str:
        return shown(self.value, self.unit)

    @property
    def beside(self) -> str:
        return f"{self.limit.what} {shown(self.limit.value, self.unit)}" if self.limit else ""

    @property
    def comparison(self) -> str:
        """The difference of two durations or sizes, the ratio of two rates."""
        if self.limit is None:
            return ""
        if self.unit.endswith("/s"):
            return f"{self.value / self.limit.value:.0%}"
        return f"{self.value - self.limit.value:+,.{digits(self.limit.value)}f} {self.unit}"

    @property
    def verdict(self) -> str:
        return "" if self.goal is None else "met" if self.goal.met else "**missed**"


def shown(value: float, unit: str) -> str:
    """Three digits that count, and the unit."""
    return f"{value:,.{digits(value)}f} {unit}"


def digits(value: float) -> int:
    """How many decimals to show."""
    return 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2


@dataclass(frozen=True, slots=True)
class Part:
    """A generated part of docs/performance.md: its name in the marks around it, and the command that writes it."""

    name: str
    command: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name} -->\n"

    @property
    def end(self) -> str:
        return f"<!-- /{self.name} -->"


LOCAL = Part("measured", "make bench")
CLUSTER = Part("measured on a cluster", "make bench-cluster")


class Report:
    """Collects figures; `versions` are of what they were measured against, `notes` say what is missing."""

    def __init__(self, part: Part = LOCAL) -> None:
        self.part = part
        self.figures: list[Figure] = []
        self.versions: dict[str, str] = {}
        self.notes: list[str] = []
        self._load = os.getloadavg()[0]

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        goal = f"goal {figure.goal.what}: {figure.verdict}" if figure.goal else ""
        line = f"{figure.section:7} {figure.what:60} {figure.shown:>16}  {figure.beside:>32} {figure.comparison:>11}"
        print(f"{line}  {goal}".rstrip(), flush=True)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(text, flush=True)

    @property
    def missed(self) -> Sequence[Figure]:
        """Those whose goal was not met."""
        return [f for f in self.figures if f.goal and not f.goal.met]

    def markdown(self) -> str:
        """What stands between the part's marks."""
        parts = [_machine(self.versions, self._load, self.part.command), *self.notes]
        for section, title in _TITLES.items():
            rows = [_row(figure) for figure in self.figures if figure.section == section]
            if rows:
                parts.append("\n".join([title, "", _HEAD, *rows]))
        return "\n" + "\n\n".join(parts) + "\n\n"


def _row(figure: Figure) -> str:
    goal = figure.goal.what if figure.goal else ""
    cells = (figure.what, figure.shown, figure.beside, figure.comparison, goal, figure.verdict)
    return "| " + " | ".join(cells) + " |"


def write(path: Path, report: Report) -> None:
    """Replace the report's part of the file; what is around it, by hand or of another part, stays.

    Raises ValueError if the file does not hold that part.
    """
    part = report.part
    head, begin, rest = path.read_text().partition(part.begin)
    _, end, tail = rest.partition(part.end)
    if not begin or not end:
        raise ValueError(f"{path} does not hold the lines {part.begin.strip()} and {part.end}")
    path.write_text(head + begin + report.markdown() + end + tail)


def _machine(versions: dict[str, str], load: float, command: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    known = {
        "claude-code-api": claude_crds.__version__,
        "Claude Code": bundled_version(),
        "Python": platform.python_version(),
        **{name: version(name) for name in ("aiohttp", "uvicorn", "uvloop")},
        **versions,
    }
    listed = ", ".join(f"{name} {number}" for name, number in known.items())
    return (
        f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, "
        f"Linux {platform.release().split('-')[0]}, "
        f"load average {load:.1f} before it began; {listed}. Repeat with `{command}`."
    )
