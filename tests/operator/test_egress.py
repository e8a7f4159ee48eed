"""What workers are told about their pool's proxy, and what the proxy is told about its pool."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from claude_crds.access import Access
from claude_crds.api import Api
from claude_crds.cache import Cache
from claude_crds.resources import POOLS
from claude_crds.settings import SettingsError
from claude_crds.views import ClaudePool
from claude_operator import build
from claude_operator.egress import environment, lines, lists, model
from claude_operator.egress_writer import EgressWriter
from claude_operator.settings import OperatorSettings, load_settings
from claude_operator.world import World

PROXY = "http://egress.ns.svc:3128"
GATEWAY = "http://gateway.ns.svc:8090"
REQUIRED = {"WORKER_IMAGE": "i", "WORKER_KEY_FILE": "f"}
SPELLINGS = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")


def pool(name: str = "default", *, base: str = "", allow: list[str] | None = None, **meta: Any) -> ClaudePool:
    spec = {"anthropic": {"baseURL": base} if base else {}, "egress": {"allow": allow or []}}
    metadata = {"name": name, "uid": "u", "resourceVersion": "1", **meta}
    return POOLS.decoder.decode(json.dumps({"metadata": metadata, "spec": spec}))


def settings(**more: str) -> OperatorSettings:
    proxies = {"EGRESS_PROXIES": f"default={PROXY}", "EGRESS_CONFIG_MAP": "egress"}
    return load_settings({**REQUIRED, **proxies, **more})


def test_a_worker_goes_out_by_its_pool_s_proxy_but_not_to_the_model() -> None:
    found = environment(pool(), settings(GATEWAY_URL=GATEWAY, EGRESS_NO_PROXY="packages.ns.svc"))
    assert {found[name] for name in SPELLINGS} == {PROXY}
    assert found["NO_PROXY"] == found["no_proxy"] == "localhost,127.0.0.1,::1,gateway.ns.svc,packages.ns.svc"


def test_a_pool_without_a_proxy_is_left_alone() -> None:
    assert environment(pool("other"), settings()) == {}
    assert environment(pool(), load_settings(REQUIRED)) == {}


@pytest.mark.parametrize("proxies", [True, False])
def test_the_worker_s_container_has_it(proxies: bool) -> None:
    given_settings = settings(GATEWAY_URL=GATEWAY) if proxies else load_settings({**REQUIRED, "GATEWAY_URL": GATEWAY})
    (container,) = build.template(pool(), given_settings)["spec"]["containers"]
    found = {e["name"]: e.get("value") for e in container["env"]}
    assert [found.get(name) for name in SPELLINGS] == [PROXY if proxies else None] * 4


def test_a_list_that_changes_replaces_no_worker() -> None:
    before, after = (build.template(pool(allow=a), settings()) for a in (["a.org"], ["b.org"]))
    assert build.template_hash(before) == build.template_hash(after)


@pytest.mark.parametrize(
    ("base", "gateway", "expected"),
    [
        ("", GATEWAY, ("gateway.ns.svc", True)),
        ("https://api.example.com", GATEWAY, ("gateway.ns.svc", True)),
        ("", "", ("api.anthropic.com", False)),
        ("https://models.example.com/v1", "", ("models.example.com", False)),
        ("http://model:8000", "", ("model", True)),
        ("https://model.ns.svc:8443", "", ("model.ns.svc", True)),
        ("https://model.example.com:99999", "", ("model.example.com", True)),
    ],
)
def test_a_public_model_without_a_gateway_is_reached_through_the_proxy(
    base: str, gateway: str, expected: tuple[str, bool]
) -> None:
    given_pool, given_settings = pool(base=base, allow=["packages.example.org"]), settings(GATEWAY_URL=gateway)
    host, direct = model(given_pool, given_settings)
    assert (host, direct) == expected
    assert (host in environment(given_pool, given_settings)["NO_PROXY"].split(",")) is direct
    listed = lists([given_pool], given_settings)["default"].split()
    assert listed == sorted(["packages.example.org", *([] if direct else [host])])


def test_each_pool_with_a_proxy_has_its_own_list_and_one_that_is_gone_an_empty_one() -> None:
    both = settings(EGRESS_PROXIES=f"default={PROXY},batch={PROXY},gone={PROXY},leaving={PROXY}", GATEWAY_URL=GATEWAY)
    leaving = pool("leaving", allow=["a.org"], deletionTimestamp="2030-01-01T00:00:00Z")
    pools = [
        pool(allow=["b.org", "a.org"]),
        pool("batch", allow=["*.c.org"]),
        pool("stranger", allow=["d.org"]),
        leaving,
    ]
    assert lists(pools, both) == {"default": "a.org\nb.org\n", "batch": ".c.org\n", "gone": "", "leaving": ""}


LABELS = st.sampled_from(["a", "b", "xa", "org"])
HOSTS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
ENTRIES = st.builds(lambda wide, host: "*." * wide + host, st.booleans(), HOSTS)


def lets(entries: list[str], host: str) -> bool:
    """What the definition says of `allow`."""
    return any(host == e.removeprefix("*.") or (e.startswith("*.") and host.endswith(e[1:])) for e in entries)


def squid_lets(listed: str, host: str) -> bool:
    """What Squid's `dstdomain` does with its lines."""
    return any(host == e.removeprefix(".") or (e.startswith(".") and host.endswith(e)) for e in listed.split())


