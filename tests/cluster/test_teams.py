"""Three teams on one endpoint, with several routers: keys, limits, and that none learns anything of another."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from claude_worker.dialect import DIALECTS
from claude_worker.openai.response_ids import response_id
from cluster.stack import RELEASE
from cluster.teaming import Shared, sharing, until
from local.harness import Json, chat, content, streamed_text
from router.test_isolation import FOREIGN, OWN, PATHS, TURNS, UNKNOWN, put, shape

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PROMPT = "::bash echo the plan of blue > a.txt\n::say it plans"
"""What the foreign conversation was told, by payments. Whoever looks for it is research."""
REVOKED_SECONDS = 2.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    with sharing(pool__idleTimeout=0, pool__size=4, pool__queueTimeout="2m", pool__warm=1) as release:
        yield release


# -- keys --------------------------------------------------------------------------------------------------------------


def test_without_a_key_there_is_no_way_in(shared: Shared) -> None:
    for url in shared.routers:
        with shared.stack.client(base_url=url) as client:
            assert client.get("/conversations").status_code == 401
            refused = chat(client, "::say no", headers={"Authorization": "Bearer cca_aaaaaaaa_" + "b" * 43})
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    secrets = shared.stack.cluster.get("secrets", "--selector=claude-code-api.io/component=api-keys")["items"]
    assert secrets
    assert not any(key.split("_", 2)[2] in json.dumps(secrets) for key in shared.keys.values()), "hashes only"


def test_a_revoked_key_is_refused_within_two_seconds_and_a_turn_that_runs_ends_well(shared: Shared) -> None:
    key = shared.new_key("research", "--name", "leaked")
    for url in shared.routers:
        until(lambda url=url: shared.accepted("research", url, key=key))  # type: ignore[misc]
    turn = shared.stream("research", "revoked", "::say begun\n::sleep 6\n::say ended", "begun", key=key)
    assert turn.begun.wait(120)
    shared.command("revoke", key.split("_")[1])
    revoked = time.monotonic()
    for url in shared.routers:
        until(lambda url=url: not shared.accepted("research", url, key=key))  # type: ignore[misc]
    assert time.monotonic() - revoked < REVOKED_SECONDS
    assert all(shared.accepted("research", url) for url in shared.routers), "the team's other key holds"
    answer, text = turn.answer()
    assert answer.status_code == 200
    assert streamed_text(text).split() == ["begun", "ended"]
    assert text.rstrip().endswith("[DONE]")
    listed = shared.command("list", "research").stdout
    assert key.split("_")[1] not in listed


def test_a_key_ends_when_it_was_to(shared: Shared) -> None:
    before = time.time()
    key = shared.new_key("research", "--expires", "6s")
    made = time.time()
    for url in shared.routers:
        until(lambda url=url: shared.accepted("research", url, key=key), 5)  # type: ignore[misc]
    for url in shared.routers:
        until(lambda url=url: not shared.accepted("research", url, key=key), 10)  # type: ignore[misc]
        assert time.time() >= before + 5, "not before"
    assert time.time() < made + 6 + REVOKED_SECONDS
    (row,) = [line for line in shared.command("list", "research").stdout.splitlines() if key.split("_")[1] in line]
    assert row.rstrip().endswith("expired")


# -- limits ------------------------------------------------------------------------------------------------------------


def test_models(shared: Shared) -> None:
    cluster = shared.stack.cluster
    allowed = [f"claude-code{one}{suffix}" for one in ("", "-sonnet") for suffix in ("", "-tools", "-client")]
    for url in shared.routers:
        assert set(shared.models("payments", url)) <= set(allowed)
        assert "claude-code-opus" in shared.models("research", url)
    with shared.client("payments") as client:
        refused = chat(client, "::say no", model="claude-code-opus")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        assert content(chat(client, "::say yes", model="claude-code-sonnet:by-model")) == "yes"
    (session,) = [s for s in shared.stack.watch.sessions.items() if s.spec.conversation_id == "by-model"]
    assert (session.spec.team, session.spec.tenant) == ("payments", "payments")
    patch = json.dumps({"spec": {"team": "research", "tenant": "research"}})
    said = cluster.kubectl("patch", "claudesession", session.name, "--type=merge", f"--patch={patch}", check=False)
    assert "never changes" in said or "immutable" in said or "invalid" in said.lower()


def test_requests_a_minute_at_each_router(shared: Shared) -> None:
    """Nobody asks a worker for this: the id is unknown."""
    with shared.limited("payments", requestsPerMinute=6):
        for url in shared.routers:
            with shared.client("payments", base_url=url) as client:
                began = time.monotonic()
                answers = [client.get("/conversations/none/messages") for _ in range(8)]
                taken = [answer for answer in answers if answer.status_code == 404]
                assert 6 <= len(taken) <= 6 + (time.monotonic() - began) / 10 + 1
                refused = answers[-1]
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
                assert 1 <= int(refused.headers["retry-after"]) <= 10
                assert refused.headers["x-ratelimit-limit-requests"] == "6"
            with shared.client("research", base_url=url) as other:
                assert other.get("/conversations/none/messages").status_code == 404, "another team does not notice"
    with shared.client("payments") as client:
        assert client.get("/conversations/none/messages").status_code == 404


def test_turns_at_a_time(shared: Shared) -> None:
    url = shared.routers[0]
    with shared.limited("payments", maxConcurrentTurns=1):
        turn = shared.stream("payments", "one-turn", "::say begun\n::sleep 5\n::say ended", "begun", base_url=url)
        assert turn.begun.wait(120)
        with shared.client("payments", "another-turn", base_url=url) as client:
            refused = chat(client, "::say too much")
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_turns")
            assert "retry-after" in refused.headers
            assert shared.session("payments", "another-turn") is None, "a refused turn begins nothing"
            assert streamed_text(turn.answer()[1]).split() == ["begun", "ended"]
            until(lambda: chat(client, "::say now").status_code == 200)


def test_conversations_at_a_time(shared: Shared) -> None:
    have = len(shared.get("payments", "/conversations")["data"])
    shared.say("payments", "kept", "::say kept")
    with shared.limited("payments", maxSessions=have + 1):
        for url in shared.routers:
            with shared.client("payments", "one-more", base_url=url) as client:
                refused = chat(client, "::say no")
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_sessions")
                assert client.put("/conversations/one-more/files/a", content=b"x").status_code == 429
                assert client.post("/conversations/kept/fork", json={"id": "one-more"}).status_code == 429
        assert shared.say("payments", "kept", "::say still") == "still"
        with shared.client("payments", "one-more") as client:
            assert client.delete("/conversations/kept?purge=true").status_code == 200
            assert content(chat(client, "::say room")) == "room"


# -- isolation ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(shared: Shared) -> Iterator[Shared]:
    """Payments has a conversation that research would like to see; research has one of its own."""
    shared.say("payments", FOREIGN, PROMPT)
    shared.say("research", OWN, "::say mine")
    until(lambda: _told(shared)[3] == 1)
    before = _told(shared)
    yield shared
    assert _told(shared) == before, "nothing has happened to it"


def _told(shared: Shared) -> tuple[str, Json, str, int]:
    """The foreign conversation as its own team finds it."""
    with shared.client("payments") as client:
        file = client.get(f"/conversations/{FOREIGN}/files/a.txt").text
        messages = client.get(f"/conversations/{FOREIGN}/messages").json()
        session = shared.session("payments", FOREIGN)
        assert session is not None
        return file, messages, session.metadata.uid, client.get(f"/conversations/{FOREIGN}").json()["turns"]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_foreign_id_in_a_path(foreign: Shared, method: str, path: str) -> None:
    with foreign.client("research", base_url=foreign.routers[0]) as client:
        answers = []
        for conversation in (FOREIGN, UNKNOWN):
            given = put(PATHS[method, path], conversation)
            found = client.request(method, put(path, conversation), json=given)
            answers.append(_neutral(shape(found, conversation, "research")))
            assert "plan of blue" not in found.text
            assert "it plans" not in found.text
            if foreign.session("research", conversation):
                client.delete(f"/conversations/{conversation}?purge=true")
    assert answers[0] == answers[1]
    status = answers[0][0]
    if method == "PUT" or path.startswith("/conversations/own"):
        assert status == 201, "one of its own begins under that id"
    elif not path.startswith("/conversations?"):
        assert status == 404


def _neutral(found: tuple[int, dict[str, str], str]) -> tuple[int, dict[str, Any], Any]:
    """Without what differs between any two conversations."""
    status, headers, text = found
    body: Any = text
    if status == 201 and text.startswith("{"):
        body = {k: v for k, v in json.loads(text).items() if k not in ("created", "last_active", "claude_session_id",
                                                                       "workspace")}  # fmt: skip
    if "last_id" in text:
        body = ""  # where a page begins is a matter of the name that follows from the own team and the id
    return status, headers, body


ASKED: dict[str, Json] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "::recall"}]},
    "/v1/responses": {"input": "::recall"},
    "/v1/messages": {"messages": [{"role": "user", "content": "::recall"}], "max_tokens": 1000},
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.path)
def test_a_foreign_id_in_a_turn(foreign: Shared, dialect: Any) -> None:
    """Each goes on with conversations of one's own, of the same story under both ids."""
    stories: dict[str, list[str]] = {FOREIGN: [], UNKNOWN: []}
    with foreign.client("research") as client:
        for conversation, story in stories.items():
            for way, (given, headers) in TURNS.items():
                if way == "body" and dialect.path != "/v1/chat/completions":
                    continue
                sent = {name.replace("_", "-"): value for name, value in put(headers, conversation).items()}
                asked = {"model": "claude-code", **ASKED[dialect.path], **put(given, conversation)}
                found = client.post(dialect.path, json=asked, headers=sent)
                assert found.status_code == 200, found.text
                assert "it plans" not in found.text
                story.append(_said(found.json()))
            mine = foreign.session("research", conversation)
            assert mine is not None
            assert mine.spec.team == "research"
            client.delete(f"/conversations/{conversation}?purge=true")
    assert stories[FOREIGN] == stories[UNKNOWN]
    assert "[]" in stories[FOREIGN][0]


