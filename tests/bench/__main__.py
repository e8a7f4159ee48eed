"""`make bench`: measure everything, say which goals are met, write docs/performance.md. About eight minutes."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

from bench import first_turns, gateway, history, memory, peers, relay, teams, turns
from bench.report import Report, write

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
_LONGEST_SECONDS = 15 * 60


def main() -> int:
    """Entry point; returns the exit status: 0 also when goals are missed, 130 when it was told to stop."""
    # A shell's background jobs inherit that it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Ctrl-C is what asyncio and every `with` below know how to end at; the others become one.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.alarm(_LONGEST_SECONDS)
    report = Report()
    began = time.monotonic()
    try:
        _measure(report)
    except KeyboardInterrupt:
        print(f"stopped after {time.monotonic() - began:.0f} s; {DOCUMENT.name} was not written", file=sys.stderr)
        return 130
    write(DOCUMENT, report)
    print(f"\n{len(report.figures)} figures in {time.monotonic() - began:.0f} s, written to {DOCUMENT}")
    goals = [figure for figure in report.figures if figure.goal]
    print(f"{len(goals) - len(report.missed)} of {len(goals)} goals met")
    for figure in report.missed:
        print(f"  missed: {figure.what}: {figure.shown}, {figure.beside} ({figure.comparison})")
    return 0


def _measure(report: Report) -> None:
    installed = {"claude-max-api-proxy": bool(peers.max_api_version()), "LiteLLM": bool(peers.litellm_version())}
    for name in (name for name, there in installed.items() if not there):
        report.note(f"Not measured: {name}, which was not installed (`make bench` installs it).")
    with tempfile.TemporaryDirectory(prefix="claude-bench-") as name:
        folder = Path(name)
        turns.measure(report, folder, peer=installed["claude-max-api-proxy"], rounds=300)
        first_turns.measure(report, folder, rounds=12)
        history.measure(report, folder, rounds=10, hot=60)
        relay.measure(report, folder, peer=installed["LiteLLM"], scale=1.0)
        gateway.measure(report, folder, scale=1.0)
        teams.measure(report, folder, keys=10_000, conversations=10_000)
        memory.measure(report, folder, conversations=1000, turns=200)


if __name__ == "__main__":
    sys.exit(main())
