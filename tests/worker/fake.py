"""A stand-in for the CLI: a small program that speaks as much of stream-json as the worker needs, told what to do by
its environment (`FAKE_CLI`) and by the prompts; and the worker's parts around it, without HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from claude_worker.conversation import Conversation
from claude_worker.history import Hints
from claude_worker.ledger import Ledger
from claude_worker.openai.chunks import ChatWriter
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import ChatRequest, parse
from claude_worker.settings import WorkerSettings
from claude_worker.status import Status
from claude_worker.translate import Translator
from claude_worker.turn import Reader, Turn

SESSION = "00000000-0000-4000-8000-000000000001"

_PROGRAM = """
import json, os, signal, sys

mode, prompt, cost = os.environ.get("FAKE_CLI", "works"), "", 0.0

def say(**frame):
    print(json.dumps(frame), flush=True)

def result(**fields):
    global prompt
    prompt = ""
    say(**{"type": "result", "subtype": "success", "session_id": "s", "total_cost_usd": cost} | fields)

def answer(uuid, text):
    global prompt, cost
    prompt, cost = uuid, cost + 0.5
    say(type="command_lifecycle", command_uuid=uuid, state="started")
    if text == "refused at once":
        result(is_error=True, api_error_status=401, result="Invalid API key")
    elif text == "forbidden":
        result(is_error=True, api_error_status=403, result="no")
    elif text == "overloaded":
        result(is_error=True, api_error_status=529, result="busy")
    elif text == "refused again and again":
        say(type="system", subtype="api_retry", error_status=401, attempt=1)
    elif text == "die":
        sys.exit(4)
    elif text == "hang":
        say(type="stream_event", event={"type": "message_start", "message": {"id": "m"}})
    else:
        result(result="echo: " + text)

if place := os.environ.get("FAKE_CLI_BOOTED"):
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
if mode == "dies":
    sys.exit("the last words")
if mode == "deaf":
    while True:
        signal.pause()
for line in sys.stdin:
    given = json.loads(line)
    if given["type"] == "user":
        answer(given["uuid"], given["message"]["content"][0]["text"])
        continue
    asked = given["request"]["subtype"]
    if mode == "mute" or given["type"] != "control_request":
        continue
    if mode == "dies at initialize":
        sys.exit("the last words")
    response = {"subtype": "success", "request_id": given["request_id"], "response": {}}
    if mode == "refuses initialize":
        response |= {"subtype": "error", "error": "not today"}
    say(type="control_response", response=response)
    if asked == "interrupt" and prompt:
        result(terminal_reason="aborted_streaming", is_error=True)
"""


def write_cli(folder: Path) -> Path:
    """The program, executable, in that folder."""
    path = folder / "fake-claude"
    path.write_text(f"#!{sys.executable} -IS\n{_PROGRAM}")
    path.chmod(0o755)
    return path


def bind_volume(volume: Path) -> None:
    """Make it the volume of a conversation that already had turns, so that a worker on it resumes."""
    transcript = volume / "claude" / "projects" / "workspace" / f"{SESSION}.jsonl"
    transcript.parent.mkdir(parents=True)
    transcript.write_text("{}\n")
    ledger = Ledger(volume)
    ledger.state.claude_session_id = SESSION
    ledger.write([], ledger.encoded_state())


def request(text: str) -> ChatRequest:
    return parse(b'{"messages": [{"role": "user", "content": "%b"}]}' % text.encode())


def new_turn() -> Turn:
    return Turn(Translator(tool_activity="off"), "claude-code", 1)


def reader_of(turn: Turn) -> Reader:
    """A client that reads the turn as a stream."""
    return Reader(turn, lambda head: ChatWriter(head, include_usage=False), 60)


@dataclass
class Asked:
    """A request of a client that reads its answer."""

    turn: Turn
    reader: Reader

    async def ended(self) -> None:
        """Until its answer has ended. Raises ApiError when it failed."""
        await self.turn.when_closed()
        await self.reader.turn.when_closed()
        if self.reader.turn.error:
            raise self.reader.turn.error

    def leave(self) -> None:
        """The client goes."""
        self.reader.leave()


@dataclass
class Worker:
    """The parts behind the worker's HTTP."""

    settings: WorkerSettings
    ledger: Ledger
    status: Status
    conversation: Conversation

    def begin(self, text: str, hints: Hints = Hints(), keys: Sequence[str] = ()) -> Asked:  # noqa: B008 - it is frozen
        """Start a turn."""
        turn = new_turn()
        asked = Asked(turn, reader_of(turn))
        self.conversation.submit(request(text), turn, hints, list(keys))
        return asked

    async def ask(self, text: str) -> str:
        """One turn from its request to its end: the answer's text. Raises ApiError."""
        asked = self.begin(text)
        try:
            await asked.ended()
            self.conversation.delivered(asked.reader.turn)
        finally:
            asked.leave()
            await asyncio.wait(self.conversation._tasks or [asyncio.create_task(asyncio.sleep(0))])
        return asked.reader.turn.translator.text

    async def refusal(self, text: str) -> ApiError:
        """The error that a turn ends with."""
        try:
            said = await self.ask(text)
        except ApiError as error:
            return error
        raise AssertionError(f"answered: {said}")

    async def until(self, **wanted: object) -> None:
        """Until the status says so."""
        async for view in self.status.watch():
            if wanted.items() <= view.items():
                return
        raise AssertionError(f"drained before {wanted}")


def make_worker(volume: Path) -> Worker:
    """On this volume, not booted yet. `CLAUDE_CLI` is to be set."""
    assert "CLAUDE_CLI" in os.environ
    settings = WorkerSettings(volume_dir=str(volume))
    for folder in (settings.workspace, settings.config_dir):
        folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(volume)
    status = Status(ledger.state, "")
    return Worker(settings, ledger, status, Conversation(settings, ledger, status))
