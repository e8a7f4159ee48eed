"""The laws of history: what the model is sent equals the history that the client sent, whatever clients do.

The CLI is played by lists of messages; ledger and decision are the real ones. Any client may go on, edit, regenerate,
retry, go back to an earlier branch, leave in the middle, rewrite its past, or change how it writes what it echoes; the
worker may die between any two writes.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from claude_worker import recovery
from claude_worker.history import Asked, Hints, Node, Repeat, Run, classify
from claude_worker.ledger import Ledger
from claude_worker.openai.request import ChatRequest, Message, Part
from claude_worker.prefixes import EMPTY, cut_text, extend
from claude_worker.settings import WorkerSettings

History = tuple[tuple[str, str], ...]


def message(role: str, text: str) -> Message:
    return Message(role, text)


def echoed(history: History, style: int) -> list[Message]:
    """The history as clients echo it: text or parts, white space at the ends, an assistant's re-joined."""
    out = []
    for role, text in history:
        if style == 1:
            out.append(Message(role, [Part("text", text)]))
        elif style == 2:
            out.append(Message(role, text + "\n" if role == "user" else text.replace(" ", "  ") + " "))
        else:
            out.append(Message(role, text))
    return out


@dataclass
class FakeCli:
    """Claude sessions: each a list of (uuid, role, text)."""

    sessions: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def new(self, node: Node | None) -> str:
        name = f"s{next(self.numbers)}"
        copied: list[tuple[str, str, str]] = []
        if node is not None:
            source = self.sessions[node.session]
            end = next(i for i, m in enumerate(source) if m[0] == node.uuid)
            copied = source[: end + 1]
        self.sessions[name] = copied
        return name

    def add(self, session: str, role: str, text: str) -> str:
        uuid = f"m{next(self.numbers)}"
        self.sessions[session].append((uuid, role, text))
        return uuid

    def history(self, session: str) -> History:
        return tuple((role, text) for _, role, text in self.sessions[session])