@given(st.lists(ENTRIES, max_size=6), HOSTS)
def test_the_list_says_what_the_pool_says_and_nothing_twice(allow: list[str], host: str) -> None:
    listed = lines(allow)
    assert squid_lets(listed, host) == lets(allow, host)
    rows = listed.split()
    for row in rows:
        others = "\n".join(r for r in rows if r != row)
        assert not squid_lets(others, row.removeprefix("."))
    assert lines(reversed(allow)) == listed


@pytest.mark.parametrize(
    "wrong",
    [{"EGRESS_PROXIES": f"a={PROXY}"}, {"EGRESS_PROXIES": "a=https://p:1", "EGRESS_CONFIG_MAP": "c"}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="EGRESS_"):
        load_settings({**REQUIRED, **wrong})


# --- the writer ---


class Server:
    """An API server that knows patches of ConfigMaps, and answers each with the next of `statuses` (then 200)."""

    def __init__(self) -> None:
        self.statuses: deque[int] = deque()
        self.written: list[tuple[str, Any]] = []
        self.bell = asyncio.Event()

    async def patch(self, request: web.Request) -> web.Response:
        self.written.append((request.path, await request.json()))
        self.bell.set()
        status = self.statuses.popleft() if self.statuses else 200
        return web.json_response({"kind": "Status", "code": status, "message": "m"}, status=status)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.written) < count:
                self.bell.clear()
                await self.bell.wait()


@asynccontextmanager
async def writing(server: Server, resync: float = 300.0) -> AsyncIterator[Cache[ClaudePool]]:
    app = web.Application()
    app.router.add_patch("/api/v1/namespaces/ns/configmaps/{name}", server.patch)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with Api(lambda: Access(address)) as api:
            pools: Cache[ClaudePool] = Cache({})
            world = cast(World, SimpleNamespace(pools=pools))
            given_settings = replace(settings(GATEWAY_URL=GATEWAY), resync=resync)
            task = asyncio.create_task(EgressWriter(api, "ns", world, lambda: None, given_settings).run())
            yield pools
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        await runner.cleanup()


async def test_the_writer_says_what_is_at_once_and_at_each_change() -> None:
    server = Server()
    async with writing(server) as pools:
        await server.until(1)
        assert server.written[0] == ("/api/v1/namespaces/ns/configmaps/egress", {"data": {"default": ""}})
        pools.apply(pool(allow=["a.org"]))
        await server.until(2)
        assert server.written[1][1] == {"data": {"default": "a.org\n"}}
        pools.apply(pool(allow=["a.org"], resourceVersion="2", annotations={"a": "b"}))
        pools.apply(pool(allow=["b.org"], resourceVersion="3"))
        await server.until(3)
    assert [body["data"]["default"] for _, body in server.written] == ["", "a.org\n", "b.org\n"]


async def test_the_writer_goes_on_after_an_error_and_undoes_what_others_wrote() -> None:
    server = Server()
    server.statuses.extend([503, 404])
    async with writing(server, resync=0.05):
        await server.until(4)
    assert {json.dumps(body) for _, body in server.written} == {'{"data": {"default": ""}}'}
