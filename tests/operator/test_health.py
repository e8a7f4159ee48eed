"""Liveness proves progress, readiness says what is missing; neither kills an operator whose API server is away."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from claude_crds.api import Api
from claude_operator import term as terms
from claude_operator.health import Health
from claude_operator.lease import Leadership
from claude_operator.metrics import OperatorMetrics
from operator_sim.api import SimApi
from operator_sim.cluster import cluster, hurry


async def test_it_answers_over_http() -> None:
    server = SimApi()
    async with server, Api(server.loader) as api, aiohttp.ClientSession() as http:
        leadership = Leadership(api, "ns", "l", "me", duration=15.0)
        health = Health(leadership, OperatorMetrics())
        await health.begin("127.0.0.1", 0)
        assert health._runner is not None
        root = f"http://127.0.0.1:{health._runner.addresses[0][1]}"
        try:
            await leadership.gain()
            for path in ("healthz", "readyz"):
                async with http.get(f"{root}/{path}") as answer:
                    assert (answer.status, await answer.json()) == (200, {"status": "ok"})
            async with http.get(f"{root}/metrics") as answer:
                assert "claude_operator_leader 1.0" in await answer.text()
            await server.stop()
            assert not await leadership._try()
            async with http.get(f"{root}/readyz") as answer:
                assert answer.status == 503
                assert "cannot connect" in (await answer.json())["status"]
            async with http.get(f"{root}/healthz") as answer:
                assert answer.status == 200
            await server.start()
        finally:
            await health.end()


async def test_a_lease_that_nobody_looks_at_is_a_reason_for_a_restart() -> None:
    server = SimApi()
    async with server, Api(server.loader) as api:
        leadership = Leadership(api, "ns", "l", "me", duration=15.0)
        health = Health(leadership, OperatorMetrics())
        assert health.problem() == ""
        leadership.tried_at = time.monotonic() - 100
        assert "100 s ago" in health.problem()


async def test_a_term_that_works_has_no_problem_and_neither_has_one_without_an_api_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hurry(monkeypatch)
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        assert c.operator.term.problem() == ""
        await c.api.stop()
        reflectors = c.operator.term.world.reflectors
        async with asyncio.timeout(30):
            while not all(r.problem for r in reflectors):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        monkeypatch.setattr(terms, "STUCK_SECONDS", 0.0)
        keeper = c.operator.term._keepers["default"]
        keeper.last_round = time.monotonic() + 1000
        assert c.operator.term.problem() == ""
        await c.api.start()


async def test_a_keeper_that_hangs_or_ends_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        term = c.operator.term
        keeper = term._keepers["default"]
        keeper.last_round = time.monotonic() - 1000
        keeper.state.bell.set()
        assert "the keeper of pool default has not looked" in term.problem()
        [task] = [t for t in term._tasks if t.get_name() == "keeper default"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert term.problem() == "ended: keeper default"


async def test_a_reflector_that_hears_or_lists_nothing_any_more_is_a_problem() -> None:
    async with cluster(pool={"size": 1}) as c:
        await c.turn("a")
        term, reflector = c.operator.term, c.operator.term.world.pods
        assert term.problem() == ""
        heard, listed = reflector.last_event, reflector.last_sync
        reflector.last_event = time.monotonic() - 1000
        assert "neither hears" in term.problem()
        reflector.last_event, reflector.last_sync = heard, time.monotonic() - 1000
        assert "listed its objects anew" in term.problem()
        reflector.problem = "the API server is away"
        assert term.problem() == ""
        reflector.problem, reflector.last_sync = "", listed


async def test_a_round_that_fails_is_logged_counted_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hurry(monkeypatch)
    async with cluster(pool={"size": 1}) as c:
        keeper = c.operator.term._keepers["default"]
        look, times = keeper._observer.look, []

        def fail(now: float) -> None:
            times.append(now)
            if len(times) == 1:
                raise RuntimeError("a bug")
            look(now)

        monkeypatch.setattr(keeper._observer, "look", fail)
        await c.turn("a")
        assert "a round failed" in caplog.text
        assert c.operator.unforeseen() == ["round"]
        c.operator.expected.add("round")
