"""The audit log of an endpoint that teams share: who asked, for whom, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from claude_router import audit
from claude_router.sessions import ConversationKey
from router.desk import Desk, team
from router.fakes import Exchange
from router.harness import CHAT, body
from router.test_team_turns import shop

pytestmark = pytest.mark.asyncio

ANSWER = json.dumps({
    "choices": [{"message": {"content": "the answer nobody may see"}}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 10}},
    "x_claude": {"cost_usd": 0.25, "session_id": "s"},
}, separators=(",", ":")).encode()  # fmt: skip


async def answers(exchange: Exchange) -> None:
    await exchange.whole(200, {"content-type": "application/json"}, ANSWER)


async def test_the_audit_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    desk = Desk(team("red", requestsPerMinute=3), team("root", admin=True))
    key, root = desk.key("red"), desk.key("root")
    with audit.writing(str(path)):
        async with shop(desk, answers, audited=True) as s:
            await s.turn(key, "plans", messages=[{"role": "user", "content": "the question nobody may see"}])
            await s.turn(key, "plans", model="gpt-secret")
            await s.turn("wrong-key-of-nobody")
            await s.get(root, "/conversations/plans", x_claude_team="red")
            await s.get(root, "/conversations?team=*")
            await s.get(key, "/conversations/nothing")
            await s.router.client.get("/health")
            await s.turn(key)
            await s.turn(key)
    text = path.read_text()
    first, unknown, nobody, acting, listing, missing, _, limited = map(json.loads, text.splitlines())
    name = ConversationKey("red", "plans").name
    assert first.pop("time").endswith("Z")
    assert first.pop("latency_ms") >= first.pop("first_byte_ms") > 0
    assert first == {
        "team": "red", "for_team": None, "key": key.split("_")[1], "client": "127.0.0.1", "method": "POST",
        "route": CHAT, "conversation": name, "model": "claude-code", "status": 200, "error": None,
        "input_tokens": 12, "output_tokens": 3, "cached_tokens": 10, "cost_usd": 0.25,
    }  # fmt: skip
    assert (unknown["status"], unknown["error"], unknown["model"]) == (404, "model_not_found", None)
    assert (nobody["status"], nobody["error"], nobody["team"], nobody["key"]) == (401, "invalid_api_key", None, None)
    assert (acting["team"], acting["for_team"], acting["conversation"]) == ("root", "red", name)
    assert (acting["method"], acting["route"]) == ("GET", "/conversations/{conversation_id}")
    assert (listing["team"], listing["for_team"]) == ("root", "*")
    assert (missing["status"], missing["error"]) == (404, "conversation_not_found")
    assert (limited["status"], limited["error"]) == (429, "rate_limit_exceeded")
    for secret in ("nobody may see", "gpt-secret", key, root, "wrong-key"):
        assert secret not in text


async def test_an_admins_line_names_whose_things_it_was_about(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    desk = Desk(team("red"), team("root", admin=True))
    root = desk.key("root")
    with audit.writing(str(path)):
        async with shop(desk, answers, audited=True) as s:
            await s.get(root, "/conversations?team=red")
            await s.get(root, "/conversations/plans?team=decoy", x_claude_team="red")
            await s.get(root, "/conversations/mine?team=red")
            await s.get(root, "/conversations?team=decoy")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["for_team"] for line in lines] == ["red", "red", None, None]
    assert [line["status"] for line in lines] == [200, 404, 404, 403]
    assert lines[1]["conversation"] == ConversationKey("red", "plans").name


async def test_a_key_that_is_refused_is_in_it_if_it_is_one(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    desk = Desk(team("red"), team("blue"))
    key, orphan = desk.key("red"), desk.key("deleted")
    with audit.writing(str(path)):
        async with shop(desk, answers, audited=True) as s:
            assert (await s.get(key, "/conversations", x_claude_team="blue")).status_code == 403
            foreign = {"authorization": f"Bearer {key}", "x-claude-team": "blue"}
            assert (await s.router.client.post(CHAT, json=body(), headers=foreign)).status_code == 403
            assert (await s.turn(orphan)).status_code == 403
            assert (await s.turn("wrong-key-of-nobody")).status_code == 401
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["team"] for line in lines] == ["red", "red", "deleted", None]
    assert [line["key"] for line in lines] == [key.split("_")[1], key.split("_")[1], orphan.split("_")[1], None]
    assert {line["for_team"] for line in lines} == {None}
