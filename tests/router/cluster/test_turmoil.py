"""Requests, an operator that suspends at any time, and a watch that breaks: in the end everyone gets a live worker."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from claude_router.sessions import SessionFailed
from crds.fake_api import PATIENCE, FakeApi
from router.cluster.harness import KIND, Router, World, key, router, token

pytestmark = pytest.mark.asyncio

CONVERSATIONS = ("a", "b", "c")


class Operator:
    """Takes each session a step further, by the protocol and at random."""

    def __init__(self, w: World, dice: random.Random) -> None:
        self.w = w
        self.dice = dice
        self.pods = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.dice.uniform(0, 0.01))
            conversation = self.dice.choice(CONVERSATIONS)
            if self.w.has(conversation):
                self.step(conversation)
            if self.dice.random() < 0.03:
                self.trouble()

    def step(self, conversation: str) -> None:
        body = self.w.object(conversation)
        status = body.get("status", {})
        phase = status.get("phase", "")
        running = body["spec"]["desiredState"] == "Running"
        is_open = running and body["metadata"]["generation"] != status.get("observedGeneration")
        if phase == "Ready":
            if self.dice.random() < 0.3:
                self.w.write(conversation, "Suspending", podName=status["podName"])
        elif phase == "Suspending":
            # With the generation of the decision: an ask that came since is open.
            self.w.fake.put(
                KIND, {**body, "status": {"phase": "Suspended", "observedGeneration": status["observedGeneration"]}}
            )
        elif phase == "Starting":
            self.pods += 1
            self.w.ready(conversation, f"pod-{self.pods}")
        elif phase == "Queued" or is_open:
            self.w.write(conversation, self.dice.choice(["Queued", "Starting", "Starting", "Failed"]), message="so")

    def trouble(self) -> None:
        match self.dice.randrange(4):
            case 0:
                self.w.fake.cut()
            case 1:
                self.w.fake.compact()
                self.w.fake.cut()
            case 2:
                self.w.fake.end()
            case 3:
                conversation = self.dice.choice(CONVERSATIONS)
                if self.w.has(conversation):
                    self.w.fake.remove(KIND, key(conversation).name)


async def turn(w: World, r: Router, conversation: str) -> int:
    """Until a worker takes it, as the relay does; how many refused."""
    refused = 0
    while True:
        try:
            lease = await r.acquire(conversation)
        except SessionFailed:
            continue  # it answered our ask; the client sends it again
        status = w.object(conversation).get("status", {}) if w.has(conversation) else {}
        if status.get("phase") == "Ready" and lease.token == token(status["podName"]):
            return refused
        refused += 1
        r.sessions.gone(key(conversation), lease)


@pytest.mark.parametrize("seed", range(6))
async def test_every_request_gets_a_live_worker(seed: int) -> None:
    dice = random.Random(seed)
    async with FakeApi() as fake, router(fake) as one, router(fake) as two:
        w = World(fake)
        operator = asyncio.create_task(Operator(w, dice).run())
        try:
            async with asyncio.timeout(2 * PATIENCE):
                for _ in range(5):
                    turns = [
                        turn(w, dice.choice([one, two]), dice.choice(CONVERSATIONS)) for _ in range(dice.randint(1, 12))
                    ]
                    await asyncio.gather(*turns)
            assert not operator.done()
            assert one.sessions._pursuits == two.sessions._pursuits == {}
        finally:
            operator.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await operator
