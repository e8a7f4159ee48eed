"""The gateway on a cluster: the kubelet's own tokens, crashes of everything around it, and sums that agree.

The law of metering, which `Books.balance` holds. Of each request that the model has answered, and whatever has crashed:

1. it is in the ledger at most once;
2. a row without a flag has the model's own figures, and is of the conversation that asked;
3. a request that the model has answered to its end and that has no such row was in flight when a gateway or its worker
   was killed. One that had ended for its worker is never missing.
"""

from __future__ import annotations

import base64
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx
import pytest

from claude_router.gateway import prices
from claude_router.gateway.scan import Counted
from cluster.guarding import AUDIENCE, GATEWAY, PYTHON, Guarded, Json, guarded
from cluster.host import kill
from local.harness import chat, content, eventually, streamed_text

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TEAMS: Json = {
    "alpha": {"budget": {"usd": 1000, "period": "month"}},
    "beta": {"budget": {"usd": 1000, "period": "day"}},
    "chief": {"admin": True},
}
TALKS = {"alpha-one": "alpha", "alpha-two": "alpha", "beta-one": "beta"}
TURNS = 9
SEED = 20261124
COLUMNS = "id, team, session, model, message, input, output, cache_read, cache_write_5m, cost, flags, ended IS NULL"
_READ = f"""
import json, sqlite3, sys
db = sqlite3.connect("file:/var/lib/claude-gateway/gateway.sqlite3?mode=ro", uri=True)
json.dump(db.execute("SELECT {COLUMNS} FROM requests").fetchall(), sys.stdout)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Guarded]:
    with guarded(TEAMS, pool__size=4, pool__idleTimeout=0, pool__queueTimeout="2m") as running:
        running.stack.watch.until_warm()
        yield running


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One of the ledger."""

    id: str
    team: str
    session: str
    model: str
    message: str
    input: int
    output: int
    cached: int
    written: int
    cost: float
    flags: str
    running: int

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.input, self.output, self.cached, self.written)


def rows(site: Guarded) -> list[Row]:
    """The ledger's, once nothing runs any more."""

    def settled() -> list[Row]:
        with suppress(AssertionError):  # while the gateway starts anew there is nothing to run it in
            found = site.cluster.kubectl("exec", f"{GATEWAY}-0", "--", PYTHON, "-c", _READ)
            there = [Row(*row) for row in json.loads(found)]
            return [] if any(row.running for row in there) else there
        return []

    found: list[Row] = eventually(settled, 120)
    return found


def counts(entry: Json) -> tuple[int, ...]:
    """The model's own figures of a request, in the order of `Row.counts`."""
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return tuple(entry["usage"].get(name, 0) for name in names)


def price(entry: Json) -> float:
    told = counts(entry)
    return prices.read().cost(entry["model"], Counted(input=told[0], output=told[1], cache_read=told[2]))[0]


def gateway_restarts(site: Guarded) -> tuple[int, bool]:
    status: Json = site.cluster.get("pod", f"{GATEWAY}-0")["status"]
    container = status["containerStatuses"][0]
    return container["restartCount"], container["ready"]


def kill_gateway(site: Guarded) -> None:
    """As an OOM killer would; its container is started again on the same volume."""
    assert kill(site.gateway_uid(), b"claude_router.gateway") >= 1


def until_back(site: Guarded, before: int) -> None:
    """The kubelet makes a container that has crashed before wait: 10 s, 20 s, …"""
    eventually(lambda: gateway_restarts(site) > (before, True), 120)


# -- credentials -------------------------------------------------------------------------------------------------------


