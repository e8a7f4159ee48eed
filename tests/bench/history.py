"""What it costs to find out what a request means to the history, and to go on from an earlier message of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from bench.barecli import bare_cli
from bench.load import Connection, NotAnAnswer, Timed, completion, on_loop, percentile
from bench.processes import until_still
from bench.report import Figure, Goal, Limit, Report
from bench.turns import BARE, PAUSE_SECONDS, PROMPT, SAID, Pair
from claude_worker.history import Asked, Known, Node, Run, classify
from claude_worker.openai.request import Message, parse
from claude_worker.prefixes import prefixes
from local.harness import Model, cli_pid, scripted_model
from local.server import Server, serving

_COUNTS = (10, 100, 500)
_CHARACTERS = 300
_REPEATS = 200
_DECISION_MS = 1.0

_TURNS_BEFORE = 10
_SHARE = 1.1
_WARM_UP = 3
_NAME = "history"
_LOOK, _SOON = "look", "Soon."
_TOOL = {"type": "function", "function": {"name": _LOOK, "parameters": {"type": "object"}}}

_RESUMED, _EDITED, _REGENERATED, _EDITED_ASLEEP, _BARE = (
    "resumed", "edited", "regenerated", "edited while suspended", "bare",
)  # fmt: skip


def measure(report: Report, folder: Path, *, rounds: int, hot: int) -> None:
    """All figures of history; `rounds` of forks, `hot` turns with a tool's result."""
    for count in _COUNTS:
        _decision(report, count)
    with (
        scripted_model() as model,
        # Without keepalives no stream begins before its worker says what the request means to the history.
        serving(model, folder / "history-sessions", POOL_SIZE="2", WARM_WORKERS="0", KEEPALIVE_MS="3600000") as server,
    ):
        on_loop(_forks(report, model, server, folder / "forks", rounds))
        on_loop(_results(report, model, server, folder / "results", hot))


# -- the decision ----------------------------------------------------------------------------------------------------


def _decision(report: Report, count: int) -> None:
    body = json.dumps({"model": "claude-code", "messages": _said(count)}).encode()
    request = parse(body)
    known = _knowing(request.turns()[:-1])
    rule = classify(request, known)
    if not isinstance(rule, Run) or (rule.kind, len(rule.new)) != ("continued", 1):
        raise RuntimeError(f"the history was not found: {rule}")
    taken = _best_cpu_ms(lambda: classify(request, known))
    parsing = _best_cpu_ms(lambda: parse(body))
    goal = Goal(f"below {_DECISION_MS:g} ms", taken < _DECISION_MS) if count == max(_COUNTS) else None
    what = f"deciding what {count} messages mean, CPU"
    report.add(Figure("history", what, taken, "ms", Limit("parsing them", parsing), goal))


def _said(count: int) -> list[Any]:
    """So many messages, the last one a user's."""
    roles = ("assistant", "user")
    texts = (f"{i} {'and then another word ' * _CHARACTERS}"[:_CHARACTERS] for i in range(count))
    return [{"role": roles[(count - i) % 2], "content": text} for i, text in enumerate(texts)]


def _knowing(turns: Sequence[Message]) -> Known:
    """What a worker knows after these: a node for each answer, a turn for each question."""
    hashes = prefixes(turns)
    nodes = {h: Node(h, "s", h) for m, h in zip(turns, hashes, strict=True) if m.role == "assistant"}
    asked = {h: Asked(h, "", h, "done", delivered=True) for h in hashes if h not in nodes}
    return Known(nodes, asked, tip=hashes[-1], full=True, established=True)


def _best_cpu_ms(work: Callable[[], object]) -> float:
    def once() -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return min(once() for _ in range(_REPEATS)) * 1000


# -- forks -----------------------------------------------------------------------------------------------------------


