"""Fifty conversations over a pool of five, with clients that leave and CLIs that are killed: nothing lost or mixed."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from local.harness import Model, assert_remembered, chat, content, descendants, events, find_cli, streamed_text
from local.server import Server, open_files, resident_bytes, serving

CONVERSATIONS = 50
TURNS = 3
CLIENTS = 6
SEED = 20261124
MEMORY_GROWTH_MAX = 60 * 1024 * 1024


@dataclass
class Conversation:
    """What one conversation was told. `certain` turns were answered; others may or may not be in the memory."""

    name: str
    told: list[tuple[str, bool]] = field(default_factory=list)


def turn(server: Server, conversation: Conversation, number: int, dice: random.Random) -> None:
    """One turn of a random kind: a whole answer, a stream, or a client that leaves in the middle."""
    word = f"{conversation.name}-turn-{number}"
    prompt = f"::say {word}\n::bash echo {word} >> log.txt\n::say end of {word}"
    kind = dice.choice(["whole", "stream", "stream", "leave"])
    with server.client(conversation.name) as client:
        if kind == "leave":
            conversation.told.append((prompt, False))
            body = {"stream": True, "messages": [{"role": "user", "content": prompt}]}
            with (
                suppress(httpx.HTTPError, StopIteration),
                client.stream("POST", "/v1/chat/completions", json=body) as answer,
            ):
                lines = answer.iter_lines()
                next(line for line in lines if word in line)
            return
        answer = chat(client, prompt, stream=kind == "stream")
    if kind == "stream" and answer.status_code == 200:
        said = streamed_text(answer.text)
        failed = "error" in events(answer.text)[-1]
    else:
        failed = answer.status_code != 200
        said = "" if failed else content(answer)
    conversation.told.append((prompt, not failed))
    if not failed:
        assert f"end of {word}" in said
    others = [other for other in said.split() if "-turn-" in other and not other.startswith(conversation.name + "-")]
    assert others == [], "an answer held another conversation's text"


def killer(server: Server, stop: threading.Event, dice: random.Random) -> int:
    """Kill a CLI now and then until told to stop; returns how many."""
    killed = 0
    while not stop.wait(1.5):
        workers = [pid for pid in sorted(descendants(server.process.pid)) if find_cli(pid)]
        if workers and (cli := find_cli(dice.choice(workers))):
            with suppress(ProcessLookupError):
                os.kill(cli, signal.SIGKILL)
                killed += 1
    return killed


def check(server: Server, conversation: Conversation) -> None:
    with server.client(conversation.name) as client:
        remembered = json.loads(content(chat(client, "::recall")))
    assert_remembered(conversation.name, conversation.told, remembered)


def transcripts_hold_one_conversation_each(sessions: Path) -> int:
    seen = 0
    for path in sessions.rglob("*.jsonl"):
        text = path.read_text()
        names = {word.split("-turn-")[0].rsplit(" ", 1)[-1] for word in text.split("::say ") if "-turn-" in word[:30]}
        assert len(names) <= 1, path
        seen += 1
    return seen


@pytest.mark.timeout(600)
def test_fifty_conversations_over_a_pool_of_five(model: Model, tmp_path: Path) -> None:
    conversations = [Conversation(f"talk{i:02d}") for i in range(CONVERSATIONS)]
    settings = {"POOL_SIZE": "5", "IDLE_TIMEOUT_MS": "1500", "QUEUE_TIMEOUT_MS": "60000", "LOG_FORMAT": "json"}
    with serving(model, tmp_path / "sessions", **settings) as server:
        for conversation in conversations[:5]:  # warm: what is loaded at first use is not a leak
            turn(server, conversation, 0, random.Random(SEED))
        server.until(queued=0, live=1, warm=1)  # each time the same: nothing but the spare
        files, memory = open_files(server.process.pid), resident_bytes(server.process.pid)
        stop = threading.Event()
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            killing = pool.submit(killer, server, stop, random.Random(SEED))

            def talk(share: list[Conversation], seed: int) -> None:
                dice = random.Random(seed)
                for number in range(1, TURNS + 1):
                    for conversation in dice.sample(share, len(share)):
                        turn(server, conversation, number, dice)

            shares = [pool.submit(talk, conversations[i::CLIENTS], SEED + i) for i in range(CLIENTS)]
            try:
                for share in shares:
                    share.result()
            finally:
                stop.set()
            assert killing.result() > 0, "the soak killed nothing"
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda c: check(server, c), conversations))
        assert server.pool()["live"] <= 5
        server.until(queued=0, live=1, warm=1)
        # Two hundred turns later: no more connections and pipes than before.
        assert open_files(server.process.pid) <= files + 4
        assert resident_bytes(server.process.pid) - memory < MEMORY_GROWTH_MAX
        assert sum(certain for c in conversations for _, certain in c.told) > CONVERSATIONS
    assert transcripts_hold_one_conversation_each(tmp_path / "sessions") >= CONVERSATIONS
