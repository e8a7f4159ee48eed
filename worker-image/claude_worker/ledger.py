"""The ledger: which histories the CLI's memory holds, which turns there were, and what the conversation is; durably.

Two files on the session's volume. `state.json` (small, replaced atomically) says where the conversation is. `ledger`
(append-only JSON lines) tells nodes and turns, and each turn's beginning before its prompt is sent:

    ["n", prefix, session, uuid, [call ids], cut, answered]     a node; `answered`: what a cut answer follows
    ["t", prefix, base, uuid, session, [keys]]                  a turn begins
    ["e", uuid, state, answer]                                  it has ended

A torn last line, as a power cut leaves it, is ignored; a turn without its end was lost with its worker, unless the
CLI's transcript tells more (`recovery`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from claude_worker.history import Asked, Known, Node, TurnState
from claude_worker.prefixes import EMPTY

log = logging.getLogger(__name__)

STATE_VERSION = 2
MOST_NODES = 4_000
MOST_TURNS = 1_000


class Totals(msgspec.Struct):
    """Tokens (input with the cached ones) and US dollars of all turns so far."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0


class State(msgspec.Struct):
    """What a volume holds. `claude_session_id` is set before the first prompt is sent, so a crash loses nothing.

    `fork`: the session and message that it begins at, while it has no transcript of its own yet. `tip`, `clean` and
    `full`: see `history.Known`. `costs`: what the CLI last reported as a session's cumulative cost, in US dollars.
    """

    version: int = STATE_VERSION
    claude_session_id: str = ""
    fork: tuple[str, str] | None = None
    tip: str = EMPTY
    clean: bool = True
    full: bool = False
    system_prompt: str = ""
    client_system: str = ""
    had_tools: bool = False
    model: str = ""
    turns: int = 0
    totals: Totals = msgspec.field(default_factory=Totals)
    costs: dict[str, float] = msgspec.field(default_factory=dict)
    last_active: float = 0.0


class VolumeError(Exception):
    """The volume cannot be used; the message says why."""