def _said(answer: Json) -> str:
    """The text of an answer in any of the formats."""
    if "choices" in answer:
        return str(answer["choices"][0]["message"]["content"])
    parts = answer.get("content") or [part for item in answer["output"] for part in item.get("content", [])]
    return "".join(part.get("text", "") for part in parts)


def test_a_foreign_response_key_or_history_leads_nowhere(foreign: Shared) -> None:
    history = [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "it plans"},
        {"role": "user", "content": "::recall"},
    ]
    with foreign.client("research") as client:
        for conversation in (FOREIGN, UNKNOWN):
            given = {"model": "claude-code", "input": "x", "previous_response_id": response_id(conversation, "a" * 32)}
            gone = client.post("/v1/responses", json=given)
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "previous_response_not_found")
        body = {"model": "claude-code", "messages": history}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.headers["x-conversation-id"] != FOREIGN
        client.delete(f"/conversations/{answer.headers['x-conversation-id']}?purge=true")
    ids = []
    for team in ("payments", "research"):
        with foreign.client(team) as client:
            sent = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "::say one"}]},
                               headers={"Idempotency-Key": "the-same"})  # fmt: skip
            ids.append(sent.headers["x-conversation-id"])
            client.delete(f"/conversations/{ids[-1]}?purge=true")
    assert ids[0] != ids[1]


