"""Teams and keys from files, as they change."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from claude_crds.apikeys import encode_file, make
from claude_crds.settings import SettingsError
from claude_router.local import teams as module
from claude_router.local.serve import plan
from claude_router.local.teams import TeamFiles, TeamsFileError, read_teams
from claude_router.sessions import ConversationKey
from router.local.harness import PATIENCE, eventually, pool
from router.local.servers import server

YAML = b"""\
- name: red
  spec:
    maxSessions: 5
    models: [claude-code]
    budget: {usd: 12.5, period: day}
- name: blue
"""


def keys(*teams: str) -> tuple[bytes, list[str]]:
    made = [make(team, "", 0.0, None) for team in teams]
    return encode_file({record.id: record for _, record in made}), [text for text, _ in made]


def test_yaml_and_json() -> None:
    spec = {"maxSessions": 5, "models": ["claude-code"], "budget": {"usd": 12.5, "period": "day"}}
    for content in (YAML, json.dumps([{"name": "red", "spec": spec}, {"name": "blue"}]).encode()):
        red, blue = read_teams(content)
        assert (red.name, red.spec.max_sessions, red.spec.models) == ("red", 5, ("claude-code",))
        assert red.spec.budget
        assert (red.spec.budget.usd, red.spec.budget.period) == (12.5, "day")
        assert (blue.name, blue.spec.max_sessions) == ("blue", None)
    assert read_teams(b"[]") == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "list"),
        (b"\x80abc", "neither JSON nor YAML"),
        (b"{: [", "neither JSON nor YAML"),
        ({"name": "red"}, "list of"),
        ([{"spec": {}}], "name"),
        ([{"name": "red", "specs": {}}], "specs"),
        ([{"name": "Red"}], "team's name"),
        ([{"name": "red"}, {"name": "red"}], "same name"),
        ([{"name": "red", "spec": {"maxSession": 5}}], "unknown field 'maxSession'"),
        ([{"name": "red", "spec": {"maxSessions": "5"}}], "int"),
        ([{"name": "red", "spec": {"maxSessions": 0}}], "at least 1"),
        ([{"name": "red", "spec": {"budget": {"usd": 0}}}], "more than 0"),
        ([{"name": "red", "spec": {"budget": {"usd": 1, "period": "year"}}}], "day or month"),
        ([{"name": "red", "spec": {"budget": {"usd": 1, "periods": "day"}}}], "periods"),
    ],
)
def test_what_is_no_list_of_teams(content: bytes | Any, why: str) -> None:
    with pytest.raises(TeamsFileError, match=why):
        read_teams(content if isinstance(content, bytes) else json.dumps(content).encode())


def test_without_pyyaml_json_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("claude_router.local.teams.importlib.import_module", missing)
    assert read_teams(b'[{"name": "red"}]')[0].name == "red"
    with pytest.raises(TeamsFileError, match="PyYAML"):
        read_teams(YAML)


def test_keys_are_in_force_as_long_as_the_file_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.json"
    files = TeamFiles(path, None)
    side = files.side
    files.look()
    assert side.closed, "no file is no open door"
    content, (red, blue) = keys("red", "blue")
    path.write_bytes(content)
    files.look()
    found = side.ring.check(red, 0.0)
    assert found
    assert found.team == "red"
    assert side.teams.policy("red"), "without a list, every team exists"
    path.write_bytes(b"{")
    files.look()
    files.look()
    assert side.ring.check(red, 0.0) is None
    assert len([r for r in caplog.records if "cannot be used" in r.getMessage()]) == 1
    path.write_bytes(content)
    files.look()
    assert side.ring.check(blue, 0.0)
    path.unlink()
    files.look()
    assert side.ring.check(blue, 0.0) is None
    assert side.closed
    assert red not in caplog.text


def test_teams_that_can_be_read_no_more_stay(tmp_path: Path) -> None:
    path = tmp_path / "teams.yaml"
    path.write_bytes(YAML)
    files = TeamFiles(None, path)
    files.check()
    files.look()
    teams = files.side.teams
    assert len(teams) == 2
    for broken in (b"- name: Red\n", None):
        path.write_bytes(broken) if broken else path.unlink()
        files.look()
        assert len(teams) == 2
        with pytest.raises((TeamsFileError, OSError)):
            files.check()
    path.write_bytes(b"- name: green\n")
    files.look()
    assert teams.policy("green")
    assert teams.policy("red") is None


def test_they_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    path = tmp_path / "keys.json"
    content, (red,) = keys("red")
    path.write_bytes(content)
    with TeamFiles(path, None).followed() as side:
        assert side.ring.check(red, 0.0)
        path.write_bytes(keys("red")[0])
        eventually(lambda: side.ring.check(red, 0.0) is None)


async def test_two_teams_conversations_in_one_pool(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        keys_ = [ConversationKey(tenant, name) for tenant, name in (("red", "a"), ("red", "b"), ("blue", "a"))]
        assert p.sessions.count("red", [keys_[0].name]) == 1
        leases = [await p.sessions.acquire(key, deadline=deadline) for key in keys_]
        for lease in leases:
            await p.send(lease, say="hello")
        await p.until(lambda: len(p.store.records) == 3)
        listed = {t: [v.key for v in await p.sessions.list(t, limit=9)] for t in ("red", "blue", "green", None)}
        assert set(listed["red"]) == set(keys_[:2])
        assert listed["blue"] == keys_[2:]
        assert listed["green"] == []
        assert [k.name for k in listed[None]] == sorted(k.name for k in keys_)
        (first,) = await p.sessions.list(None, limit=1)
        assert [v.key for v in await p.sessions.list(None, limit=9, after=first.key.name)] == listed[None][1:]
        assert [p.sessions.count(t) for t in ("red", "blue", "green")] == [2, 1, 0]
        assert p.sessions.count("red", [keys_[0].name, "conv-new"]) == 3
        assert await p.sessions.purge(keys_[2])
        assert await p.sessions.get(keys_[0])
        assert p.sessions.count("blue") == 0


def test_a_whole_server_with_teams(tmp_path: Path) -> None:
    content, (red, blue) = keys("red", "blue")
    key_file, team_file, log = tmp_path / "keys.json", tmp_path / "teams.yaml", tmp_path / "audit.log"
    key_file.write_bytes(content)
    team_file.write_bytes(YAML)
    files = {"API_KEYS_FILE": str(key_file), "TEAMS_FILE": str(team_file), "AUDIT_LOG": str(log)}
    with server(tmp_path, None, **files) as s, httpx.Client(base_url=s.url, timeout=PATIENCE) as client:

        def get(key: str, path: str = "/conversations/same") -> httpx.Response:
            return client.get(path, headers={"Authorization": f"Bearer {key}"})

        asked = {"model": "claude-code", "messages": [{"role": "user", "content": "hello"}]}
        assert client.post("/v1/chat/completions", json=asked).status_code == 401
        volumes = set()
        for key in (red, blue):
            headers = {"Authorization": f"Bearer {key}", "X-Conversation-ID": "same"}
            answer = client.post("/v1/chat/completions", json=asked, headers=headers)
            assert answer.status_code == 200, answer.text
            volumes.add(answer.json()["volume"])
            assert red not in answer.text
        assert len(volumes) == 2, "the same id in two teams is two conversations"
        assert get(red).json()["name"] == ConversationKey("red", "same").name
        key_file.write_bytes(encode_file({}))
        eventually(lambda: get(red).status_code == 401, 2.0)
        s.send(signal.SIGTERM)
        assert s.wait() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["team"] for line in lines[:3]] == [None, "red", "blue"]
    assert red not in log.read_text()


@pytest.mark.parametrize("content", [b"- name: Red\n", None])
def test_a_server_does_not_start_with_teams_that_it_cannot_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "teams.yaml"
    if content:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"TEAMS_FILE="):
        plan({"TEAMS_FILE": str(path), "IS_SANDBOX": "1"})
    assert plan({"API_KEYS_FILE": str(path), "IS_SANDBOX": "1"}).teams
    assert plan({"IS_SANDBOX": "1"}).teams is None
