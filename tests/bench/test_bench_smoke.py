"""The benchmark runs, with tiny counts and without the peers: every figure is there. How large is not tested."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from bench import first_turns, gateway, history, memory, relay, teams, turns
from bench.load import Connection, NotAnAnswer, check, dechunked, percentile, request
from bench.processes import environment, service
from bench.report import CLUSTER, LOCAL, Figure, Goal, Limit, Report, write
from local.harness import alive, descendants, eventually, find_cli

TURNS = [
    "hot turn, p50", "hot turn, p90", "hot turn, p99", "CPU of router and worker shim for a hot turn",
    "hot turn back to back, p50", "an answer of 2,000 chunks",
]  # fmt: skip
FIRST_TURNS = [
    "new conversation on a warm spare, first content, p50", "new conversation on a warm spare, whole turn, p50",
]  # fmt: skip
HISTORY = [
    *(f"deciding what {count} messages mean, CPU" for count in (10, 100, 500)),
    *(f"{what}, first content, p50"
      for what in ("resumed conversation", "edited turn (a fork)", "the same edited turn", "regenerated turn (a fork)",
                   "the same regenerated turn", "edited turn of a suspended conversation")),
    "hot turn with a tool's result, p50",
]  # fmt: skip
RELAY = [
    *(f"router, {at}, {what}"
      for at in ("1 stream", "16 streams", "64 streams")
      for what in ("p50", "p99", "answers a second", "answers for a second of one core")),
    "router, one stream of 100,000 chunks at full speed", "router, chunks at full speed for a second of one core",
    "router, 64 streams whose chunks come one by one", "router, chunks one by one for a second of one core",
    "router after the load above",
]  # fmt: skip
GATEWAY = [
    *(f"{at}, {what}" for at in ("1 stream", "16 streams") for what in ("p50", "p99", "answers a second")),
    "one stream of 100,000 chunks at full speed", "memory after its load",
]  # fmt: skip
TEAMS = ["a key looked up among 100, p50", "one team's 10 conversations listed, of 100, p50"]
MEMORY = [
    "router, idle", "worker shim after its first turn", "worker shim after 3 more turns", "router after 3 more turns",
    "router with 120 suspended conversations", "a page of 100 of them listed, p50", "all 120 listed, page by page",
]  # fmt: skip


def test_turns_give_their_figures(tmp_path: Path) -> None:
    report = Report()
    turns.measure(report, tmp_path, peer=False, rounds=4)
    assert names(report) == TURNS


def test_first_turns_give_their_figures(tmp_path: Path) -> None:
    report = Report()
    first_turns.measure(report, tmp_path, rounds=1)
    assert names(report) == FIRST_TURNS


def test_history_gives_its_figures(tmp_path: Path) -> None:
    report = Report()
    history.measure(report, tmp_path, rounds=1, hot=2)
    assert names(report) == HISTORY


def test_the_relay_gives_its_figures(tmp_path: Path) -> None:
    report = Report()
    relay.measure(report, tmp_path, peer=False, scale=0.03)
    assert names(report) == RELAY


def test_the_gateway_gives_its_figures(tmp_path: Path) -> None:
    report = Report()
    gateway.measure(report, tmp_path, scale=0.03)
    assert names(report) == GATEWAY


def test_teams_give_their_figures(tmp_path: Path) -> None:
    report = Report()
    teams.measure(report, tmp_path, keys=100, conversations=100)
    assert names(report) == TEAMS


def test_memory_gives_its_figures(tmp_path: Path) -> None:
    report = Report()
    memory.measure(report, tmp_path, conversations=120, turns=3)
    assert names(report) == MEMORY


def names(report: Report) -> list[str]:
    """What the figures are called, all of them positive."""
    assert [f for f in report.figures if f.value <= 0 or (f.limit and f.limit.value <= 0)] == []
    return [f.what for f in report.figures]


def test_the_table_replaces_only_what_was_generated(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    other = f"{CLUSTER.begin}of a cluster\n{CLUSTER.end}"
    page.write_text(f"# Title\n\n{LOCAL.begin}old\n{LOCAL.end}\n\n{other}\n\nkept\n")
    report = Report()
    report.add(Figure("turn", "slow", 120.04, "ms", Limit("bare", 100.0), Goal("at most +5 ms", met=False)))
    report.add(Figure("relay", "fast", 1500.0, "/s", Limit("direct", 2000.0), Goal("at least 1,000/s", met=True)))
    write(page, report)
    write(page, report)
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith("kept\n")
    assert "old" not in text
    assert text.count(LOCAL.begin) == 1
    assert other in text
    assert "| slow | 120.0 ms | bare 100.0 ms | +20.0 ms | at most +5 ms | **missed** |" in text
    assert "| fast | 1,500 /s | direct 2,000 /s | 75% | at least 1,000/s | met |" in text
    assert [figure.what for figure in report.missed] == ["slow"]


def test_the_parts_live_side_by_side(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{LOCAL.begin}{LOCAL.end}\nbetween\n{CLUSTER.begin}{CLUSTER.end}\n")
    local, cluster = Report(), Report(CLUSTER)
    local.add(Figure("turn", "here", 1.0, "ms"))
    cluster.add(Figure("start", "there", 2.0, "ms"))
    for report in (cluster, local, cluster):
        write(page, report)
    before, between, after = page.read_text().partition("\nbetween\n")
    assert between
    assert ("| here |" in before, "| there |" in before) == (True, False)
    assert ("| here |" in after, "| there |" in after) == (False, True)
    assert "Repeat with `make bench`." in before
    assert "Repeat with `make bench-cluster`." in after


def test_a_page_without_its_marks_is_not_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n{LOCAL.begin}the end is missing")
    with pytest.raises(ValueError, match="does not hold the lines"):
        write(page, Report())
    assert page.read_text() == f"# Title\n{LOCAL.begin}the end is missing"


# -- the load generator: nothing that failed may count as fast ------------------------------------------------------


def event(data: object) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data: {text}\n\n".encode()


def answer(*pieces: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, event("[DONE]")))
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def chunk(text: str) -> bytes:
    return event({"choices": [{"delta": {"content": text}}]})


@asynccontextmanager
async def answering(data: bytes, *, close: bool = False) -> AsyncIterator[str]:
    """A server that answers every request with these bytes, one at a time: no packet's boundary may matter."""

    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # the client may have heard enough
            while await reader.read(65536):
                for i in range(len(data)):
                    writer.write(data[i : i + 1])
                    await asyncio.sleep(0)
                if close:
                    break
            writer.close()
            await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*served)


