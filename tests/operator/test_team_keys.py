"""Keys that end: what a team's conditions say of them, and what was told of before."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from aiohttp import web

from claude_crds.api import Api
from claude_crds.apikeys import EXPIRING_SECONDS, KeyRecord, encode, make, shard_name, shard_of
from claude_crds.resources import SECRETS, TEAMS
from claude_crds.views import ClaudeTeam
from claude_operator.team_keys import MOST_NAMED, TeamKeys, aspects, news
from claude_operator.teams import conditions
from crds.fake_api import FakeApi, status

NOW = 1_900_000_000.0
DAY = 86_400.0


def key(key_id: str, ends_in: float | None, name: str = "") -> KeyRecord:
    return KeyRecord(key_id, "t", name, "0" * 64, NOW - DAY, None if ends_in is None else NOW + ends_in)


def team(*made: dict[str, Any]) -> ClaudeTeam:
    body = {"metadata": {"name": "t", "uid": "u"}, "spec": {}, "status": {"conditions": list(made)}}
    return TEAMS.decoder.decode(json.dumps(body))


KEYS = [
    key("never000", None), key("later000", EXPIRING_SECONDS + 1), key("soon0000", DAY, "ci"), key("over0000", 0.0),
]  # fmt: skip


def test_a_key_expires_soon_or_has_expired() -> None:
    soon, over = aspects(KEYS, NOW)
    assert (soon.type, soon.holds, over.type, over.holds) == ("KeyExpiring", True, "KeyExpired", True)
    assert "soon0000 (ci) at 2030-03-18T" in soon.message
    assert "over0000" in over.message
    assert not any(other in soon.message + over.message for other in ("never000", "later000"))
    assert [found.holds for found in aspects(KEYS[:2], NOW)] == [False, False]
    assert [found.holds for found in aspects([], NOW)] == [False, False]


def test_each_is_told_of_once_whoever_leads() -> None:
    told = news(team(), KEYS, NOW)
    assert [(t.reason, t.message[:23]) for t in told] == [
        ("KeyExpired", "The API key over0000 ha"), ("KeyExpiring", "The API key soon0000 (c"),
    ]  # fmt: skip
    written = team(*conditions(team(), aspects(KEYS, NOW), NOW))
    assert news(written, KEYS, NOW) == []
    # A day later one that was near its end is over, and another comes near.
    assert [t.reason for t in news(written, KEYS, NOW + DAY)] == ["KeyExpired", "KeyExpiring"]
    assert [t.message[12:20] for t in news(written, [*KEYS, key("more0000", 5.0)], NOW)] == ["more0000"]


def test_a_condition_keeps_its_time_and_names_a_few_only() -> None:
    many = [key(f"{n:08}", 1.0 + n) for n in range(MOST_NAMED + 5)]
    soon, _ = aspects(many, NOW)
    assert "and 5 more" in soon.message
    assert len(news(team(), many, NOW)) == MOST_NAMED
    assert news(team(*conditions(team(), aspects(many, NOW), NOW)), many, NOW) == [], "the others are not told of again"
    first = conditions(team(), aspects(KEYS, NOW), NOW)
    assert conditions(team(*first), aspects(KEYS, NOW), NOW + 60) == []
    more = conditions(team(*first), aspects([*KEYS, key("more0000", 5.0)], NOW), NOW + 60)
    assert [c["lastTransitionTime"] for c in more] == [c["lastTransitionTime"] for c in first]
    none = conditions(team(*first), aspects([], NOW), NOW + 60)
    assert none[0]["lastTransitionTime"] != first[0]["lastTransitionTime"]


@pytest.mark.asyncio
async def test_only_the_eight_secrets_are_read_and_a_failure_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text, record = make("t", "ci", NOW, NOW + DAY)
    name = shard_name(shard_of(record.id))
    async with FakeApi() as fake, Api(fake.loader) as api:
        keys = TeamKeys(api, "ns", lambda: True, lambda: None)
        assert keys.of("t") is None
        fake.put(SECRETS.path("ns"), {
            "metadata": {"name": name}, "data": {record.id: _base64(encode(record)), "odd": _base64(b"{}")},
        })  # fmt: skip
        await keys.look()
        assert [r.id for r in keys.of("t") or ()] == [record.id]
        assert list(keys.of("other") or ()) == []
        assert sorted(r.path for r in fake.requests) == sorted(SECRETS.path("ns", shard_name(n)) for n in range(8))
        fake.answers = [lambda _: web.json_response(status(503, "ServiceUnavailable"), status=503)] * 8
        await keys.look()
        assert [r.id for r in keys.of("t") or ()] == [record.id]
        fake.answers = [lambda _: web.json_response(status(403, "Forbidden"), status=403)] * 8
        await keys.look()
        assert keys.of("t") is None
    assert text not in caplog.text
    assert record.sha256 not in caplog.text


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
