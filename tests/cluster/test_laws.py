"""The pool's laws on a live cluster, watched from outside while conversations churn."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import pytest

from claude_crds.views import Pod
from cluster.stack import Stack, installed
from local.harness import assert_remembered, chat, content, events, streamed_text

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SIZE = 3
CONVERSATIONS = 8
CLIENTS = 5
TURNS = 40
SEED = 20261124
QUEUE_SECONDS = 60


@dataclass
class Talk:
    """What a conversation was told; `certain` if it was answered."""

    name: str
    told: list[tuple[str, bool]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    chosen = {"pool__size": SIZE, "pool__idleTimeout": "2s", "pool__queueTimeout": f"{QUEUE_SECONDS}s"}
    with installed(**chosen) as running:
        running.watch.until_warm()
        yield running


def test_random_churn(stack: Stack) -> None:
    talks = [Talk(f"talk{i}") for i in range(CONVERSATIONS)]
    dice, numbers = random.Random(SEED), iter(range(TURNS))
    errors: list[str] = []
    lock = threading.Lock()

    def client(_: int) -> None:
        while True:
            with lock:
                if (number := next(numbers, None)) is None:
                    return
                talk, kind, pause = dice.choice(talks), dice.choice(KINDS), dice.uniform(0.4, 1.5)
            with talk.lock:  # so that what was told has an order; other conversations go on
                turn(stack, talk, number, kind, pause, errors)

    seen = len(stack.watch.changes)
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    for talk in talks:
        remembers_its_own(stack, talk)
    assert stack.watch.most_pods <= SIZE, "never more worker pods than the pool's size"
    ended = {c.name: c.at for c in reversed(stack.watch.changes[seen:]) if c.kind == "pod" and leaving(c.new)}
    assert errors == [], "a busy worker is never ended: a turn that has begun would be cut off"
    assert len(ended) > CONVERSATIONS, "it did churn"
    assert sum(certain for talk in talks for _, certain in talk.told) > TURNS // 2


KINDS = ("whole", "stream", "stream", "leave")


def leaving(new: object) -> bool:
    return new is None or (isinstance(new, Pod) and new.leaving)


def turn(stack: Stack, talk: Talk, number: int, kind: str, pause: float, errors: list[str]) -> None:
    """One turn; every request is answered or refused in time."""
    word = f"{talk.name}-turn-{number}"
    prompt = f"::say {word}\n::sleep {pause:.2f}\n::say end of {word}"
    began = time.monotonic()
    with stack.client(talk.name) as client:
        if kind == "whole":
            answer = chat(client, prompt)
            assert time.monotonic() - began < QUEUE_SECONDS + 60
            assert answer.status_code in (200, 503), answer.text
            talk.told.append((prompt, answer.status_code == 200))
            if answer.status_code == 200:
                assert f"end of {word}" in content(answer)
            return
        body = {"stream": True, "messages": [{"role": "user", "content": prompt}]}
        text = ""
        with suppress(httpx.ReadError), client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                text += line + "\n"
                if word in line and kind == "leave":
                    break
        assert time.monotonic() - began < QUEUE_SECONDS + 60
    told = events(text) or [json.loads(text or "{}")]  # what is refused at once is refused as JSON
    certain = kind == "stream" and bool(told[-1]) and "error" not in told[-1]
    if kind == "stream" and not certain and word in text:
        errors.append(json.dumps(told[-1].get("error", "the connection broke")))
    talk.told.append((prompt, certain))
    if certain:
        assert f"end of {word}" in streamed_text(text)
    others = [w for w in text.split('"') if "-turn-" in w and not w.removeprefix("end of ").startswith(talk.name)]
    assert others == [], "an answer held another conversation's text"


def remembers_its_own(stack: Stack, talk: Talk) -> None:
    with stack.client(talk.name) as client:
        remembered = json.loads(content(chat(client, "::recall")))
    assert_remembered(talk.name, talk.told, remembered)
