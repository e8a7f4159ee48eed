"""Pods' tokens, verified against the API server's keys."""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from claude_router.gateway.verify import REFRESH_SECONDS, RETRY_SECONDS, PodIdentity, TokenVerifier
from claude_worker.openai.errors import ApiError
from router.gateway.issuer import ISSUER, Issuer

pytestmark = pytest.mark.asyncio


@dataclass
class World:
    """An issuer, the verifier, and the clocks of both."""

    issuer: Issuer
    verifier: TokenVerifier
    clock: list[float]

    async def refusal(self, token: str) -> str:
        with pytest.raises(ApiError) as refused:
            await self.verifier.verify(token)
        assert token not in refused.value.message
        return f"{refused.value.status} {refused.value.message}"


@pytest.fixture(params=[False, True], ids=["RS256", "ES256"])
def world(request: pytest.FixtureRequest) -> World:
    issuer, clock = Issuer(), [0.0]
    issuer.add("k1", elliptic=request.param)
    verifier = TokenVerifier(issuer.fetch, clock=lambda: issuer.now, monotonic=lambda: clock[0])
    return World(issuer, verifier, clock)


async def test_a_token_names_its_pod(world: World) -> None:
    token = world.issuer.token()
    for _ in range(3):
        identity = await world.verifier.verify(token)
    assert identity == PodIdentity("ns", "pod-1", "uid-1", world.issuer.now + 600)
    assert world.issuer.fetched == 1


@pytest.mark.parametrize(("claims", "why"), [
    ({"aud": ["other"]}, "somebody else"), ({"aud": None}, "somebody else"), ({"iss": "https://evil"}, "somebody else"),
    ({"iss": None}, "no token of a pod"), ({"exp": None}, "no token of a pod"), ({"exp": "soon"}, "no pod"),
    ({"kubernetes.io": None}, "no pod"), ({"kubernetes.io": {"namespace": "ns"}}, "no pod"),
    ({"kubernetes.io": {"namespace": "ns", "pod": {"name": "p"}}}, "no pod"),
    ({"kubernetes.io": {"namespace": "ns", "pod": {"name": 1, "uid": "u"}}}, "no pod"),
])  # fmt: skip
async def test_a_token_of_another_kind_is_refused(world: World, claims: dict[str, Any], why: str) -> None:
    refusal = await world.refusal(world.issuer.token(**claims))
    assert refusal.startswith("401 ")
    assert why in refusal


async def test_time_is_judged_at_every_use(world: World) -> None:
    token = world.issuer.token(exp=world.issuer.now + 60)
    await world.verifier.verify(token)
    world.issuer.now += 71
    assert "expired" in await world.refusal(token)
    assert "expired" in await world.refusal(token)
    assert "not valid yet" in await world.refusal(world.issuer.token(nbf=world.issuer.now + 60))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "..", "é", "e30.e30.", "e30.e30.e30"])
async def test_what_is_no_token_is_refused_without_asking_anybody(world: World, token: str) -> None:
    with pytest.raises(ApiError) as refused:
        await world.verifier.verify(token)
    assert refused.value.status == 401
    assert world.issuer.fetched == 0


def _text(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


async def test_forgeries(world: World) -> None:
    good = world.issuer.token()
    head, claims, signature = good.split(".")
    other = Issuer()
    other.add("k1")
    assert "signature" in await world.refusal(other.token())
    assert (await world.refusal(f"{head}.{_text({'exp': 9e9})}.{signature}")).startswith("401")
    unsigned = f"{_text({'alg': 'none', 'kid': 'k1'})}.{claims}."
    assert (await world.refusal(unsigned)).startswith("401")
    public = (
        world.issuer.keys["k1"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    confused = f"{_text({'alg': 'HS256', 'kid': 'k1'})}.{claims}"
    mac = hmac.digest(public, confused.encode(), "sha256")
    assert "signature" in await world.refusal(f"{confused}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")
    assert await world.verifier.verify(good)


async def test_an_unknown_key_is_fetched_but_not_at_everybodys_word(world: World) -> None:
    await world.verifier.verify(world.issuer.token())
    world.issuer.add("k2")
    world.clock[0] += RETRY_SECONDS
    await world.verifier.verify(world.issuer.token("k2"))
    assert world.issuer.fetched == 2
    evil = Issuer()
    for number in range(20):
        evil.add(f"e{number}", elliptic=True)
        assert "key is not known" in await world.refusal(evil.token(f"e{number}"))
    assert world.issuer.fetched == 2


async def test_a_withdrawn_key_is_not_believed_for_ever(world: World) -> None:
    token = world.issuer.token()
    await world.verifier.verify(token)
    world.issuer.published.clear()
    world.clock[0] += REFRESH_SECONDS
    await world.verifier.verify(token)  # asks in the background
    assert world.verifier._refresh is not None
    await world.verifier._refresh
    assert "key is not known" in await world.refusal(token)


async def test_while_the_api_server_is_away_the_last_keys_hold(world: World) -> None:
    world.issuer.away = True
    assert (await world.refusal(world.issuer.token())).startswith("503")
    world.issuer.away = False
    assert (await world.refusal(world.issuer.token())).startswith("503")  # a moment ago it was away
    world.clock[0] += RETRY_SECONDS
    token = world.issuer.token()
    await world.verifier.verify(token)
    world.issuer.away = True
    world.clock[0] += REFRESH_SECONDS
    await world.verifier.verify(token)
    assert world.verifier._refresh is not None
    await world.verifier._refresh
    await world.verifier.verify(world.issuer.token(pod="pod-2"))


async def test_the_issuer_can_be_set() -> None:
    issuer = Issuer()
    issuer.add("k1")
    verifier = TokenVerifier(issuer.fetch, issuer="https://mine", clock=lambda: issuer.now)
    with pytest.raises(ApiError):
        await verifier.verify(issuer.token())
    assert (await verifier.verify(issuer.token(iss="https://mine"))).name == "pod-1"
    assert ISSUER != "https://mine"