def test_turns_use_the_kubelet_s_token_which_opens_nothing_else(site: Guarded) -> None:
    before = site.stack.mark()
    with site.shell("alpha", "with-a-token") as shell:
        assert content(chat(shell.client, "::say hello")) == "hello"
        token = shell.token()
    assert len({e["credential"] for e in site.stack.log(before)}) == 1, "the real key, whoever asks"
    payload = token.split(".")[1]
    claims: Json = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    pod = site.pod_of("with-a-token")["metadata"]
    assert claims["aud"] == [AUDIENCE]
    assert claims["exp"] - claims["iat"] <= 607, "ten minutes, and the few seconds that the API server adds"
    assert claims["kubernetes.io"]["pod"] == {"name": pod["name"], "uid": pod["uid"]}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    told = json.loads(site.cluster.kubectl("create", "--filename=-", "--output=json", given=json.dumps(review)))
    assert not told["status"].get("authenticated"), "the API server does not take it"


# -- crashes -----------------------------------------------------------------------------------------------------------


def test_a_gateway_killed_in_mid_stream_and_restarted_costs_a_retry_and_no_turn(site: Guarded) -> None:
    with site.client("alpha", "cut-off") as client:
        assert content(chat(client, "::say first")) == "first"
        restarts, _ = gateway_restarts(site)
        body = {"messages": [{"role": "user", "content": "::say one\n::sleep 4\n::say two"}], "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            seen = next(line for line in lines if "one" in line)
            kill_gateway(site)
            text = "\n".join([seen, *lines])
        assert streamed_text(text).endswith("two")
        assert text.rstrip().endswith("[DONE]")
        until_back(site, restarts)
        assert json.loads(content(chat(client, "::recall"))) == ["::say first", body["messages"][0]["content"]]  # type: ignore[index]
    session = site.stack.watch.until_phase("cut-off", "Ready")
    mine = [row for row in rows(site) if row.session == session.name]
    assert [row.flags for row in mine if row.flags] == ["lost"], "the request that was in flight, visible as such"
    log = site.cluster.kubectl("logs", f"{GATEWAY}-0")
    assert "1 requests were running when the last gateway died" in log


@dataclass
class Books:
    """Which conversations ask at this moment; how many requests can have been in flight at crashes; and the sums."""

    site: Guarded
    asking: set[str] = field(default_factory=set)
    cut: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def asked(self, name: str) -> Iterator[None]:
        with self.lock:
            self.asking.add(name)
        try:
            yield
        finally:
            with self.lock:
                self.asking.remove(name)

    def crash(self, *whose: str) -> None:
        """About to kill what serves these conversations: each has one request in flight at most."""
        with self.lock:
            self.cut += len(self.asking & set(whose))

    def balance(self, log: list[Json], found: list[Row]) -> None:
        """The law of this module, for requests of TALKS."""
        sessions = {talk: self.site.stack.watch.until_phase(talk, "Ready").name for talk in TALKS}
        told = {e["message"]: e for e in log if e["prompts"] and e["prompts"][-1].split()[-1] in TALKS}
        assert len(told) > len(TALKS) * TURNS
        metered = Counter(row.message for row in found if row.message)
        assert max(metered.values()) == 1, "none is counted twice"
        exact = {row.message: row for row in found if not row.flags and row.message in told}
        for message, row in exact.items():
            entry, talk = told[message], told[message]["prompts"][-1].split()[-1]
            assert row.counts == counts(entry)
            assert (row.team, row.session) == (TALKS[talk], sessions[talk])
            assert row.cost == pytest.approx(price(entry))
        missing = [message for message, entry in told.items() if entry["whole"] and message not in exact]
        assert len(missing) <= self.cut
        flagged = [row for row in found if row.flags and row.session in sessions.values()]
        assert len(flagged) <= self.cut, "and what is marked as not exact was in flight, too"


def ask(site: Guarded, books: Books, talk: str, prompt: str) -> None:
    """Until it is answered, whatever breaks meanwhile."""

    def answered() -> bool:
        with suppress(httpx.HTTPError), site.client(TALKS[talk], talk) as client, books.asked(talk):
            return chat(client, prompt).status_code == 200
        return False

    eventually(answered, 240)


def test_after_a_random_run_with_crashes_the_ledger_is_the_model_s(site: Guarded) -> None:
    dice, books, before = random.Random(SEED), Books(site), site.stack.mark()
    kinds = ("::say {n} {t}", "::bash echo {n}\n::say {t}", "::sleep 0.4\n::say {t}", "::chunks 60 40\n::say {t}")
    prompts = {t: [dice.choice(kinds).format(n=n, t=t) for n in range(TURNS)] for t in TALKS}
    done = threading.Semaphore(0)

    def talk(name: str) -> None:
        for prompt in prompts[name]:
            ask(site, books, name, prompt)
            done.release()

    faults = ["gateway", "worker", "router", "worker", "gateway", "router"]
    dice.shuffle(faults)
    with ThreadPoolExecutor(len(TALKS)) as pool:
        running = [pool.submit(talk, name) for name in TALKS]
        for fault in faults:
            for _ in range(3):
                assert done.acquire(timeout=240)
            break_something(site, books, fault, dice)
        for one in running:
            one.result(300)
    assert books.cut > 0, "something was in flight"
    books.balance(site.stack.log(before), rows(site))
    for name in TALKS:
        site.stack.watch.until_phase(name, "Ready")


def break_something(site: Guarded, books: Books, fault: str, dice: random.Random) -> None:
    if fault == "gateway":
        restarts, _ = gateway_restarts(site)
        books.crash(*TALKS)
        kill_gateway(site)
        until_back(site, restarts)
    elif fault == "worker":
        victim = dice.choice(sorted(TALKS))
        pod = site.stack.watch.until_phase(victim, "Ready").status.pod_name
        found = site.stack.watch.pods.get(pod)
        assert found is not None
        books.crash(victim)
        kill(found.metadata.uid, dice.choice((b"claude_worker", b"claude\0-p")))
    else:
        pod_ = dice.choice(site.cluster.pods("router"))
        kill(pod_["metadata"]["uid"], b"claude_router")


# -- sums --------------------------------------------------------------------------------------------------------------


def usage(site: Guarded, team: str, by: str, **query: str) -> dict[str, Json]:
    with site.client(team) as client:
        answer = client.get("/v1/usage", params={"by": by, **query})
    assert answer.status_code == 200, answer.text
    return {entry["key"]: entry for entry in answer.json()["data"]}


def test_all_sums_agree(site: Guarded) -> None:
    """The ledger's rows, `/v1/usage` by each key, a team's own view of it, and `kubectl get claudeteams`."""
    for name, team in TALKS.items():
        with site.client(team, name) as client:
            content(chat(client, f"::say once more {name}"))
    found = rows(site)
    by: dict[str, dict[str, Json]] = {key: usage(site, "chief", key) for key in ("day", "team", "session", "model")}
    for key, sums in by.items():
        assert sum(e["requests"] for e in sums.values()) == len(found), key
        assert sum(e["cost_usd"] for e in sums.values()) == pytest.approx(sum(row.cost for row in found)), key
        assert sum(e["input_tokens"] for e in sums.values()) == sum(r.input + r.cached + r.written for r in found), key
        assert sum(e["output_tokens"] for e in sums.values()) == sum(row.output for row in found), key
        assert sum(e["running"] for e in sums.values()) == 0
    for key in ("team", "session", "model"):
        assert set(by[key]) == {str(getattr(row, key)) for row in found}
        for name, sums_ in by[key].items():
            assert sums_["cost_usd"] == pytest.approx(sum(r.cost for r in found if getattr(r, key) == name))
    for team in ("alpha", "beta"):
        spent = sum(row.cost for row in found if row.team == team)
        assert spent > 0
        own = usage(site, team, "session")
        assert set(own) == {row.session for row in found if row.team == team}, "and no other team's"
        assert sum(e["cost_usd"] for e in own.values()) == pytest.approx(spent)
        until_shown(site, team, spent)


def until_shown(site: Guarded, team: str, spent: float) -> None:
    eventually(lambda: shown(site, team) == pytest.approx(spent, abs=2e-6), 30)


def shown(site: Guarded, team: str) -> float:
    """The cost in `kubectl get claudeteams`, as people see it."""
    header, row = site.cluster.kubectl("get", "claudeteams", team).splitlines()
    return float(row[header.index("COST") :].split()[0])