async def test_a_stream_is_timed_and_understood() -> None:
    good = answer(chunk(""), chunk("one "), chunk("two"))
    async with answering(good) as url:
        connection = await Connection.open(url)
        for _ in range(2):
            timed = await connection.send(request(url, "hi"))
            assert 0 < timed.first < timed.whole
            assert timed.size == len(good)
        assert await connection.text(request(url, "hi")) == ["one ", "two"]
        connection.close()
        await check(url, request(url, "hi"), "one two")
        with pytest.raises(NotAnAnswer, match="said 'one two' instead of 'one'"):
            await check(url, request(url, "hi"), "one")


@pytest.mark.parametrize(
    ("data", "close"),
    [
        pytest.param(answer(chunk("hi")).replace(b" 200 ", b" 503 "), False, id="status"),
        pytest.param(answer(), False, id="no-content"),
        pytest.param(answer(chunk("hi"), event({"error": {"message": "broken"}})), False, id="error-in-stream"),
        pytest.param(answer(chunk("hi")).replace(b"[DONE]", b"[D0NE]"), False, id="not-done"),
        pytest.param(answer(chunk("hi"))[:-5], True, id="cut"),
    ],
)
async def test_what_failed_is_no_answer(data: bytes, close: bool) -> None:
    async with answering(data, close=close) as url:
        connection = await Connection.open(url)
        with pytest.raises(NotAnAnswer):
            await connection.send(request(url, "hi"))
        connection.close()


def test_pieces() -> None:
    assert dechunked(b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n") == b"abc0123456789"
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(i) for i in range(200)], 0.99) == 198.0
    assert percentile([1.0], 0.99) == 1.0


# -- nothing is left behind ----------------------------------------------------------------------------------------


def test_a_peer_that_does_not_start_is_told_and_its_children_end(tmp_path: Path) -> None:
    script = (
        "import pathlib, subprocess, sys; child = subprocess.Popen(['sleep', '1000']);"
        "pathlib.Path('child').write_text(str(child.pid)); sys.exit('no such setting')"
    )
    with (
        pytest.raises(RuntimeError, match="odd ended at once: no such setting"),
        service("odd", tmp_path, [sys.executable, "-c", script], env=environment({})),
    ):
        pytest.fail("it was served")
    child = int((tmp_path / "odd" / "child").read_text())
    eventually(lambda: not alive(child))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_leaves_nothing_behind(number: int) -> None:
    process = subprocess.Popen([sys.executable, "-m", "bench"], env=environment({}), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        eventually(lambda: find_cli(process.pid) or process.poll() is not None)
        family = descendants(process.pid)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors[:14]) == (130, "stopped after "), errors
    assert len(family) >= 4  # the model, the server, a worker and its CLI
    eventually(lambda: not [pid for pid in family if alive(pid)])
