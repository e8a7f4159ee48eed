"""Usage read from bytes as they pass: in whatever pieces, whatever is in between."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_router.gateway.scan import Counted, JsonScanner, SseScanner
from router.gateway.harness import delta, event, finish, start

WHOLE = start(cache_read_input_tokens=7) + delta('"usage": {"output_tokens": 9}') + event("ping") + finish()


def scanned(*pieces: bytes) -> SseScanner:
    scanner = SseScanner()
    for piece in pieces:
        scanner.feed(piece)
    scanner.end()
    return scanner


@given(st.lists(st.integers(0, len(WHOLE))), st.sampled_from([b"\n", b"\r\n"]))
def test_pieces_make_no_difference(cuts: list[int], ending: bytes) -> None:
    stream = WHOLE.replace(b"\n", ending)
    edges = [0, *sorted(cuts), len(stream)]
    scanner = scanned(*(stream[a:b] for a, b in itertools.pairwise(edges)))
    assert scanner.complete
    assert (scanner.model, scanner.message) == ("claude-opus-5", "msg_1")
    assert scanner.counted == Counted(input=10, output=40, cache_read=7)


@given(st.lists(st.binary()))
def test_nothing_makes_it_fail(pieces: list[bytes]) -> None:
    scanner, whole = SseScanner(), JsonScanner()
    for piece in [b'data: {"usage"', *pieces]:
        scanner.feed(piece)
        whole.feed(piece)
    scanner.end()
    whole.end()
    assert whole.counted is None or whole.complete


@pytest.mark.parametrize("last", [
    {"input_tokens": 12, "output_tokens": 40},  # a delta may say all of it again
    {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 40},  # or say nothing of the prompt
    {"input_tokens": None, "output_tokens": 40},
])  # fmt: skip
def test_what_is_told_twice_counts_once(last: dict[str, int | None]) -> None:
    stream = start(cache_read_input_tokens=7) + event("message_delta", usage=last) + event("message_stop")
    assert scanned(stream).counted == Counted(max(10, last["input_tokens"] or 0), 40, 7)


@pytest.mark.parametrize("count", [2**63, 10**400, -(2**70)])
def test_an_absurd_count_does_not_break_sums(count: int) -> None:
    found = scanned(start(input_tokens=count, cache_read_input_tokens=count) + finish(output_tokens=count)).counted
    assert found is not None
    assert max(found) <= 10**9
    assert min(found) >= 0
    whole = JsonScanner()
    whole.feed(json.dumps({"usage": {"input_tokens": count, "output_tokens": 1}}).encode())
    whole.end()
    assert whole.counted is not None
    assert whole.counted.input in (0, 10**9)


def test_cache_writes_by_their_length_of_life() -> None:
    split = {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10}
    stream = start(cache_creation_input_tokens=35, cache_creation=split) + finish(cache_creation_input_tokens=35)
    counted = scanned(stream).counted
    assert counted is not None
    assert (counted.cache_write_5m, counted.cache_write_1h, counted.prompt) == (25, 10, 45)


def test_searches_speed_and_place() -> None:
    more = {"server_tool_use": {"web_search_requests": 3}, "speed": "fast", "inference_geo": "us"}
    counted = scanned(start() + finish(**more)).counted
    assert counted == Counted(10, 40, searches=3, fast=True, us=True)


def test_an_endless_line_is_not_kept() -> None:
    scanner = SseScanner()
    for _ in range(64):
        scanner.feed(b"x" * 65536)
        assert len(scanner._rest) <= 65536
    scanner.feed(b'"usage"\n')
    scanner.feed(WHOLE)
    assert scanner.counted == Counted(10, 40, 7)


def test_what_broke_off_is_estimated_by_what_has_passed() -> None:
    scanner = scanned(start(), *(delta("four") for _ in range(100)))
    assert not scanner.complete
    assert scanner.counted is not None
    assert 100 <= scanner.counted.output <= 200
    assert scanned(start()).counted == Counted(10, 1)
    assert scanned(b"event: ping\n\n").counted is None


@pytest.mark.parametrize(("body", "counted"), [
    (json.dumps({"usage": {"input_tokens": 1, "output_tokens": -5}}).encode(), Counted(1)),
    (b'{"usage": {"input_tokens": "many"}}', None), (b"[]", None), (b"", None), (b'{"usage": null}', None),
])  # fmt: skip
def test_an_answer_in_one_piece(body: bytes, counted: Counted | None) -> None:
    scanner = JsonScanner()
    for at in range(0, len(body), 3):
        scanner.feed(body[at : at + 3])
    scanner.end()
    assert scanner.counted == counted
