"""The real CLI behind the gateway: it has a credential of its own, and no key of the model's anywhere."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from local.gateways import REAL_KEY, TOKEN, Gateway, workers
from local.harness import Running, chat, content, eventually, find_cli, streamed_text
from local.ledger_model import LedgerModel, ledger_model


@pytest.fixture
def model() -> Iterator[LedgerModel]:
    with ledger_model() as running:
        yield running


@pytest.fixture
def gateway(model: LedgerModel, tmp_path: Path) -> Iterator[Gateway]:
    folder = tmp_path / "gateway"
    folder.mkdir()
    gateway = Gateway(folder, model.url)
    gateway.begin()
    try:
        yield gateway
    finally:
        gateway.end(signal.SIGKILL)


@pytest.fixture
def launch(gateway: Gateway, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with workers(gateway, tmp_path) as begin:
        yield begin


def test_turns_with_tools_pass_and_are_metered_as_the_model_counts(
    model: LedgerModel, gateway: Gateway, launch: Callable[..., Running]
) -> None:
    worker = launch()
    with worker.client() as client:
        assert content(chat(client, "::think hm\n::say hello big world")) == "hello big world"
        found = content(chat(client, "::bash printenv; cat /proc/self/environ\n::results"))
        assert "ANTHROPIC_BASE_URL" in found
        assert REAL_KEY not in found
        assert "123" in content(chat(client, "::chunks 300 20\n::say 123"))
    assert {told.headers["x-api-key"] for told in model.told} == {REAL_KEY}
    assert not any(TOKEN in str(told.headers) for told in model.told)
    eventually(lambda: gateway.sums().running == 0)
    sums = gateway.sums()
    assert (sums.requests, sums.unpriced) == (len(model.told), 0)
    assert len(model.told) >= 4
    assert gateway.counts() == model.sums()
    assert sums.cost_usd > 0
    assert REAL_KEY not in "".join(gateway.lines + worker.errors)
    cli = find_cli(worker.process.pid)
    for file in ("environ", "cmdline"):
        assert REAL_KEY.encode() not in Path(f"/proc/{cli}/{file}").read_bytes()


def test_a_gateway_killed_in_mid_stream_and_restarted_costs_a_retry_and_no_turn(
    model: LedgerModel, gateway: Gateway, launch: Callable[..., Running]
) -> None:
    worker = launch()
    with worker.client() as client:
        assert content(chat(client, "::say first")) == "first"
        body = {"messages": [{"role": "user", "content": "::say one\n::sleep 1.5\n::say two"}], "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            seen = next(line for line in lines if "one" in line)
            gateway.end(signal.SIGKILL)
            gateway.begin()
            text = streamed_text("\n".join([seen, *lines]))
        assert text.endswith("two")
        assert content(chat(client, "::recall")).count("::say one") == 1
    eventually(lambda: gateway.sums().running == 0)
    sums = gateway.sums()
    assert sums.unpriced == 1, "the request that was in flight, and visible as such"
    assert sums.requests == len(model.told)
    assert gateway.counts() == model.sums()
    assert any("1 requests were running" in line for line in gateway.lines)


def test_after_a_random_run_with_kills_every_request_is_counted_as_the_model_counts_it_or_marked_as_lost(
    model: LedgerModel, gateway: Gateway, launch: Callable[..., Running]
) -> None:
    draw = random.Random(6)
    prompts = ["::say {n}", "::bash echo {n}\n::say {n}", "::sleep 0.3\n::say {n}", "::chunks 50 30\n::say {n}"]
    kills = 0
    worker = launch()
    with worker.client() as client:
        for number in range(10):
            asked = threading.Thread(target=_ask, args=(client, draw.choice(prompts).format(n=number)))
            asked.start()
            if draw.random() < 0.4:
                asked.join(draw.random() * 0.3)
                gateway.end(signal.SIGKILL)
                gateway.begin()
                kills += 1
            asked.join()
    assert kills >= 2
    eventually(lambda: gateway.sums().running == 0)
    rows, lost = gateway.rows()
    told = {told.message: told.counts for told in model.told if told.whole}
    assert {message: counts for message, counts in rows.items() if told.get(message) != counts} == {}
    assert lost <= kills, "a kill costs the request in flight"
    assert len(told) - len(rows) <= kills


def _ask(client: httpx.Client, prompt: str) -> None:
    answer = chat(client, prompt)
    assert answer.status_code in (200, 502), answer.text
