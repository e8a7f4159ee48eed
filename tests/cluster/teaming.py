"""Teams on the cluster: a release that has three, their keys by the real command, and requests with them."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from claude_crds.names import session_name
from claude_crds.views import ClaudeSession, ClaudeTeam
from cluster.chart import ROOT
from cluster.stack import Json, Stack, installed
from cluster.watching import PATIENCE
from local.harness import chat, content

COMMAND = ROOT / ".venv" / "bin" / "claude-code-api"
TEAMS: Json = {
    "payments": {
        "models": ["claude-code", "claude-code-sonnet"],
        "maxLive": 2,
        "maxSessions": 40,
        "maxConcurrentTurns": 4,
        "requestsPerMinute": 600,
        "budget": {"usd": 1000, "period": "day"},
    },
    "research": {},
    "platform": {"admin": True},
}
ROUTER_PORT = 3000
FRUGAL: Json = {"spec": {"containers": [{"name": "worker", "resources": {"requests": {"cpu": "10m"}}}]}}
"""Other tests may have the node full of what pods ask for, though not of what they use."""


@dataclass
class Asking:
    """A streamed turn in a thread of its own. `begun` is set with its first words, or at its end."""

    begun: threading.Event
    result: Future[tuple[httpx.Response, str]]

    def answer(self) -> tuple[httpx.Response, str]:
        """Status and headers, and the whole text."""
        return self.result.result(PATIENCE * 2)


@dataclass
class Shared:
    """A release, and a key for each of its teams."""

    stack: Stack
    routers: list[str]
    """The address of each router, however the Service would choose."""
    keys: dict[str, str] = field(default_factory=dict, repr=False)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`claude-code-api keys …` in the release's namespace."""
        cluster = self.stack.cluster
        env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
        line = [str(COMMAND), "keys", *arguments, f"--namespace={cluster.namespace}"]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=True, env=env)

    def new_key(self, team: str, *more: str) -> str:
        return self.command("create", team, *more).stdout.strip()

    def client(self, team: str, conversation: str = "", *, key: str = "", **options: Any) -> httpx.Client:
        """With the team's key, or with another one. One client has one connection at a time: so it is one router's."""
        client = self.stack.client(conversation, **options)
        client.headers["Authorization"] = f"Bearer {key or self.keys[team]}"
        return client

    def get(self, team: str, path: str, **options: Any) -> Json:
        with self.client(team, **options) as client:
            found = client.get(path)
        assert found.status_code == 200, found.text
        body: Json = found.json()
        return body

    def say(self, team: str, conversation: str, prompt: str, **headers: str) -> str:
        """A turn that must be answered."""
        with self.client(team, conversation) as client:
            return content(chat(client, prompt, headers=headers))

    def stream(self, team: str, conversation: str, prompt: str, mark: str = "", **options: Any) -> Asking:
        """Begin a turn; its first words have come once `mark` is in a line."""
        begun = threading.Event()

        def run() -> tuple[httpx.Response, str]:
            body = {"stream": True, "messages": [{"role": "user", "content": prompt}]}
            text = ""
            try:
                with (
                    self.client(team, conversation, **options) as client,
                    client.stream("POST", "/v1/chat/completions", json=body) as answer,
                ):
                    for line in answer.iter_lines():
                        text += line + "\n"
                        if mark and mark in line:
                            begun.set()
                return answer, text
            finally:
                begun.set()

        pool = ThreadPoolExecutor(1)
        result = pool.submit(run)
        pool.shutdown(wait=False)
        return Asking(begun, result)

    def session(self, team: str, conversation: str) -> ClaudeSession | None:
        return self.stack.watch.sessions.get(session_name(team, conversation))

    def team(self, name: str) -> ClaudeTeam:
        found = self.stack.watch.teams.get(name)
        assert found is not None
        return found

    def condition(self, team: str, kind: str) -> str:
        """`True`, `False`, or empty where there is none."""
        return next((c.status for c in self.team(team).status.conditions if c.type == kind), "")

    def accepted(self, team: str, url: str, *, key: str = "") -> bool:
        """Whether the router at that address takes the key."""
        with self.client(team, key=key, base_url=url) as client:
            return client.get("/conversations?limit=1").status_code == 200

    @contextmanager
    def limited(self, team: str, **limits: Any) -> Iterator[None]:
        """Other limits for the team, in force at all routers; those of the chart again afterwards."""
        self.change(team, limits)
        try:
            yield
        finally:
            self.change(team, {name: TEAMS[team].get(name) for name in limits})

    def change(self, team: str, spec: Json) -> None:
        """Change the team's spec, and return once each router has seen it."""
        marked = ["claude-code-haiku"]
        after = {"models": spec["models"] if "models" in spec else TEAMS[team].get("models")}
        for models, there in ((marked, True), (after["models"], False)):
            self.stack.cluster.patch("claudeteam", team, {"spec": {**spec, "models": models}})
            for url in self.routers:
                until(lambda url=url, there=there: (self.models(team, url) == marked) is there)  # type: ignore[misc]

    def models(self, team: str, url: str) -> list[str]:
        """What that router offers the team."""
        return [model["id"] for model in self.get(team, "/v1/models", base_url=url)["data"]]


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> float:
    """Ask until it is so; returns the seconds it took. For what only an answer over HTTP tells."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
    return time.monotonic() - began


@contextmanager
def sharing(*more: str, teams: Mapping[str, Json] = TEAMS, **chosen: Any) -> Iterator[Shared]:
    """The chart with the gateway and these teams, each with one key that all routers know."""
    given = [f"--set-json=teams={json.dumps(teams)}", f"--set-json=pool.podTemplate={json.dumps(FRUGAL)}"]
    with installed(*given, *more, gateway__enabled=True, **chosen) as stack, ExitStack() as forwards:
        pods = [pod["metadata"]["name"] for pod in stack.cluster.pods("router")]
        routers = [forwards.enter_context(stack.cluster.forwarded(pod, ROUTER_PORT)) for pod in pods]
        shared = Shared(stack, routers)
        for team in teams:
            shared.keys[team] = shared.new_key(team)
            for url in routers:
                until(lambda team=team, url=url: shared.accepted(team, url))  # type: ignore[misc]
        yield shared