class Laws(RuleBasedStateMachine):
    """Full-history clients of one conversation."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="laws-"))
        self.ledger = Ledger(self.folder)
        self.cli = FakeCli()
        self.words = itertools.count()
        self.branches: list[History] = [()]
        """Every history that a client has seen: each may be gone on from."""
        self.ran: list[History] = []
        self.interrupted: set[History] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # -- the worker's part, as conversation.py does it ---------------------------------------------------------------

    def ask(self, history: History, style: int = 0, *, retry: bool = False) -> Run | Repeat:
        request = ChatRequest(messages=echoed(history, style))
        decided = classify(request, self.ledger.known, Hints(retry=retry, sends="full"))
        assert not isinstance(decided, (type(None),))
        assert isinstance(decided, Run | Repeat), "no system prompt: nothing is aside"
        return decided

    def send(self, run: Run, history: History) -> str:
        """Place the CLI and prompt it; returns the turn's uuid. The law is checked here."""
        state = self.ledger.state
        node = self.ledger.nodes.get(run.base)
        if not (run.base == state.tip and state.clean and state.claude_session_id):
            assert node is not None or run.base == EMPTY
            state.claude_session_id = self.cli.new(node)
        session = state.claude_session_id
        told = tuple((m.role, m.text().strip()) for m in (*run.context, *run.new))
        assert self.cli.history(session) + squeezed(told, history) == history, "the model sees what the client sent"
        for role, text in told:
            self.cli.add(session, role, text)
        state.tip, state.clean, state.full = run.asked, False, True
        turn = Asked(run.asked, run.base, f"t{next(self.words)}")
        self.ledger.begin(turn, [])
        return turn.uuid

    def answer(self, uuid: str, text: str, *, cut: bool = False) -> None:
        state = self.ledger.state
        message_id = self.cli.add(state.claude_session_id, "assistant", text)
        turn = self.ledger.turns[uuid]
        prefix = extend(turn.prefix, [message("assistant", text)])
        node = Node(prefix, state.claude_session_id, message_id, (), cut_text(text) if cut else "")
        state.tip, state.clean = prefix, True
        lines = self.ledger.end(turn, "interrupted" if cut else "done", node)
        turn.delivered = not cut
        self.ledger.write(lines, self.ledger.encoded_state())

    def run(self, history: History, style: int = 0) -> None:
        decided = self.ask(history, style)
        assert isinstance(decided, Run)
        uuid = self.send(decided, history)
        text = f"answer {next(self.words)} to it"
        self.answer(uuid, text)
        self.ran.append(history)
        self.branches.append((*history, ("assistant", text)))

    # -- what clients do -----------------------------------------------------------------------------------------

    @rule(data=st.data(), style=st.integers(0, 2))
    def goes_on_from_any_branch(self, data: st.DataObject, style: int) -> None:
        branch = data.draw(st.sampled_from(self.branches))
        self.run((*branch, ("user", f"prompt {next(self.words)}")), style)

    @precondition(lambda self: self.ran)
    @rule(data=st.data())
    def regenerates(self, data: st.DataObject) -> None:
        history = data.draw(st.sampled_from(self.ran))
        decided = self.ask(history)
        assert isinstance(decided, Run)
        assert decided.kind in ("regenerated", "rewritten")
        self.run(history)

    @precondition(lambda self: self.ran)
    @rule()
    def retries_the_last_turn(self) -> None:
        decided = self.ask(self.ran[-1], retry=True)
        assert isinstance(decided, Repeat)
        assert decided.turn.prefix == extend(EMPTY, echoed(self.ran[-1], 0)) or len(self.branches) > 2

    @rule(data=st.data())
    def is_cut_off_and_goes_on(self, data: st.DataObject) -> None:
        """The client has seen less of the answer than the CLI remembers."""
        branch = data.draw(st.sampled_from(self.branches))
        history = (*branch, ("user", f"prompt {next(self.words)}"))
        decided = self.ask(history)
        assert isinstance(decided, Run)
        uuid = self.send(decided, history)
        text = f"cut {next(self.words)} off here"
        self.answer(uuid, text, cut=True)
        seen = (*history, ("assistant", text[: len(text) - 3]), ("user", f"prompt {next(self.words)}"))
        again = self.ask(seen)
        assert isinstance(again, Run)
        assert again.kind == "continued"
        whole = (*history, ("assistant", text), seen[-1])
        uuid = self.send(again, whole)
        self.answer(uuid, f"answer {next(self.words)}")

    @rule(data=st.data())
    def fails_and_is_asked_again(self, data: st.DataObject) -> None:
        branch = data.draw(st.sampled_from(self.branches))
        history = (*branch, ("user", f"prompt {next(self.words)}"))
        decided = self.ask(history)
        assert isinstance(decided, Run)
        uuid = self.send(decided, history)
        turn = self.ledger.turns[uuid]
        self.ledger.write(self.ledger.end(turn, "failed", None), self.ledger.encoded_state())
        self.run((*history, ("user", f"and {next(self.words)}")))

    @rule(data=st.data(), text=st.sampled_from(["a foreign answer", "another"]))
    def rewrites_its_past(self, data: st.DataObject, text: str) -> None:
        branch = data.draw(st.sampled_from(self.branches))
        history = (*branch, ("user", "compacted"), ("assistant", text), ("user", f"prompt {next(self.words)}"))
        decided = self.ask(history)
        assert isinstance(decided, Run)
        if decided.kind == "rewritten":
            assert (decided.context[-1].role, decided.context[-1].text()) == ("assistant", text)
        self.run(history)

    @rule(data=st.data())
    def the_worker_dies_before_it_writes_the_state(self, data: st.DataObject) -> None:
        """The ledger tells the turn's end, and the state is of before the turn."""
        branch = data.draw(st.sampled_from(self.branches))
        history = (*branch, ("user", f"prompt {next(self.words)}"))
        decided = self.ask(history)
        assert isinstance(decided, Run)
        uuid = self.send(decided, history)
        # A process that is placed is on the volume before its prompt is.
        written = msgspec.structs.replace(self.ledger.state, tip=decided.base, clean=True)
        text = f"answer {next(self.words)} to it"
        self.answer(uuid, text)
        self.ledger.write([], msgspec.json.encode(written))
        self.ledger = Ledger(self.folder)
        recovery.judge(self.ledger, WorkerSettings(volume_dir=str(self.folder)))
        self.branches.append((*history, ("assistant", text)))

    @rule(before=st.sampled_from(["begin", "prompt", "end"]), data=st.data())
    def the_worker_dies(self, before: str, data: st.DataObject) -> None:
        """Between any two writes of a turn; the turn's end is then unknown, and what follows is right all the same."""
        branch = data.draw(st.sampled_from(self.branches))
        history = (*branch, ("user", f"prompt {next(self.words)}"))
        decided = self.ask(history)
        assert isinstance(decided, Run)
        if before != "begin":
            uuid = self.send(decided, history)
            if before == "end":
                state = self.ledger.state
                self.cli.add(state.claude_session_id, "assistant", f"lost {uuid}")
        self.ledger = Ledger(self.folder)
        for turn in self.ledger.open.values():
            state = self.ledger.state
            self.ledger.write(self.ledger.end(turn, "lost", None), self.ledger.encoded_state())
            state.tip, state.clean = turn.prefix, False
        if before == "begin":
            # The process has not been prompted, but neither is it known where a new one is.
            self.ledger.state.clean = False

    @invariant()
    def every_branch_is_found_again(self) -> None:
        """Every node's message is in its session."""
        for node in self.ledger.nodes.values():
            assert any(m[0] == node.uuid for m in self.cli.sessions[node.session])


def squeezed(told: History, history: History) -> History:
    """What was told, as the client wrote it: the ends of texts do not count."""
    tail = history[len(history) - len(told) :]
    same = [(r, "".join(t.split())) for r, t in told] == [(r, "".join(t.split())) for r, t in tail]
    return tail if same else told


TestLaws = Laws.TestCase
TestLaws.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
