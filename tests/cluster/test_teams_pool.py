"""Teams share a pool and have budgets: who is served next, who makes way, and what happens when the money is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from claude_crds.resources import TEAM_LABEL
from claude_crds.teams import bounds
from claude_crds.views import ClaudeSession, Pod
from cluster.stack import RELEASE, reasons
from cluster.teaming import Shared, sharing, until
from local.harness import chat, streamed_text

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TO_MIDNIGHT = 50
"""Seconds from the start of the gateway that is to see the day change; more than it needs to be ready."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    with sharing(pool__idleTimeout=0, pool__size=3, pool__queueTimeout="3m", pool__warm=0) as release:
        yield release


@pytest.fixture(autouse=True)
def tidy(shared: Shared) -> Iterator[None]:
    """Each test has the pool for itself."""
    yield
    shared.stack.forget(*{s.spec.conversation_id for s in shared.stack.watch.sessions.items()})
    shared.stack.watch.until("no workers", lambda: not shared.stack.watch.pods.items())
    shared.stack.pool(size=3)


def ended_well(text: str) -> bool:
    return streamed_text(text).endswith("ended") and text.rstrip().endswith("[DONE]")


# -- the pool ----------------------------------------------------------------------------------------------------------


def test_a_flood_of_one_team_costs_another_one_slot_at_most(shared: Shared) -> None:
    """More conversations than workers, all waiting; then another team's first comes, and is next but one at worst."""
    watch = shared.stack.watch
    shared.stack.pool(size=2)
    prompt = "::say begun\n::sleep 4\n::say ended"
    flood = [shared.stream("research", f"flood-{n}", prompt) for n in range(8)]
    watch.until("two have a worker, the others wait", lambda: sorted(_phases(shared))[:6] == ["Queued"] * 6)
    mark = len(watch.changes)
    waiting = {s.name for s in watch.sessions.items() if not s.status.pod_name}
    assert shared.say("payments", "first", "::say served") == "served"
    mine = shared.session("payments", "first")
    assert mine is not None
    served: list[str] = []
    for change in watch.changes[mark:]:
        session = change.new
        if isinstance(session, ClaudeSession) and session.status.pod_name and session.name not in served:
            served += [session.name] if session.name in waiting | {mine.name} else []
    assert served.index(mine.name) <= 1, served
    assert all(ended_well(turn.answer()[1]) for turn in flood), "and the others were served, too"


def _phases(shared: Shared) -> list[str]:
    return [s.status.phase for s in shared.stack.watch.sessions.items()]


def test_those_over_their_part_make_way_first(shared: Shared) -> None:
    """Though the worker of the other team has been idle for longer."""
    watch = shared.stack.watch
    with shared.limited("payments", maxLive=None):
        shared.say("payments", "oldest", "::say one")
        shared.say("research", "older", "::say two")
        shared.say("research", "newer", "::say three")
        assert shared.say("platform", "newcomer", "::say four") == "four"
        watch.until_phase("older", "Suspended")
        assert watch.phase("oldest") == watch.phase("newer") == watch.phase("newcomer") == "Ready"


def test_a_team_at_its_limit_waits_for_itself_only(shared: Shared) -> None:
    watch = shared.stack.watch
    for name in ("idle-one", "idle-two"):
        shared.say("payments", name, "::say idle")
    with shared.limited("payments", maxLive=1):
        watch.until_phase("idle-one", "Suspended")  # it has more than it may have
        running = shared.stream("payments", "idle-two", "::say begun\n::sleep 6\n::say ended", "begun")
        assert running.begun.wait(120)
        running_pod, mark = watch.until_phase("idle-two", "Ready").status.pod_name, len(watch.changes)
        waiting = shared.stream("payments", "idle-one", "::say begun\n::say ended")
        watch.until_phase("idle-one", "Queued")
        assert shared.say("research", "at-once", "::say room") == "room"
        assert ended_well(running.answer()[1])
        assert ended_well(waiting.answer()[1])
        having = {running_pod}
        for change in watch.changes[mark:]:
            if change.kind == "pod" and change.new is None:
                having.discard(change.name)
            elif isinstance(change.new, Pod) and change.new.metadata.labels.get(TEAM_LABEL) == "payments":
                having.add(change.name)
            assert len(having) <= 1, having


# -- money -------------------------------------------------------------------------------------------------------------


