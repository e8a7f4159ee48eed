"""Messages, files and forks of conversations, on the whole server with the real CLI."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.clients.asked import Asked, calls
from local.harness import Json, Model, chat, content, streamed_text
from local.server import Server, serving
from local.talk import Talk

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
WITH_TOOLS: Json = {"model": "claude-code-client", "tools": TOOLS}
CALLS = calls(("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"}))


@pytest.fixture(scope="module")
def server(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model, tmp_path_factory.mktemp("sessions"), POOL_SIZE="4", WARM_WORKERS="1") as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def done(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def refusal(answer: httpx.Response, status: int) -> str:
    code: str = done(answer, status)["error"]["code"]
    return code


def fork(http: httpx.Client, name: str, **wanted: Any) -> Json:
    found: Json = done(http.post(f"/conversations/{name}/fork", json=wanted), 201)
    return found


def shown(http: httpx.Client, name: str) -> list[Json]:
    found: list[Json] = done(http.get(f"/conversations/{name}/messages"))["data"]
    return found


def said(messages: list[Json]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in messages if m["content"]]


# -- messages ----------------------------------------------------------------------------------------------------------


def test_messages(http: httpx.Client) -> None:
    talk = Talk(http, "messages")
    talk.say("::think hm\n::say reading\n::bash echo found\n::say one")
    talk.say("::say two")
    asked, called, result, one, *rest = shown(http, "messages")
    assert (asked["role"], asked["content"]) == ("user", talk.told[0]["content"])
    (call,) = called["tool_calls"]
    assert (called["role"], called["reasoning_content"], called["content"]) == ("assistant", "hm", "reading")
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])["command"]) == ("Bash", "echo found")
    assert (result["role"], result["content"], result["tool_call_id"]) == ("tool", "found", call["id"])
    assert said([one, *rest]) == [("assistant", "one"), ("user", "::say two"), ("assistant", "two")]
    assert len({m["id"] for m in (asked, called, result, one, *rest)}) == 6


def test_messages_follow_an_edit(http: httpx.Client) -> None:
    talk = Talk(http, "edited-messages")
    talk.say("::say one")
    talk.say("::say two")
    before = shown(http, "edited-messages")
    talk.until(2).say("::say instead")
    after = shown(http, "edited-messages")
    assert said(after) == [*said(before)[:2], ("user", "::say instead"), ("assistant", "instead")]
    assert [m["id"] for m in after[:2]] == [m["id"] for m in before[:2]], "they keep their ids"


def test_messages_of_a_suspended_conversation_and_of_none(http: httpx.Client, server: Server) -> None:
    Talk(http, "asleep").say("::say kept")
    done(http.delete("/conversations/asleep"))
    server.until_phase("asleep", "Suspended")
    assert said(shown(http, "asleep")) == [("user", "::say kept"), ("assistant", "kept")]
    assert refusal(http.get("/conversations/never-was/messages"), 404) == "conversation_not_found"


# -- files -------------------------------------------------------------------------------------------------------------


def test_files(http: httpx.Client) -> None:
    put = done(http.put("/conversations/files/files/a%20folder/given.txt", content=b"from the client\0"), 201)
    assert put == {"object": "file", "path": "a folder/given.txt", "size": 16}
    talk = Talk(http, "files")
    talk.say("::bash tr -d '\\0' < 'a folder/given.txt' > copy.txt; ln -s /etc/passwd link\n::say done")
    assert http.get("/conversations/files/files/copy.txt").content == b"from the client"
    assert done(http.put("/conversations/files/files/copy.txt", content=b"changed"))["size"] == 7
    talk.say("::bash cat copy.txt > again.txt\n::say done")
    got = http.get("/conversations/files/files/again.txt")
    assert (got.content, got.headers["content-type"]) == (b"changed", "application/octet-stream")
    for path in ("nothing.txt", "link"):
        assert http.get(f"/conversations/files/files/{path}").status_code in (400, 403, 404, 409), path
    assert http.get("/conversations/files/files/..%2F..%2Fpool.json").status_code == 400
    listed = done(http.get("/conversations/files/files", params={"list": "true"}))
    assert [(e["path"], e["type"]) for e in listed["data"]] == [
        ("a folder", "folder"), ("a folder/given.txt", "file"), ("again.txt", "file"), ("copy.txt", "file"),
        ("link", "link"),
    ]  # fmt: skip
    page = done(http.get("/conversations/files/files", params={"list": "true", "limit": "2", "after": "again.txt"}))
    assert [e["path"] for e in page["data"]] == ["copy.txt", "link"]
    with tarfile.open(fileobj=io.BytesIO(http.get("/conversations/files/files").content)) as archive:
        names = archive.getnames()
        file = archive.extractfile("a folder/given.txt")
        assert file is not None
        assert file.read() == b"from the client\0"
    assert names == ["a folder", "a folder/given.txt", "again.txt", "copy.txt", "link"]


# -- forks -------------------------------------------------------------------------------------------------------------


def test_a_fork_has_memory_and_files_and_its_source_goes_on_undisturbed(http: httpx.Client, model: Model) -> None:
    source = Talk(http, "source")
    source.say("::write shared.txt before\n::say one")
    before = done(http.get("/conversations/source"))
    asked = Asked(model)
    made = fork(http, "source", id="a copy/of it")
    assert asked.log == [], "a fork costs no tokens"
    assert (made["id"], made["turns"], made["cost_usd"]) == ("a copy/of it", 0, 0)
    assert made["workspace"] != before["workspace"]
    copy = Talk(http, "a copy/of it", list(source.told))
    assert copy.say("::bash cat shared.txt > seen.txt\n::write shared.txt the copy's\n::say two") == "two"
    assert copy.how == "continued", "its ledger knows the history"
    assert copy.recall() == copy.prompts()[:-1]
    assert http.get("/conversations/a%20copy%2Fof%20it/files/seen.txt").text == "before"
    assert http.get("/conversations/source/files/shared.txt").text == "before"
    assert source.say("::say three") == "three"
    assert source.how == "continued"
    assert source.recall() == [source.told[0]["content"], "::say three"]
    assert http.get("/conversations/source/files/seen.txt").status_code == 404
    assert done(http.get("/conversations/source"))["claude_session_id"] == before["claude_session_id"]


def test_a_fork_of_one_that_only_sends_its_last_message(http: httpx.Client, server: Server) -> None:
    with server.client("by-curl") as client:
        content(chat(client, "::say one"))
    name = fork(http, "by-curl")["id"]
    assert name.startswith("conv_")
    with server.client(name) as client:
        assert json.loads(content(chat(client, "::recall"))) == ["::say one"]


@pytest.mark.parametrize("by", ["index", "id"])
def test_a_fork_at_a_message(http: httpx.Client, by: str) -> None:
    source = Talk(http, f"long-{by}")
    for number in ("one", "two", "three"):
        source.say(f"::say {number}\n::bash echo {number} >> log.txt\n::say {number} done")
    messages = shown(http, source.name)
    point = next(i for i, m in enumerate(messages) if m["content"] == "two done")
    new = f"branch-{by}"
    fork(http, source.name, id=new, at=point if by == "index" else messages[point]["id"])
    assert said(shown(http, new)) == said(messages[: point + 1])
    branch = Talk(http, new, source.told[:4])
    assert branch.say("::say other") == "other"
    assert branch.how == "continued"
    assert branch.recall() == branch.prompts()[:-1]
    assert http.get(f"/conversations/{new}/files/log.txt").text == "one\ntwo\nthree\n", "the workspace as it is now"
    assert source.say("::say four") == "four"
    assert source.how == "continued"


def test_a_fork_at_a_message_goes_on_there_for_one_that_sends_only_its_last_message(
    http: httpx.Client, server: Server
) -> None:
    with server.client("short") as client:
        for number in ("one", "two"):
            content(chat(client, f"::say {number}"))
    fork(http, "short", id="shorter", at=1)
    fork(http, "shorter", id="shortest")
    assert said(shown(http, "shortest")) == [("user", "::say one"), ("assistant", "one")]
    with server.client("shortest") as client:
        assert json.loads(content(chat(client, "::recall"))) == ["::say one"]
    with server.client("shorter") as client:
        assert json.loads(content(chat(client, "::recall"))) == ["::say one"]
        done(http.delete("/conversations/shorter"))
        assert json.loads(content(chat(client, "::recall"))) == ["::say one", "::recall"]


def test_a_fork_of_a_fork_at_an_older_message(http: httpx.Client) -> None:
    source = Talk(http, "first-of-three")
    source.say("::say one")
    source.say("::say two")
    fork(http, source.name, id="second-of-three")
    second = Talk(http, "second-of-three", list(source.told))
    second.say("::say three")
    fork(http, second.name, id="third-of-three", at=1)
    third = Talk(http, "third-of-three", source.told[:2])
    assert third.recall() == ["::say one"]
    # And back to a branch that only the one before it has been on: its ledger came along.
    back = Talk(http, "third-of-three", list(second.told))
    assert back.recall() == ["::say one", "::say two", "::say three"]
    assert back.how == "forked"


def test_a_fork_of_a_suspended_conversation(http: httpx.Client, server: Server) -> None:
    source = Talk(http, "slept")
    source.say("::write file.txt kept\n::say one")
    done(http.delete("/conversations/slept"))
    server.until_phase("slept", "Suspended")
    fork(http, "slept", id="woken")
    woken = Talk(http, "woken", list(source.told))
    assert woken.recall() == [source.told[0]["content"]]
    assert woken.how == "continued"
    assert http.get("/conversations/woken/files/file.txt").text == "kept"
    done(http.delete("/conversations/woken"))
    server.until_phase("woken", "Suspended")
    assert woken.recall() == [source.told[0]["content"], "::recall"]


def test_a_fork_waits_for_a_running_turn(http: httpx.Client, server: Server) -> None:
    body = {"stream": True, "messages": [{"role": "user", "content": "::say begun\n::sleep 1.5\n::say ended"}]}
    with server.client("at-work") as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if "begun" in line)
        fork(http, "at-work", id="after-work")
        assert streamed_text("\n".join(lines)).endswith("ended")
    assert [role for role, _ in said(shown(http, "after-work"))] == ["user", "assistant"]


@pytest.mark.parametrize("by_message", [True, False])
def test_a_fork_while_the_clients_tools_are_awaited(http: httpx.Client, by_message: bool) -> None:
    """Both go on from the calls, each with results of its own."""
    source = Talk(http, f"waiting-{by_message}")
    found = source.call(f"{CALLS}\n::results", **WITH_TOOLS)
    at = {"at": 1} if by_message else {}
    new = fork(http, source.name, **at)["id"]
    assert [c["id"] for c in shown(http, new)[-1]["tool_calls"]] == [c["id"] for c in found]
    copy = Talk(http, new, told=list(source.told))
    for talk, word in ((copy, "copy"), (source, "source")):
        assert json.loads(talk.give({c["id"]: word for c in found}, **WITH_TOOLS)) == [word, word]
        assert talk.how == "continued"
    assert copy.recall() == source.recall() == source.prompts()[:1]


def test_calls_outlive_the_suspension_of_their_conversation(model: Model, tmp_path: Path) -> None:
    with serving(model, tmp_path, PARK_TIMEOUT_MS="500", WARM_WORKERS="0") as server, server.client() as http:
        talk = Talk(http, "put-away")
        found = talk.call(f"{CALLS}\n::results", **WITH_TOOLS)
        done(http.delete("/conversations/put-away"))
        server.until_phase("put-away", "Suspended")
        assert json.loads(talk.give({c["id"]: "late" for c in found}, **WITH_TOOLS)) == ["late", "late"]


def test_what_a_fork_refuses(http: httpx.Client, model: Model, tmp_path: Path) -> None:
    talk = Talk(http, "taken")
    talk.say("::say hm\n::bash true\n::say one")

    def refused(status: int, name: str = "taken", **wanted: Any) -> str:
        return refusal(http.post(f"/conversations/{name}/fork", json=wanted), status)

    assert refused(409, id="taken") == "conversation_exists"
    fork(http, "taken", id="taken-too")
    assert refused(409, id="taken-too") == "conversation_exists"
    assert refused(404, name="never-was") == "conversation_not_found"
    assert [refused(400, at=at) for at in (99, -1, "no-uuid")] == ["message_not_found"] * 3
    assert [refused(400, at=at) for at in (0, 1, 2)] == ["invalid_fork_point"] * 3
    assert talk.say("::say two") == "two"
    with serving(model, tmp_path / "sessions", POOL_SIZE="1", WARM_WORKERS="0") as small, small.client() as alone:
        Talk(alone, "only").say("::say one")
        assert refusal(alone.post("/conversations/only/fork"), 409) == "pool_too_small"
