"""A long random run: several clients on one conversation, and a worker that dies and is drained in between.

The scripted model is the judge. `HISTORY_RUN_SEED` repeats a run, `HISTORY_RUN_SECONDS` sets how long it takes.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from local.branches import Branch, Judged, Streaming, check
from local.harness import Json, Model, Running, cli_pid, eventually
from local.talker import PATH, assistant, calls, result, said, user

SECONDS = float(os.environ.get("HISTORY_RUN_SECONDS", "60"))
RETRY = {"x-stainless-retry-count": "1"}
Launch = Callable[..., Running]


class Run(Judged):
    """What clients do."""

    def __init__(self, launch: Launch, model: Model, seed: int) -> None:
        super().__init__(model)
        self.random = random.Random(seed)
        self.launch = launch
        self.steps: Counter[str] = Counter()
        self.branches = [Branch()]
        self.plain: list[tuple[list[Json], str]] = []
        """Requests that are done, and the answers to them."""
        self._number = 0
        self._begin()

    def _begin(self) -> None:
        self.worker = self.launch(DETACH_MS="1000")
        self.client = self.worker.client()

    def word(self) -> str:
        self._number += 1
        return f"w{self._number}"

    def prompt(self) -> str:
        """A prompt of its own, and what it makes the model do."""
        word = self.word()
        return self.random.choice([
            f"::say {word} answered",
            f"::say {word} answered",
            f"::think about {word}\n::say {word} answered",
            f"::say {word} before\n::bash true\n::say {word} after",
            f"::sleep 0.2\n::say {word} late",
            f"::say {word} calls\n{calls('a', 'b')}\n::results",
        ])  # fmt: skip

    def keep(self, branch: Branch) -> None:
        self.branches.append(branch)
        if len(self.branches) > 12:
            self.branches.pop(self.random.randrange(1, len(self.branches)))

    def pick(self, *, parked: bool | None = False) -> Branch:
        fitting = [b for b in self.branches if parked is None or bool(b.open_calls) == parked]
        # The newest more often: that is what clients do.
        return fitting[-1] if self.random.random() < 0.5 else self.random.choice(fitting)

    # -- steps -------------------------------------------------------------------------------------------------------

    def says(self) -> None:
        branch = self.pick()
        sent = user(self.prompt())
        done = self.turn(branch, sent)
        if not done.open_calls and not done.uncertain:
            self.plain.append((done.messages[:-1], done.messages[-1]["content"]))
        self.keep(done)

    def edits(self) -> None:
        branch = self.pick(parked=None)
        ends = [
            0,
            *(i + 1 for i, m in enumerate(branch.messages) if m["role"] == "assistant" and not m.get("tool_calls")),
        ]
        length = self.random.choice(ends)
        if branch.primed and length < branch.primed:
            return
        self.keep(self.turn(branch.copy(length), user(self.prompt())))

    def regenerates(self) -> None:
        branch = self.pick(parked=None)
        if branch.messages and branch.messages[-2]["role"] == "user" and len(branch.messages) > branch.primed + 1:
            cut = branch.copy(len(branch.messages) - 2)
            self.keep(self.turn(cut, branch.messages[-2]))

    def retries(self) -> None:
        if self.plain:
            sent, text = self.plain[-1]
            mark = self.model.mark()
            answer = self.post(sent, RETRY)
            assert (said(answer), answer.headers["x-claude-history"]) == (text, "replayed")
            assert self.model.log(after=mark) == []

    def brings_results(self) -> None:
        if any(b.open_calls for b in self.branches):
            branch = self.pick(parked=True)
            given = [result(i, f"{self.word()} of {i}") for i in branch.open_calls]
            self.random.shuffle(given)
            more = [user(f"::say {self.word()} too")] if self.random.random() < 0.3 else []
            self.keep(self.turn(branch, *given, *more))

    def speaks_instead_of_results(self) -> None:
        if any(b.open_calls for b in self.branches):
            branch = self.pick(parked=True)
            mark = self.model.mark()
            sent = [*branch.messages, user(f"::say {self.word()} instead")]
            self.allow(sent)
            response = self.post(sent)
            found = [t for t in self.told_for(sent, mark) if not (t[0] == "result" and t[1] in branch.open_calls)]
            self.heard[response.headers["x-claude-history"]] += 1
            assert response.headers["x-claude-history"] != "primed" or branch.uncertain
            if response.headers["x-claude-history"] != "primed":
                check(found, sent, branch)

    def leaves(self) -> None:
        """In the middle of an answer; comes back for it, or goes on from what it saw."""
        branch, sent, seen = self.begins_to_read()
        if self.random.random() < 0.5:
            response = self.post(sent)
            assert response.status_code == 200, response.text
            if response.headers["x-claude-history"] not in ("attached", "replayed"):
                self.allow(sent)
            done = Branch(
                [*sent, response.json()["choices"][0]["message"]], branch.primed, branch.uncertain, branch.cut
            )
            assert done.messages[-1]["content"].split()[-1] == "end"
            self.keep(done)
        else:
            self.keep(self.turn(self.gone_on(branch, sent, seen), user(self.prompt())))

    def begins_to_read(self) -> tuple[Branch, list[Json], str]:
        branch = self.pick()
        word = self.word()
        sent = [*branch.messages, user(f"::say {word} one two three\n::sleep 0.7\n::say {word} end")]
        self.allow(sent)
        with Streaming(self.client, sent, self.random.choice(["one", "two", "three"])) as stream:
            return branch, sent, stream.said

    def gone_on(self, branch: Branch, sent: list[Json], seen: str) -> Branch:
        after = branch.after([*sent, assistant(seen)])
        after.cut |= {"".join(seen.split())}
        return after

    def rewrites(self) -> None:
        branch = self.pick(parked=None)
        kept = branch.copy(0 if branch.primed or branch.open_calls else self.random.choice([0, len(branch.messages)]))
        kept.messages += [user(f"{self.word()} rewritten"), assistant(f"{self.word()} never said")]
        self.keep(self.turn(kept, user(f"::say {self.word()} after it"), rewritten=True))

    def at_once(self) -> None:
        """Two clients on two branches at the same time."""
        branches = [self.pick() for _ in range(2)]
        prompts = [f"::sleep 0.2\n::say {self.word()} beside" for _ in branches]
        done: list[Branch] = []
        threads = [
            threading.Thread(target=lambda b=b, p=p: done.append(self.turn(b, user(p))))
            for b, p in zip(branches, prompts, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 2
        for branch in done:
            self.keep(branch)

    def says_only_its_newest_message(self) -> None:
        """After a whole turn: then it is certain where the conversation is."""
        branch = self.turn(self.pick(), user(f"::say {self.word()} whole"))
        mark = self.model.mark()
        sent = [*branch.messages, user(f"::say {self.word()} only")]
        self.allow(sent)
        response = self.client.post(PATH, json={"messages": sent[-1:]}, headers={"x-claude-history": "last"})
        assert response.headers["x-claude-history"] == "continued"
        self.keep(self.judge(branch, sent, response, mark, rewritten=False))

    def is_drained(self) -> None:
        if self.random.random() < 0.5:
            self.client.post("/drain", params={"force": "true", "grace_ms": "5000"})
        self.client.close()
        self.worker.stop()
        self._begin()

    def is_killed_in_a_turn(self) -> None:
        branch = self.pick()
        word = self.word()
        sent = [*branch.messages, user(f"::say {word} one two three\n::sleep 3\n::say {word} end")]
        self.allow(sent)
        with Streaming(self.client, sent, self.random.choice(["one", "two", "three"])) as stream:
            seen = stream.said
            self.kill()
        mark = self.model.mark()
        assert self.post(sent, RETRY).status_code == 409
        assert self.model.log(after=mark) == []
        if self.random.random() < 0.5:
            gone_on = self.gone_on(branch, sent, seen)
            gone_on.uncertain = True
            self.keep(self.turn(gone_on, user(self.prompt())))

    def is_killed_after_an_answer(self) -> None:
        """Perhaps before it has written that down, perhaps after."""
        branch = self.pick()
        sent = [*branch.messages, user(f"::say {self.word()} then dies")]
        self.allow(sent)
        done = branch.after(sent)
        with Streaming(self.client, sent, "[DONE]") as stream:
            done.messages.append(assistant(stream.said))
            self.kill()
        done.uncertain = True
        self.keep(done)

    def kill(self) -> None:
        cli = cli_pid(self.worker.process.pid)
        os.kill(self.worker.process.pid, signal.SIGKILL)
        self.worker.stop()
        self.client.close()
        if self.random.random() < 0.5:
            eventually(lambda: not os.path.exists(f"/proc/{cli}"))
        self._begin()

    # -- the whole ---------------------------------------------------------------------------------------------------

    def go(self, seconds: float) -> None:
        often = [self.says] * 6 + [self.brings_results] * 3 + [self.edits, self.regenerates, self.leaves] * 2
        seldom = [
            self.retries,
            self.speaks_instead_of_results,
            self.rewrites,
            self.at_once,
            self.says_only_its_newest_message,
            self.is_drained,
            self.is_killed_in_a_turn,
            self.is_killed_after_an_answer,
        ]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            step = self.random.choice([*often, *seldom])
            self.steps[step.__name__] += 1
            print(step.__name__, flush=True)
            step()
            self.plain = self.plain[-1:]
        self.check_that_no_prompt_ran_twice()


@pytest.mark.timeout(300)
def test_whatever_clients_do_the_model_is_told_what_they_sent(launch: Launch, model: Model) -> None:
    seed = int(os.environ.get("HISTORY_RUN_SEED", random.randrange(10**6)))
    print(f"HISTORY_RUN_SEED={seed}", flush=True)
    run = Run(launch, model, seed)
    run.go(SECONDS)
    run.client.close()
    print(dict(run.steps), dict(run.heard))
