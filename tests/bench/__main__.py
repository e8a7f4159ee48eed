"""`make bench`: measure everything, say which goals are met, write docs/performance.md. About five minutes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench import memory, relay, turns
from bench.report import Report, write

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def main() -> None:
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        turns.measure(report, folder, peers=True, hot=600, new=15)
        relay.measure(report, folder, peers=True, scale=1.0)
        memory.measure(report, folder, conversations=1000, turns=200)
    write(DOCUMENT, report)
    missed = [f.what for f in report.figures if f.met is False]
    print(f"\n{len(report.figures)} figures, {len(missed)} goals missed" + "".join(f"\n  missed: {w}" for w in missed))


if __name__ == "__main__":
    main()