class Ledger:
    """Reads both files once; afterwards answers from memory (some 400 bytes a turn, bounded)."""

    def __init__(self, volume: Path) -> None:
        """Raises VolumeError when the volume was written by a later version or its state is unreadable."""
        self._state_file = volume / "state.json"
        self._ledger_file = volume / "ledger"
        self.nodes: dict[str, Node] = {}
        self.cuts: dict[str, Node] = {}
        self.asked: dict[str, Asked] = {}
        self.turns: dict[str, Asked] = {}
        self.keys: dict[str, str] = {}
        self.sessions: dict[str, str] = {}
        """The Claude session of each turn, by the turn's uuid."""
        self.open: dict[str, Asked] = {}
        """Turns whose end was never written: found on the volume, and not yet judged."""
        self.last: Asked | None = None
        self.state = State()
        self.reload()

    def reload(self) -> None:
        """Read the volume anew, into the same `state`. Blocking. Raises VolumeError."""
        fresh = self._read_state()
        for name in State.__struct_fields__:
            setattr(self.state, name, getattr(fresh, name))
        for index in (self.nodes, self.cuts, self.asked, self.turns, self.keys, self.sessions, self.open):
            index.clear()
        self.last = None
        lines = self._read_lines()
        for line in lines:
            self._replay(line)
        self.open.update((uuid, turn) for uuid, turn in self.turns.items() if turn.state == "running")
        if len(lines) > 4 * (MOST_NODES + MOST_TURNS):
            self._compact()

    def _read_state(self) -> State:
        try:
            data = self._state_file.read_bytes()
            state = msgspec.json.decode(data, type=State)
        except FileNotFoundError:
            return State()
        except msgspec.DecodeError as error:
            raise VolumeError(f"{self._state_file.name} on the session volume is unreadable: {error}") from error
        if state.version > STATE_VERSION:
            raise VolumeError(f"the session volume has version {state.version}; this worker knows {STATE_VERSION}")
        if state.version < STATE_VERSION:
            # Its histories were hashed in another way: the memory goes on, and is no known node.
            state.version, state.clean = STATE_VERSION, not state.claude_session_id
        return state

    def _read_lines(self) -> list[list[Any]]:
        try:
            lines = self._ledger_file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found: list[list[Any]] = []
        for line in filter(None, lines):
            try:
                found.append(msgspec.json.decode(line, type=list[Any]))
            except msgspec.DecodeError:
                log.warning("a line of the ledger is torn; ignored")
        return found

    def _replay(self, line: list[Any]) -> None:
        match line:
            case ["n", str(prefix), str(session), str(uuid), list(calls), str(cut), str(answered)]:
                self._keep_node(Node(prefix, session, uuid, tuple(calls), cut), answered)
            case ["t", str(prefix), str(base), str(uuid), str(session), list(keys)]:
                self._keep_turn(Asked(prefix, base, uuid), session, keys)
            case ["e", str(uuid), str(state), str(answer)] if uuid in self.turns:
                turn = self.turns[uuid]
                turn.state, turn.answer, turn.delivered = state, answer, True  # type: ignore[assignment]

    def _keep_node(self, node: Node, answered: str) -> None:
        self.nodes.pop(node.prefix, None)
        self.nodes[node.prefix] = node
        if node.cut:
            self.cuts[answered] = node
        _forget_oldest(self.nodes, MOST_NODES)
        _forget_oldest(self.cuts, MOST_TURNS)

    def _keep_turn(self, turn: Asked, session: str, keys: Iterable[str]) -> None:
        self.asked.pop(turn.prefix, None)
        self.asked[turn.prefix] = self.turns[turn.uuid] = self.last = turn
        self.sessions[turn.uuid] = session
        self.keys.update(dict.fromkeys(keys, turn.uuid))
        _forget_oldest(self.asked, MOST_TURNS)
        _forget_oldest(self.turns, MOST_TURNS)
        _forget_oldest(self.sessions, MOST_TURNS)
        _forget_oldest(self.keys, 2 * MOST_TURNS)

    # -- what others read ----------------------------------------------------------------------------------------

    @property
    def known(self) -> Known:
        """The view that `history.classify` decides by."""
        state = self.state
        return Known(
            self.nodes, self.asked, self.cuts, self.last, state.tip, state.clean, state.full,
            bool(state.claude_session_id), state.had_tools, state.client_system,
        )  # fmt: skip

    def by_key(self, keys: Iterable[str]) -> Asked | None:
        """The turn that was asked for with one of these keys."""
        return next((t for k in keys if (t := self.turns.get(self.keys.get(k, "")))), None)

    # -- what happens --------------------------------------------------------------------------------------------

    def begin(self, turn: Asked, keys: Sequence[str]) -> None:
        """Note a turn, before its prompt is sent. Not synced: it outlives this process, which is what it is for."""
        session = self.state.claude_session_id
        self._keep_turn(turn, session, keys)
        self.append([["t", turn.prefix, turn.base, turn.uuid, session, list(keys)]])

    def end(self, turn: Asked, state: TurnState, node: Node | None) -> list[list[Any]]:
        """Note how a turn ended, and the node that its answer is; returns the lines for `append`."""
        turn.state = state
        lines: list[list[Any]] = []
        if node is not None:
            turn.answer = node.prefix
            self._keep_node(node, turn.prefix)
            lines.append(["n", node.prefix, node.session, node.uuid, list(node.calls), node.cut, turn.prefix])
        return [*lines, ["e", turn.uuid, state, turn.answer]]

    def forget(self) -> None:
        """The CLI's memory is gone: the conversation has no Claude session any more, and no node to go on from."""
        self.state.claude_session_id, self.state.fork = "", None
        self.state.tip, self.state.clean = EMPTY, True
        self.nodes.clear()
        self.cuts.clear()

    def append(self, lines: Iterable[list[Any]]) -> None:
        """Add lines to the file. Some 50 µs; not synced."""
        with self._ledger_file.open("ab") as file:
            file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def encoded_state(self) -> bytes:
        """The state as it is now, for `write`."""
        return msgspec.json.encode(self.state)

    def write(self, lines: Sequence[list[Any]], state: bytes) -> None:
        """Append to the ledger, then replace `state.json`. Blocking: call it off the event loop."""
        if lines:
            self.append(lines)
        _replace(self._state_file, state)

    def _compact(self) -> None:
        """Write the file anew, with what is still kept in memory."""
        answered = {node.prefix: prefix for prefix, node in self.cuts.items()}
        keys: dict[str, list[str]] = {}
        for key, uuid in self.keys.items():
            keys.setdefault(uuid, []).append(key)
        lines: list[list[Any]] = [
            ["n", n.prefix, n.session, n.uuid, list(n.calls), n.cut, answered.get(n.prefix, "")]
            for n in self.nodes.values()
        ]
        for t in self.turns.values():
            lines.append(["t", t.prefix, t.base, t.uuid, self.sessions.get(t.uuid, ""), keys.get(t.uuid, [])])
            if t.state != "running":
                lines.append(["e", t.uuid, t.state, t.answer])
        _replace(self._ledger_file, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def _forget_oldest(index: dict[str, Any], most: int) -> None:
    while len(index) > most:
        del index[next(iter(index))]


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
