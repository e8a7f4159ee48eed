"""The ledger: which message prefixes are in the CLI's memory, and what the conversation is, durably on its volume.

Two files. `state.json` (small, replaced atomically) says which Claude session this volume holds. `ledger` (append-only)
has one line a finished turn: prefix hash, number of messages it stands for, Claude session, uuid of the last assistant
message; a later fork needs the last two. A torn last line, as a power cut leaves it, is ignored.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from claude_worker.history import EMPTY, Known

log = logging.getLogger(__name__)

STATE_VERSION = 1


class Totals(msgspec.Struct):
    """Tokens (input with the cached ones) and US dollars of all turns so far."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0


class State(msgspec.Struct):
    """What a volume holds. `claude_session_id` is set before the first prompt is sent, so a crash loses nothing."""

    version: int = STATE_VERSION
    claude_session_id: str = ""
    system_prompt: str = ""
    client_system: str = ""
    had_tools: bool = False
    model: str = ""
    turns: int = 0
    totals: Totals = msgspec.field(default_factory=Totals)
    cli_cost_usd: float = 0.0
    """The cumulative cost that the CLI last reported; a resumed CLI counts on from it."""
    last_active: float = 0.0


class Entry(msgspec.Struct, array_like=True):
    """One line of the ledger."""

    prefix: str
    session: str
    uuid: str


class VolumeError(Exception):
    """The volume cannot be used; the message says why."""


class Ledger:
    """Reads both files once; afterwards answers from memory (about 200 bytes a turn)."""

    def __init__(self, volume: Path) -> None:
        """Raises VolumeError when the volume was written by a later version or its state is unreadable."""
        self._state_file = volume / "state.json"
        self._ledger_file = volume / "ledger"
        self.state = self._read_state()
        self.entries: dict[str, Entry] = {}
        self.tip = EMPTY
        for entry in self._read_entries():
            # Lines of an earlier Claude session, whose transcript was lost, say nothing about this one's memory.
            if entry.session == self.state.claude_session_id:
                self._remember(entry)

    def _read_state(self) -> State:
        try:
            state = msgspec.json.decode(self._state_file.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except msgspec.DecodeError as error:
            raise VolumeError(f"{self._state_file.name} on the session volume is unreadable: {error}") from error
        if state.version > STATE_VERSION:
            raise VolumeError(f"the session volume has version {state.version}; this worker knows {STATE_VERSION}")
        return state

    def _read_entries(self) -> list[Entry]:
        try:
            lines = self._ledger_file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        entries = []
        for line in filter(None, lines):
            try:
                entries.append(msgspec.json.decode(line, type=Entry))
            except msgspec.DecodeError:
                log.warning("a line of the ledger is torn; ignored")
        return entries

    def _remember(self, entry: Entry) -> None:
        self.entries[entry.prefix] = entry
        self.tip = entry.prefix

    @property
    def known(self) -> Known:
        """The view that `history.classify` decides by."""
        state = self.state
        return Known(self.entries, self.tip, bool(state.claude_session_id), state.had_tools, state.client_system)

    def forget(self) -> None:
        """The CLI's memory is gone: the conversation has no Claude session and no known prefixes any more."""
        self.state.claude_session_id = ""
        self.entries.clear()
        self.tip = EMPTY

    def record(self, prefixes: Sequence[str], uuid: str) -> bytes:
        """Note that these prefixes are now in the CLI's memory; returns the lines for `write`."""
        entries = [Entry(p, self.state.claude_session_id, uuid) for p in prefixes]
        for entry in entries:
            self._remember(entry)
        return b"".join(msgspec.json.encode(e) + b"\n" for e in entries)

    def encoded_state(self) -> bytes:
        """The state as it is now, for `write`."""
        return msgspec.json.encode(self.state)

    def write(self, lines: bytes, state: bytes) -> None:
        """Append to the ledger, then replace `state.json`. Blocking: call it off the event loop."""
        if lines:
            with self._ledger_file.open("ab") as file:
                file.write(lines)
        temporary = self._state_file.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(state)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._state_file)