class Chatter:
    """A client that sends its whole history each time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._numbers = itertools.count()
        self.messages: list[Any] = []

    async def goes_on(self) -> Timed:
        return await self._ask([*self.messages, self._prompt()], "continued")

    async def edits(self) -> Timed:
        """Its last prompt."""
        return await self._ask([*self.messages[:-2], self._prompt()], "forked")

    async def regenerates(self) -> Timed:
        return await self._ask(self.messages[:-1], "forked")

    def _prompt(self) -> Any:
        return {"role": "user", "content": f"{PROMPT}\n{next(self._numbers)}"}

    async def _ask(self, messages: list[Any], meaning: str) -> Timed:
        prepared = completion(self._server.url, messages, {"X-Conversation-ID": _NAME}, model="claude-code")
        with closing(await Connection.open(self._server.url)) as connection:
            answer = await connection.answer(prepared)
        if answer.text != SAID or f"x-claude-history: {meaning}" not in answer.head:
            raise NotAnAnswer(f"not {meaning}, or not {SAID!r}: {answer.head} {answer.text[:300]!r}")
        self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        return answer.timed


async def _forks(report: Report, model: Model, server: Server, folder: Path, rounds: int) -> None:
    """All in turns; every other round the other way round. Ours and the bare CLI's conversation grow alike."""
    chatter, session = Chatter(server), str(uuid.uuid4())
    async with bare_cli(model, folder, session) as bare:
        for i in range(_TURNS_BEFORE):
            await bare.turn(PROMPT, initialize=not i)
            await chatter.goes_on()
    steps: dict[str, tuple[bool, Callable[[], Awaitable[Timed]]]] = {
        _RESUMED: (True, chatter.goes_on),
        _EDITED: (False, chatter.edits),
        _REGENERATED: (False, chatter.regenerates),
        _EDITED_ASLEEP: (True, chatter.edits),
        _BARE: (False, lambda: _bare_resumed(model, folder, session)),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds):
        for name in list(steps) if i % 2 else reversed(list(steps)):
            suspended, step = steps[name]
            await _at_rest(server, suspended=suspended)
            taken[name].append((await step()).first)
    _add_forks(report, {name: statistics.median(seconds) * 1000 for name, seconds in taken.items()})


async def _bare_resumed(model: Model, folder: Path, session: str) -> Timed:
    """From the start of the process."""
    began = time.perf_counter()
    async with bare_cli(model, folder, session, resume=True) as bare:
        started = time.perf_counter() - began
        timed = await bare.turn(PROMPT, initialize=True)
    return Timed(started + timed.first, started + timed.whole, timed.size)


async def _at_rest(server: Server, *, suspended: bool) -> None:
    await asyncio.to_thread(server.until_quiet)
    await until_still(await asyncio.to_thread(cli_pid, server.process.pid))
    if suspended:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            (await client.delete(f"/conversations/{_NAME}")).raise_for_status()
        await asyncio.to_thread(server.until_phase, _NAME, "Suspended")


def _add_forks(report: Report, p50: dict[str, float]) -> None:
    def add(what: str, value: float, limit: Limit, goal: Goal | None = None) -> None:
        report.add(Figure("history", f"{what}, first content, p50", value, "ms", limit, goal))

    ours, bare = Limit("our resume", p50[_RESUMED]), Limit("bare CLI's resume", p50[_BARE])
    add("resumed conversation", p50[_RESUMED], bare)
    for name, what in ((_EDITED, "edited turn (a fork)"), (_REGENERATED, "regenerated turn (a fork)")):
        add(what, p50[name], ours, Goal("at most +10 %", p50[name] <= _SHARE * ours.value))
        add(f"the same {what.partition(' ')[0]} turn", p50[name], bare)
    add("edited turn of a suspended conversation", p50[_EDITED_ASLEEP], ours)


# -- results of a client's tools -------------------------------------------------------------------------------------


async def _results(report: Report, model: Model, server: Server, folder: Path, rounds: int) -> None:
    """The second half of a turn: the CLI waits for a tool of the client's, and is told what it gave."""
    async with bare_cli(model, folder) as bare:
        await bare.turn(PROMPT, initialize=True)
        with closing(await Connection.open(server.url)) as connection:

            async def result(prompt: str) -> Timed:
                return await _result(server, connection, prompt)

            pair = Pair(result, bare.turn)
            await pair.rounds(PROMPT, _WARM_UP)
            mine, limit = (percentile([t.whole for t in taken], 0.5) for taken in await pair.rounds(PROMPT, rounds))
    report.add(Figure("history", "hot turn with a tool's result, p50", mine * 1000, "ms", Limit(BARE, limit * 1000)))


async def _result(server: Server, connection: Connection, prompt: str) -> Timed:
    def prepared() -> bytes:
        # Only its newest messages: the history is measured above.
        headers = {"X-Conversation-ID": "results", "X-Claude-History": "last"}
        return completion(server.url, messages, headers, model="claude-code-client", tools=[_TOOL])

    messages: list[Any] = [{"role": "user", "content": f"::say {_SOON}\n::tool mcp__client__{_LOOK} {{}}\n{prompt}"}]
    deltas = (await connection.answer(prepared())).deltas
    call = next(call for delta in deltas for call in delta.get("tool_calls", ()))
    function = {"name": _LOOK, "arguments": "{}"}
    calls = [{"id": call["id"], "type": "function", "function": function}]
    messages.append({"role": "assistant", "content": _SOON, "tool_calls": calls})
    messages.append({"role": "tool", "tool_call_id": call["id"], "content": "seen"})
    await asyncio.sleep(PAUSE_SECONDS)
    answer = await connection.answer(prepared())
    if answer.text != SAID:
        raise NotAnAnswer(f"{answer.text[:300]!r} instead of {SAID!r}")
    return answer.timed