def test_the_same_id_in_two_teams_is_two_conversations(shared: Shared) -> None:
    for team in ("payments", "research"):
        shared.say(team, "same", f"::write who.txt {team}\n::say {team}")
    for team in ("payments", "research"):
        assert json.loads(shared.say(team, "same", "::recall")) == [f"::write who.txt {team}\n::say {team}"]
    with shared.client("research") as client:
        assert client.delete("/conversations/same?purge=true").status_code == 200
        assert client.get("/conversations/same").status_code == 404
    with shared.client("payments") as client:
        assert client.get("/conversations/same/files/who.txt").text == "payments"


def test_lists_and_admins(foreign: Shared) -> None:
    def ids(team: str, query: str = "") -> set[str]:
        return {found["id"] for found in foreign.get(team, f"/conversations{query}")["data"]}

    assert FOREIGN in ids("payments")
    assert OWN in ids("research")
    assert FOREIGN not in ids("research")
    assert {FOREIGN, OWN} <= ids("platform", "?team=*")
    assert FOREIGN in ids("platform", "?team=payments")
    refusals: set[tuple[int, str]] = set()
    for query, sent in (("?team=payments", ""), ("?team=unheard-of", ""), ("?team=*", ""), ("", "payments")):
        with foreign.client("research") as client:
            headers: dict[str, str] = {"X-Claude-Team": sent} if sent else {}
            found: httpx.Response = client.get(f"/conversations{query}", headers=headers)
            refusals.add((found.status_code, found.text))
    assert len(refusals) == 1, "the same whether there is such a team or not"
    assert next(iter(refusals))[0] == 403
    with foreign.client("platform") as admin:
        assert admin.get(f"/conversations/{FOREIGN}").status_code == 404, "a team of its own, too"
        seen = admin.get(f"/conversations/{FOREIGN}", headers={"X-Claude-Team": "payments"})
        assert seen.json()["team"] == "payments"


def test_teams_are_in_logs_and_metrics(foreign: Shared) -> None:
    cluster = foreign.stack.cluster
    pods = [pod["metadata"]["name"] for pod in cluster.pods("router")]
    lines = [line for pod in pods for line in cluster.kubectl("logs", pod).splitlines()]
    assert any('"team":"payments"' in line.replace(" ", "") for line in lines)
    assert not any(key.split("_", 2)[2] in line for key in foreign.keys.values() for line in lines)
    shown = cluster.kubectl("get", "claudeteams")
    assert {row.split()[0] for row in shown.splitlines()[1:]} == {"payments", "research", "platform"}
    assert f"{RELEASE}-router" in " ".join(pods)
