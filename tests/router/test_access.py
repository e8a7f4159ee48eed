"""Who is let in, and for which team."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from claude_crds.apikeys import KeyRing, make, shard_of
from claude_router.access import OPEN, Access, Caller, Grant, TeamSide
from claude_router.auth import ApiKeys
from claude_router.teams import Teams
from claude_worker.openai.errors import ApiError
from router.desk import NOW, Desk, team


class Door(Desk):
    """With a way through it."""

    def enter(self, key: str | None, **headers: str) -> Grant:
        sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        return self.access.enter(sent | ({b"authorization": b"Bearer " + key.encode()} if key else {}))

    def refused(self, key: str | None, **headers: str) -> tuple[int, str | None]:
        with pytest.raises(ApiError) as refusal:
            self.enter(key, **headers)
        return refusal.value.status, refusal.value.code


def test_without_a_team_side_it_is_as_ever() -> None:
    for access in (Access(ApiKeys()), Access(ApiKeys(), TeamSide(Teams()))):
        assert access.open
        assert access.enter({}) is OPEN
        assert access.enter({b"x-claude-team": b"red", b"authorization": b"Bearer whatever"}) is OPEN
        with pytest.raises(ApiError) as refused:
            access.enter({b"origin": b"http://evil.example"})
        assert refused.value.code == "origin_not_allowed"
    closed = Access(ApiKeys(("key-number-one",)))
    assert not closed.open
    assert closed.enter({b"x-api-key": b"key-number-one"}) is OPEN
    with pytest.raises(ApiError):
        closed.enter({})


def test_a_teams_key_and_the_first_team_closes_the_door() -> None:
    desk = Door()
    assert desk.enter(None) is OPEN
    desk.side.teams.replace([team("red", requestsPerMinute=3)])
    assert not desk.access.open
    assert desk.refused(None) == (401, "missing_api_key")
    assert desk.refused("cca_aaaaaaaa_" + "b" * 43) == (401, "invalid_api_key")
    key = desk.key("red")
    grant = desk.enter(key)
    assert grant.caller == Caller("red", key.split("_")[1])
    assert (grant.tenant, grant.shown, grant.policy.requests_per_minute) == ("red", "red", 3)
    assert desk.enter(None, x_api_key=key) == grant


def test_a_key_alone_closes_the_door_too_and_needs_its_team() -> None:
    desk = Door()
    key = desk.key("red")
    assert desk.refused(None) == (401, "missing_api_key")
    assert desk.refused(key) == (403, "team_not_found")
    desk.side.teams.replace([team("red")])
    assert desk.enter(key).tenant == "red"


def test_where_it_is_required_no_key_is_no_open_door() -> None:
    assert Door(required=True).refused(None) == (401, "missing_api_key")


def test_where_nobody_lists_teams_a_keys_team_is_enough() -> None:
    desk = Door(listed=False, required=True)
    assert desk.enter(desk.key("red")).policy.max_sessions is None


def test_revoked_and_expired() -> None:
    desk = Door()
    desk.side.teams.replace([team("red")])
    lasting, ending = desk.key("red"), desk.key("red", expires=NOW + 10)
    assert desk.enter(ending)
    desk.now = NOW + 10
    assert desk.refused(ending) == (401, "invalid_api_key")
    assert desk.enter(lasting)
    desk.revoke(lasting)
    assert desk.refused(lasting) == (401, "invalid_api_key")


def test_the_endpoints_own_keys_are_nobodys_and_stay_valid() -> None:
    desk = Door(static=("key-number-one",))
    assert desk.enter("key-number-one") is OPEN
    desk.side.teams.replace([team("red")])
    grant = desk.enter("key-number-one")
    assert (grant.caller, grant.tenant, grant.admin) == (Caller("default"), "default", False)
    assert desk.refused("key-number-two") == (401, "invalid_api_key")
    assert desk.refused("key-number-one", x_claude_team="red") == (403, "team_not_allowed")
    desk.side.teams.replace([team("default", admin=True, maxSessions=7)])
    grant = desk.enter("key-number-one")
    assert (grant.admin, grant.policy.max_sessions) == (False, 7)


def test_only_an_admin_acts_for_another_team() -> None:
    desk = Door()
    desk.side.teams.replace([team("red", maxSessions=5), team("blue"), team("root", admin=True)])
    red, root = desk.key("red"), desk.key("root")
    assert desk.enter(red, x_claude_team="red").tenant == "red"
    assert desk.enter(red, x_claude_team="").tenant == "red"
    for other in ("blue", "unheard-of", "root", "default"):
        assert desk.refused(red, x_claude_team=other) == (403, "team_not_allowed")
    acting = desk.enter(root, x_claude_team="red")
    assert (acting.caller.team, acting.admin, acting.tenant, acting.policy.max_sessions) == ("root", True, "red", 5)
    assert desk.enter(root, x_claude_team="default").tenant == "default"
    assert desk.refused(root, x_claude_team="unheard-of") == (403, "team_not_found")


def test_before_teams_are_read_nobody_knows_who_may() -> None:
    there: Callable[[], bool] = lambda: False  # noqa: E731
    desk = Door(static=("key-number-one",), ready=there)
    assert desk.refused("key-number-one") == (503, "starting")


def test_finding_one_of_10000_keys_takes_as_long_as_finding_one_of_one() -> None:
    def cost(keys: int) -> float:
        ring, records = KeyRing(), {}
        for _ in range(keys):
            text, record = make("red", "", NOW, None)
            records[record.id] = record
        ring.replace(records)
        access = Access(ApiKeys(), side := TeamSide(Teams(), ring))
        side.teams.replace([team("red")])
        headers = {b"authorization": b"Bearer " + text.encode()}
        assert len(ring) == keys
        assert 0 <= shard_of(record.id) < 8
        best = float("inf")
        for _ in range(30):
            began = time.perf_counter()
            for _ in range(100):
                access.enter(headers)
            best = min(best, time.perf_counter() - began)
        return best / 100

    one, many = cost(1), cost(10_000)
    assert many < 3 * one
    assert many < 100e-6
