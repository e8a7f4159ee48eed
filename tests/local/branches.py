"""Histories that clients have of one conversation, and when the model was told just them."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field

import httpx

from local.harness import Json, Model
from local.talker import Stream, Talker, Told, texts, told, told_of, tools

TOOLS = tools("a", "b")
FULL = {"x-claude-history": "full"}


@dataclass
class Branch:
    """A history that a client has: it may be gone on from.

    `primed`: so many of its messages were told as prose. `uncertain`: it holds an answer whose end nobody may have
    written down. `cut`: answers of which the client has seen the beginning only.
    """

    messages: list[Json] = field(default_factory=list)
    primed: int = 0
    uncertain: bool = False
    cut: frozenset[str] = frozenset()

    def copy(self, length: int | None = None) -> Branch:
        kept = copy.deepcopy(self.messages if length is None else self.messages[:length])
        return Branch(kept, min(self.primed, len(kept)), self.uncertain, self.cut)

    def after(self, messages: list[Json]) -> Branch:
        """The same client's history, with more messages."""
        return Branch(messages, self.primed, self.uncertain, self.cut)

    @property
    def open_calls(self) -> list[str]:
        return [c["id"] for c in self.messages[-1].get("tool_calls") or ()] if self.messages else []


def talker_of(client: httpx.Client) -> Talker:
    return Talker(client, FULL, model="claude-code-tools", tools=TOOLS)


class Streaming:
    """A stream, read until some words come, and then left."""

    def __init__(self, client: httpx.Client, sent: list[Json], until: str) -> None:
        self._reading = talker_of(client).reading(*sent, until=until)

    def __enter__(self) -> Stream:
        return self._reading.__enter__()

    def __exit__(self, *_: object) -> None:
        self._reading.__exit__(None, None, None)


def arranged(found: Told) -> Told:
    """Results of one message's calls in one order."""
    out: Told = []
    for entry in found:
        out.append(entry)
        start = len(out)
        while start > 0 and out[start - 1][0] == "result":
            start -= 1
        out[start:] = sorted(out[start:])
    return out


def same(found: Told, wanted: Told, cut: frozenset[str]) -> bool:
    """Equal; of an answer that was cut off the model may know more."""
    if len(found) != len(wanted):
        return False
    for one, other in zip(found, wanted, strict=True):
        seen = "".join(other[1].split())
        longer = other[0] == "assistant" == one[0] and seen in cut and "".join(one[1].split()).startswith(seen)
        if one != other and not longer:
            return False
    return True


def check(found: Told, sent: list[Json], branch: Branch) -> None:
    """The model was told what the client sent: as messages, or what comes before the primed turn as prose."""
    exact = arranged(told_of(sent[branch.primed :]))
    split = len(found) - len(exact)
    assert same(arranged(found)[split:], exact, branch.cut), f"told {found}, not {exact}"
    prose = " ".join(part for entry in found[:split] for part in entry[1:])
    assert branch.primed or not prose, f"the model was told more: {prose}"
    position = 0
    for _, *parts in arranged(told_of(sent[: branch.primed])):
        for words in parts:
            position = prose.find(words, position)
            assert position >= 0, f"{words!r} is missing in {prose!r}"


class Judged:
    """Turns of one conversation, each judged by the model's log. `client` is to be set."""

    client: httpx.Client

    def __init__(self, model: Model) -> None:
        self.model = model
        self.heard: Counter[str] = Counter()
        """How often `X-Claude-History` said what."""
        self.allowed: Counter[str] = Counter()
        """How often each prompt may have reached the model as the end of what it was told."""
        self.start = model.mark()

    def post(self, messages: list[Json], headers: dict[str, str] | None = None) -> httpx.Response:
        return talker_of(self.client).post(*messages, headers=headers)

    def turn(self, branch: Branch, *new: Json, rewritten: bool = False) -> Branch:
        """One whole turn from a branch; returns the branch that it makes."""
        mark = self.model.mark()
        sent = [*branch.messages, *new]
        self.allow(sent)
        response = self.post(sent)
        assert response.status_code == 200, response.text
        return self.judge(branch, sent, response, mark, rewritten=rewritten)

    def allow(self, sent: list[Json]) -> None:
        self.allowed[texts(told_of(sent))[-1]] += 1

    def judge(
        self, branch: Branch, sent: list[Json], response: httpx.Response, mark: int, *, rewritten: bool
    ) -> Branch:
        how = response.headers["x-claude-history"]
        self.heard[how] += 1
        done = branch.after([*sent, response.json()["choices"][0]["message"]])
        if how in ("attached", "replayed"):
            return done
        if how == "primed":
            again = branch.primed > 0 and branch.primed == len(branch.messages)
            assert rewritten or again or branch.uncertain, "only a history that is not known is primed"
            done.primed, done.uncertain = len(branch.messages), False
        check(self.told_for(sent, mark), sent, done)
        return done

    def told_for(self, sent: list[Json], mark: int) -> Told:
        """What the model was told first for a request: others may run beside it."""
        last = told_of(sent)[-1]
        for entry in self.model.log(after=mark):
            found = told(entry)
            if found[-1] == last or (last[0] == "result" and found[-1][:2] in told_of(sent)):
                return found
            if last[0] == "result" and found[-1][0] == "result":
                return found
        raise AssertionError(f"the model was not asked {last}")

    def check_that_no_prompt_ran_twice(self) -> None:
        ran: Counter[str] = Counter()
        for entry in self.model.log(after=self.start):
            found = told(entry)
            if found and found[-1][0] == "user":
                ran[found[-1][1]] += 1
        more = {prompt: count for prompt, count in ran.items() if count > self.allowed[prompt]}
        assert more == {}