def test_a_budget_is_spent_and_the_next_day_begins(shared: Shared) -> None:
    cluster, watch = shared.stack.cluster, shared.stack.watch
    shared.say("payments", "spend", "::say one")
    cost = watch.until("its cost is known", lambda: shared.team("payments").status.usage.cost_usd)
    budget = round(cost * 8, 6)
    cluster.patch("claudeteam", "payments", {"spec": {"budget": {"usd": budget, "period": "day", "warnPercent": 50}}})
    turn = shared.stream("payments", "in-flight", "::say begun\n::bash until [ -e go ]; do sleep 0.1; done\n"
                         "::bash echo later\n::say ended", "begun")  # fmt: skip
    assert turn.begun.wait(120)
    said: list[str] = []
    with shared.client("payments", "spend") as client:
        while (answer := chat(client, "::say more")).status_code == 200:
            said.append(answer.headers.get("x-claude-budget", ""))
            assert len(said) < 40
    assert said == sorted(said), "from some turn on, each is warned"
    assert (said[0], said[-1]) == ("", "near")
    assert shared.condition("payments", "BudgetExceeded") == "True"
    assert shared.team("payments").status.usage.cost_usd >= budget

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (429, "budget_exceeded")
    _, midnight = bounds("day", time.time())
    reset = datetime.fromisoformat(answer.headers["x-claude-budget-reset"])
    assert reset == datetime.fromtimestamp(midnight, UTC)
    assert answer.headers["x-claude-budget-reset"] in error["message"]
    assert abs(int(answer.headers["retry-after"]) - (midnight - time.time())) < 30
    _others_go_on(shared)

    session = shared.session("payments", "in-flight")
    assert session is not None
    before = shared.team("payments").status.usage.cost_usd
    cluster.kubectl("exec", session.status.pod_name, "--", "touch", "/session/workspace/go")
    assert ended_well(turn.answer()[1]), "what had begun may end"
    watch.until("it has cost more", lambda: shared.team("payments").status.usage.cost_usd > before)
    assert {"BudgetNear", "BudgetExceeded"} <= set(reasons(shared.stack, "payments", ["BudgetNear", "BudgetExceeded"]))
    header, row = cluster.kubectl("get", "claudeteam", "payments", "--output=wide").splitlines()
    assert dict(zip(header.split(), row.split(), strict=False))["EXCEEDED"] == "True"
    until(lambda: _metered(shared) == pytest.approx(shared.team("payments").status.usage.cost_usd, abs=2e-6))
    _next_day(shared)


def _others_go_on(shared: Shared) -> None:
    """Another team's turns are taken, and an admin's on the team's behalf are not."""
    assert shared.say("research", "elsewhere", "::say on") == "on"
    with shared.client("platform", "spend") as admin:
        refused = chat(admin, "::say no", headers={"X-Claude-Team": "payments"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
    with shared.client("payments") as client:
        assert client.get("/conversations/spend/messages").status_code == 200, "looking costs nothing"


def _metered(shared: Shared) -> float:
    (row,) = shared.get("payments", "/v1/usage?by=team")["data"]
    return float(row["cost_usd"])


def _next_day(shared: Shared) -> None:
    """The gateway's clock of budgets is put to just before midnight: what is spent stays so until then only."""
    cluster, watch = shared.stack.cluster, shared.stack.watch
    _, midnight = bounds("day", time.time())
    offset = int(midnight - time.time()) - TO_MIDNIGHT
    gateway = f"statefulset/{RELEASE}-gateway"
    cluster.kubectl("set", "env", gateway, f"CLOCK_OFFSET_S={offset}")
    cluster.kubectl("rollout", "status", gateway, "--timeout=120s")
    with shared.client("payments", "spend") as client:
        refused = chat(client, "::say not yet")
        assert time.time() + offset < midnight, "this machine is too slow for this test"
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded"), (
            "it outlives a restart"
        )
        watch.until("the next day", lambda: shared.condition("payments", "BudgetExceeded") == "False", TO_MIDNIGHT + 60)
        assert time.time() + offset >= midnight
        status = shared.team("payments").status
        assert status.period_start == datetime.fromtimestamp(midnight, UTC)
        assert status.usage.cost_usd == 0
        until(lambda: (answer := chat(client, "::say again")).status_code == 200 and
              "x-claude-budget" not in answer.headers, 20)  # fmt: skip
    assert "BudgetReset" in reasons(shared.stack, "payments", ["BudgetReset"])
