"""The same laws for clients that run tools themselves, and for clients that send only their newest message."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from claude_worker.history import Hints, Node, Run, classify
from claude_worker.openai.errors import ApiError
from claude_worker.openai.request import CallFunction, CallPart, ChatRequest, Message
from claude_worker.prefixes import EMPTY, extend
from worker.test_history_laws import History, Laws, echoed, message


class ToolLaws(Laws):
    """Clients that run tools themselves, and clients that send only their newest message, on the same conversation."""

    def __init__(self) -> None:
        super().__init__()
        self.parked: list[tuple[list[Message], tuple[str, ...], History]] = []
        """Histories that end with calls: as the client has them, the calls, and as the CLI has them."""

    def decide(self, messages: list[Message], *, sends: Literal["full", "last"] = "full", retry: bool = False) -> Run:
        decided = classify(ChatRequest(messages=messages), self.ledger.known, Hints(retry=retry, sends=sends))
        assert isinstance(decided, Run)
        return decided

    @rule(data=st.data(), count=st.integers(1, 3))
    def is_answered_with_calls(self, data: st.DataObject, count: int) -> None:
        branch = data.draw(st.sampled_from(self.branches))
        history = (*branch, ("user", f"prompt {next(self.words)}"))
        decided = self.ask(history)
        assert isinstance(decided, Run)
        uuid = self.send(decided, history)
        calls = tuple(f"call {next(self.words)}" for _ in range(count))
        message = calling(calls)
        place = self.cli.add(self.ledger.state.claude_session_id, "assistant", "".join(calls))
        turn = self.ledger.turns[uuid]
        node = Node(extend(turn.prefix, [message]), self.ledger.state.claude_session_id, place, calls)
        self.ledger.state.tip, self.ledger.state.clean = node.prefix, True
        self.ledger.write(self.ledger.end(turn, "done", node), self.ledger.encoded_state())
        turn.delivered = True
        self.parked.append(([*echoed(history, 0), message], calls, (*history, ("assistant", "".join(calls)))))

    @precondition(lambda self: self.parked)
    @rule(data=st.data(), also=st.booleans())
    def brings_results_in_any_order(self, data: st.DataObject, also: bool) -> None:
        messages, calls, history = data.draw(st.sampled_from(self.parked))
        order = data.draw(st.permutations(calls))
        results = [Message("tool", f"result of {c}", tool_call_id=c) for c in order]
        more = [Message("user", f"prompt {next(self.words)}")] if also else []
        decided = self.decide([*messages, *results, *more])
        assert decided.base == extend(EMPTY, messages), "they go to the message that calls for them"
        assert not decided.context
        told = (*(("tool", f"result of {c}") for c in sorted(calls)), *((m.role, m.text()) for m in more))
        uuid = self.send(decided, (*history, *told))
        text = f"answer {next(self.words)} to it"
        self.answer(uuid, text)
        again = self.decide([*messages, *sorted(results, key=lambda m: m.text()), *more])
        assert again.asked == decided.asked, "in whatever order they come"
        after = [*messages, *results, *more, message("assistant", text), message("user", "and on")]
        assert (self.decide(after).kind, self.decide(after).base) == ("continued", self.ledger.state.tip)

    @precondition(lambda self: self.parked)
    @rule(data=st.data(), fault=st.sampled_from(["unknown", "missing"]))
    def brings_results_that_do_not_fit(self, data: st.DataObject, fault: str) -> None:
        messages, calls, _ = data.draw(st.sampled_from(self.parked))
        given = [*calls, "another"] if fault == "unknown" else calls[1:]
        before = self.ledger.encoded_state()
        results = [Message("tool", "r", tool_call_id=c) for c in given]
        if results:
            with pytest.raises(ApiError):
                self.decide([*messages, *results])
        assert self.ledger.encoded_state() == before

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def speaks_instead_of_bringing_results(self, data: st.DataObject) -> None:
        messages, _, history = data.draw(st.sampled_from(self.parked))
        text = f"prompt {next(self.words)}"
        decided = self.decide([*messages, message("user", text)])
        assert decided.base == extend(EMPTY, messages)
        uuid = self.send(decided, (*history, ("user", text)))
        self.answer(uuid, f"answer {next(self.words)} to it")

    @precondition(lambda self: self.ledger.state.clean and self.ledger.state.claude_session_id)
    @rule()
    def sends_only_its_newest_message(self) -> None:
        """It goes on where the conversation is, whoever brought it there."""
        state = self.ledger.state
        text = f"prompt {next(self.words)}"
        node = self.ledger.nodes.get(state.tip)
        decided = self.decide([message("user", text)], sends="last")
        assert (decided.kind, decided.base, decided.exact) == ("continued", state.tip, False)
        there = self.cli.history(state.claude_session_id)
        uuid = self.send(decided, (*there, ("user", text)))
        answer = f"answer {next(self.words)} to it"
        self.answer(uuid, answer)
        if not (node and (node.calls or node.cut)) and all(role in ("user", "assistant") for role, _ in there):
            self.branches.append((*there, ("user", text), ("assistant", answer)))


def calling(calls: tuple[str, ...]) -> Message:
    return Message("assistant", None, tool_calls=[CallPart(c, "function", CallFunction("f", "{}")) for c in calls])


TestToolLaws = ToolLaws.TestCase
TestToolLaws.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
