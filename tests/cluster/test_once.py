"""Many requests for one new conversation, over two routers: one session, one pod, and each turn run once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.stack import Stack, installed
from local.harness import chat, content

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

REQUESTS = 20


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installed(pool__idleTimeout=0, router__maxQueue=32) as running:
        running.watch.until_warm()
        yield running


def test_twenty_requests_for_one_new_conversation_over_two_routers(stack: Stack) -> None:
    cluster, watch = stack.cluster, stack.watch
    names = [pod["metadata"]["name"] for pod in cluster.pods("router")]
    assert len(names) == 2
    mark, seen = stack.mark(), len(watch.changes)
    with cluster.forwarded(names[0], 3000) as one, cluster.forwarded(names[1], 3000) as other:

        def ask(number: int) -> str:
            with stack.client("together", base_url=(one, other)[number % 2]) as client:
                return content(chat(client, f"::say answer {number:02d}"))

        with ThreadPoolExecutor(REQUESTS) as pool:
            said = list(pool.map(ask, range(REQUESTS)))
    assert said == [f"answer {number:02d}" for number in range(REQUESTS)]
    asked = Counter(entry["prompts"][-1] for entry in stack.log(mark))
    assert asked == {f"::say answer {number:02d}": 1 for number in range(REQUESTS)}
    changes = watch.changes[seen:]
    sessions = {c.new.metadata.uid for c in changes if c.kind == "session" and c.new}
    assert len(sessions) == 1
    session = watch.until_phase("together", "Ready")
    workers = {c.name for c in changes if c.kind == "pod" and c.new
               and c.new.metadata.labels.get("claude-code-api.io/session") == session.name}  # fmt: skip
    assert len(workers) == 1
    watch.until("its turns are counted", lambda: (s := watch.session("together")) and s.status.turns == REQUESTS)
