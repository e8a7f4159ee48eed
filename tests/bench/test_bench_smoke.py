"""The benchmark runs, with tiny counts and without the peers; its figures are read by nobody here."""

from __future__ import annotations

from pathlib import Path

from bench import memory, relay, turns
from bench.report import BEGIN, END, Report, write


def test_every_section_gives_its_figures(tmp_path: Path) -> None:
    report = Report()
    turns.measure(report, tmp_path, peers=False, hot=4, new=1)
    relay.measure(report, tmp_path, peers=False, scale=0.01)
    memory.measure(report, tmp_path, conversations=120, turns=3)
    assert {f.section for f in report.figures} == {"turn", "relay", "memory"}
    assert len(report.figures) >= 18
    assert all(f.value > 0 for f in report.figures if "added" not in f.what and "suspended" not in f.what)
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}old\n{END}\n\nkept\n")
    write(page, report)
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith("kept\n")
    assert "old" not in text
    assert "| turn | hot turn p50" in text
