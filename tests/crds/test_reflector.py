"""The reflector against a server that has every ill a server has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest
from aiohttp import web

from claude_crds.reflector import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, backoff
from crds.fake_api import FakeApi, status
from crds.harness import KIND, followed, session


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    async with FakeApi() as made:
        yield made


def lists(fake: FakeApi) -> int:
    """How many LISTs were begun."""
    return sum("watch" not in r.query and "continue" not in r.query for r in fake.requests)


def versions(fake: FakeApi) -> list[str]:
    """Where each watch began."""
    return [r.query["resourceVersion"] for r in fake.requests if "watch" in r.query]


async def test_it_lists_in_pages_and_then_watches(fake: FakeApi) -> None:
    for i in range(5):
        fake.put(KIND, session(f"s{i}"))
    async with followed(fake, page=2) as f:
        await f.same()
        assert [r.query["limit"] for r in fake.requests[:3]] == ["2", "2", "2"]
        assert f.heard == [("added", f"s{i}") for i in range(5)]
        await fake.watched()
        fake.put(KIND, session("s5"))
        fake.put(KIND, session("s0", desiredState="Suspended"))
        fake.remove(KIND, "s1")
        await f.same()
        assert f.heard[5:] == [("added", "s5"), ("modified", "s0"), ("deleted", "s1")]
        found = f.reflector.get("s0")
        assert found
        assert found.spec.desired_state == "Suspended"
        assert f.reflector.get("s1") is None
        assert (lists(fake), len(versions(fake))) == (1, 1)


async def test_an_index_finds_objects_by_key_and_forgets_them(fake: FakeApi) -> None:
    fake.put(KIND, session("a", poolRef={"name": "p"}))
    fake.put(KIND, session("b", poolRef={"name": "q"}))
    async with followed(fake) as f:
        await f.same()
        await fake.watched()
        assert [s.name for s in f.reflector.by("pool", "p")] == ["a"]
        assert list(f.reflector.by("pool", "none")) == []
        fake.put(KIND, session("a", poolRef={"name": "q"}))
        await f.same()
        assert list(f.reflector.by("pool", "p")) == []
        assert {s.name for s in f.reflector.by("pool", "q")} == {"a", "b"}
        fake.remove(KIND, "b")
        await f.same()
        assert [s.name for s in f.reflector.by("pool", "q")] == ["a"]


async def test_a_watch_that_ends_in_order_is_taken_up_where_the_bookmark_was(fake: FakeApi) -> None:
    async with followed(fake) as f:
        await f.same()
        await fake.watched()
        fake.put("/api/v1/namespaces/ns/pods", session("other"))
        fake.bookmark()
        fake.end()
        await fake.until(lambda: len(versions(fake)) == 2)
        assert versions(fake) == ["100", "101"]
        assert lists(fake) == 1
        assert f.delays == []


@pytest.mark.parametrize("gone_as", ["http", "event"])
async def test_after_a_410_it_lists_anew_and_reports_what_vanished(
    fake: FakeApi, gone_as: Literal["http", "event"]
) -> None:
    fake.gone_as = gone_as
    for name in ("kept", "changed", "vanished", "made-again"):
        fake.put(KIND, session(name))
    async with followed(fake) as f:
        await f.same()
        await fake.watched()
        f.heard.clear()
        before = f.reflector.get("made-again")
        fake.cut()
        fake.remove(KIND, "vanished")
        fake.remove(KIND, "made-again")
        fake.put(KIND, session("made-again"))
        fake.put(KIND, session("changed", desiredState="Suspended"))
        fake.put(KIND, session("new"))
        fake.compact()
        await f.same()
        after = f.reflector.get("made-again")
        assert before
        assert after
        assert before.metadata.uid != after.metadata.uid
        assert sorted(f.heard) == [
            ("added", "made-again"),
            ("added", "new"),
            ("deleted", "made-again"),
            ("deleted", "vanished"),
            ("modified", "changed"),
        ]
        assert f.heard.index(("deleted", "made-again")) < f.heard.index(("added", "made-again"))
        assert lists(fake) == 2
        assert len(f.delays) == 1, "for the cut; a 410 is answered by a LIST at once"


async def test_410_again_and_again_does_not_become_a_loop_of_lists(fake: FakeApi) -> None:
    async with followed(fake) as f:
        await f.same()
        fake.compact()
        # The server lists one version and watches from a later one: as one that lags behind the others would.
        fake.compacted = fake.version + 1000
        fake.cut()
        await fake.until(lambda: lists(fake) >= 6)
        assert len(f.delays) >= 4
        assert f.delays == sorted(f.delays)
        fake.compacted = 0
        await fake.until(lambda: len(fake.watchers) == 1)


async def test_a_continuation_that_expired_is_listed_anew_in_one_piece(fake: FakeApi) -> None:
    for i in range(4):
        fake.put(KIND, session(f"s{i}"))

    def expire() -> None:
        fake.remove(KIND, "s0")
        fake.compact()
        fake.before_page = None

    fake.before_page = expire
    async with followed(fake, page=3) as f:
        await f.same()
        assert sorted(f.names()) == ["s1", "s2", "s3"]
        assert [r.query.get("limit", "") for r in fake.requests[:3]] == ["3", "3", ""]
        assert ("added", "s0") not in f.heard


async def test_a_hung_watch_is_given_up_and_nothing_is_lost(fake: FakeApi) -> None:
    async with followed(fake, silence=0.1) as f:
        await f.same()
        await fake.watched()
        fake.hang()
        fake.put(KIND, session("unheard"))
        await f.same()
        assert f.heard == [("added", "unheard")]
        assert lists(fake) == 1


async def test_while_the_server_is_away_the_copy_stays_and_then_follows_again(fake: FakeApi) -> None:
    fake.put(KIND, session("a"))
    async with followed(fake) as f:
        await f.same()
        await fake.watched()
        assert f.reflector.problem == ""
        heard_at = f.reflector.last_event
        await fake.stop()
        await f.delayed(5)
        assert "are not being followed" in f.reflector.problem
        assert sorted(f.names()) == ["a"]
        assert f.reflector.synced
        assert f.reflector.last_event == pytest.approx(heard_at, abs=0.5)
        fake.put(KIND, session("b"))
        fake.remove(KIND, "a")
        away = len(f.delays)
        assert f.delays[-1] > f.delays[0]
        await fake.start()
        await f.same()
        assert lists(fake) == 1, "the server had not forgotten"
        assert f.reflector.problem == ""
        assert f.reflector.last_event > heard_at
        fake.cut()
        await fake.until(lambda: len(versions(fake)) >= 3)
        assert f.delays[away:][-1] < 2 * FIRST_DELAY_SECONDS, "failures before a good watch are forgotten"


@pytest.mark.parametrize(("code", "lists_anew"), [(429, 0), (503, 0), (500, 1), (504, 1), (404, 1), (400, 1)])
async def test_after_a_refusal_that_may_be_about_the_version_it_lists(
    fake: FakeApi, code: int, lists_anew: int
) -> None:
    async with followed(fake) as f:
        await f.same()
        await fake.watched()
        fake.answers.append(lambda _: web.json_response(status(code, "Odd", "odd"), status=code))
        fake.cut()
        await fake.until(lambda: not fake.answers)
        await fake.watched()
        assert lists(fake) == 1 + lists_anew
        assert "odd" in f.reflector.problem or f.reflector.problem == ""
        assert len(f.delays) == 2


async def test_an_unreadable_line_or_error_event_makes_it_list(fake: FakeApi) -> None:
    def garbage(_: web.Request) -> web.Response:
        return web.Response(text='{"type":"ADDED","obj\n')

    def failing(_: web.Request) -> web.Response:
        return web.json_response({"type": "ERROR", "object": status(500, "InternalError")}, dumps=_line)

    async with followed(fake) as f:
        await f.same()
        await fake.watched()
        for answer, expected in ((garbage, 2), (failing, 3)):
            fake.answers.append(answer)
            fake.cut()
            await fake.until(lambda: not fake.answers)
            await fake.watched()
            assert lists(fake) == expected


def _line(value: object) -> str:
    return web.json_response(value).text + "\n"  # type: ignore[operator]


async def test_a_watch_that_ends_at_once_is_not_repeated_at_once(fake: FakeApi) -> None:
    async with followed(fake) as f:
        await f.same()
        await fake.watched()
        fake.answers += [lambda _: web.Response()] * 3
        fake.end()
        await fake.until(lambda: not fake.answers)
        await fake.watched()
        assert len(f.delays) >= 3
        assert lists(fake) == 1


async def test_an_object_that_cannot_be_read_does_not_cost_the_others(fake: FakeApi) -> None:
    broken = {"metadata": {"name": "broken"}, "spec": {"conversationID": 5}}
    fake.put(KIND, broken)
    fake.put(KIND, session("fine"))
    fake.put(KIND, session("later-broken"))
    async with followed(fake) as f:
        await f.reflector.wait_synced()
        assert sorted(f.names()) == ["fine", "later-broken"]
        await fake.watched()
        fake.put(KIND, {"metadata": {"name": "later-broken"}, "spec": {"conversationID": 5}})
        fake.put(KIND, session("broken"))
        fake.put(KIND, session("later-broken", tenant="t"))
        await f.same()
        assert f.heard[2:] == [("deleted", "later-broken"), ("added", "broken"), ("added", "later-broken")]
        assert (lists(fake), len(versions(fake))) == (1, 1)


def test_the_delay_doubles_up_to_a_limit_with_jitter() -> None:
    assert [backoff(n, lambda: 1.0) for n in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.4])
    assert backoff(100, lambda: 1.0) == LONGEST_DELAY_SECONDS
    assert backoff(3, lambda: 0.0) == pytest.approx(0.2)
    assert len({backoff(3) for _ in range(20)}) > 10
