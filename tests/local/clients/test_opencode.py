"""opencode on the documented configuration, with each of the three models."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from claude_router.settings import RouterSettings
from local.clients.asked import Asked, calls, client_tools, dialogue, own_tools, told
from local.clients.opencode import ADDRESS, Opencode, Screen, documented
from local.harness import Json
from local.server import Server

_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
MODELS = ("claude-code", "claude-code-tools", "claude-code-client")


@pytest.fixture(scope="module")
def screen(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    """One opencode, in which each test has a session of its own."""
    with Opencode(tmp_path_factory.mktemp("screen"), server.url).serve() as running:
        yield running


def quoted(text: str) -> str:
    """A prompt as `opencode run` sends it when it has blanks."""
    return f'"{text}"'


def workspaces(server: Server) -> list[Path]:
    with server.client() as client:
        found: list[Json] = client.get("/conversations", params={"limit": 1000}).json()["data"]
    return [Path(conversation["workspace"]) for conversation in found]


def test_the_documented_configuration_lists_the_three_models() -> None:
    models = documented(ADDRESS)["provider"]["claude-code"]["models"]
    assert tuple(models) == MODELS
    assert set(models) <= set(RouterSettings().model_ids)


@pytest.mark.parametrize("name", MODELS)
def test_prompt_and_continue_and_a_title_that_stays_apart(
    server: Server, asked: Asked, tmp_path: Path, name: str
) -> None:
    opencode = Opencode(tmp_path, server.url, name)
    # So long that the title has come by then: `opencode run` ends with the turn, and gives the title up.
    prompt = "::sleep 5\n::say grand hello"
    assert "grand hello" in opencode.run(prompt)
    assert "second answer" in opencode.run("-c", "::say second answer")
    assert asked.side_tasks, "opencode asked for a title, and got it from the model"
    assert all(entry["tools"] == [] for entry in asked.side_tasks), "an aside has no tools"
    first, second = quoted(prompt), quoted("::say second answer")
    assert [entry["prompts"] for entry in asked.turns] == [[first], [first, second]]
    assert [bool(own_tools(entry)) for entry in asked.turns] == [name != "claude-code-client"] * 2
    assert [{"bash", "edit"} <= client_tools(entry) for entry in asked.turns] == [name != "claude-code"] * 2


def test_on_claude_code_it_works_in_the_workspace_on_the_server(server: Server, asked: Asked, tmp_path: Path) -> None:
    opencode = Opencode(tmp_path, server.url)
    prompt = (
        "::write poem.txt roses are red\n::edit poem.txt red=>blue\n::bash wc -w < poem.txt > count.txt\n::say written"
    )
    assert "written" in opencode.run(prompt)
    assert asked.turns[-1]["prompts"] == [quoted(prompt)]
    poems = [poem for folder in workspaces(server) if (poem := folder / "poem.txt").exists()]
    assert [poem.read_text() for poem in poems] == ["roses are blue"]
    assert (poems[0].parent / "count.txt").read_text().strip() == "3"
    assert list(opencode.project.iterdir()) == []


def test_on_claude_code_client_it_edits_the_clients_files(server: Server, asked: Asked, tmp_path: Path) -> None:
    opencode = Opencode(tmp_path, server.url, "claude-code-client")
    poem = opencode.project / "ode.txt"
    write = ("write", {"filePath": str(poem), "content": "roses are red\n"})
    count = ("bash", {"command": "echo on the client", "description": "says where it is"})
    edit = ("edit", {"filePath": str(poem), "oldString": "red", "newString": "blue"})
    script = ("::say first", calls(write, count), "::say then", calls(edit), "::results", "::say all done")
    assert "all done" in opencode.run(prompt="\n".join(script))
    assert poem.read_text() == "roses are blue\n"
    results = asked.turns[-1]
    assert [entry["prompts"] for entry in asked.turns] == [results["prompts"]] * 3, "one prompt, three requests"
    assert all(own_tools(entry) == [] for entry in asked.turns)
    assert "said" in opencode.run("-c", prompt="::say said")
    assert [role for role, _ in told(asked.turns[-1])][-2:] == ["assistant", "user"]
    assert "on the client" in asked.last[-2][1], "the model told what its tools had answered"
    assert not [folder for folder in workspaces(server) if (folder / "ode.txt").exists()]


def test_on_claude_code_tools_both_hands_work(server: Server, tmp_path: Path) -> None:
    opencode = Opencode(tmp_path, server.url, "claude-code-tools")
    here = ("bash", {"command": "echo client > hand.txt", "description": "here"})
    script = ("::bash echo server > hand.txt", calls(here), "::bash echo again >> hand.txt", "::say both done")
    assert "both done" in opencode.run(prompt="\n".join(script))
    assert (opencode.project / "hand.txt").read_text() == "client\n"
    hands = [hand for folder in workspaces(server) if (hand := folder / "hand.txt").exists()]
    assert [hand.read_text() for hand in hands] == ["server\nagain\n"]


@pytest.mark.parametrize("name", ["claude-code", "claude-code-client"])
def test_undo_redo_and_another_prompt_instead(screen: Screen, asked: Asked, name: str) -> None:
    session = screen.session(name)
    session.say("::think hm\n::say one")
    session.say("::say two")
    session.undo(1)
    assert session.say("::say other") == "other"
    assert asked.last == dialogue("::think hm\n::say one", "one", "::say other")
    session.undo(0)
    session.redo()
    assert session.say("::say three") == "three"
    assert asked.last == dialogue("::think hm\n::say one", "one", "::say other", "other", "::say three")
    session.undo(0)
    assert session.say("::say anew") == "anew"
    assert asked.last == dialogue("::say anew")


def test_undo_and_the_same_prompt_again_asks_the_model_again(screen: Screen, asked: Asked) -> None:
    session = screen.session("claude-code")
    session.say("::say one")
    session.say("::say two")
    session.undo(1)
    assert session.say("::say two") == "two"
    assert len(asked.with_prompt("::say two")) == 2
    assert session.say("::say three") == "three"
    assert asked.last == dialogue("::say one", "one", "::say two", "two", "::say three")


def test_compaction_begins_anew_from_the_summary(screen: Screen, asked: Asked) -> None:
    session = screen.session("claude-code-client")
    session.say("::say one")
    session.say("::say two")
    session.compact()
    summary = asked.side_tasks[-1]
    assert "context summarization" in summary["system"]
    assert summary["tools"] == [], "the summary is made beside the conversation"
    assert session.say("::say after") == "after"
    texts = "\n".join(text for _, text in asked.last)
    assert "What did we do so far?" in texts
    assert "::say one" not in texts
    before = asked.last
    assert session.say("::say later") == "later"
    assert asked.last == [*before, ("assistant", "after"), ("user", "::say later")]


@pytest.mark.parametrize("name", ["claude-code", "claude-code-client"])
def test_an_answer_that_was_interrupted_stays_as_far_as_it_came(screen: Screen, asked: Asked, name: str) -> None:
    cut = "::say some of it\n::sleep 60\n::say never"
    session = screen.session(name)
    session.say("::say before")
    session.interrupt(cut, once="some of it")
    assert session.say("::say after") == "after"
    assert asked.last == dialogue("::say before", "before", cut, "some of it", "::say after")
    assert session.say("::say later") == "later"
    assert asked.last[-3:] == dialogue("::say after", "after", "::say later")
    assert len(asked.with_prompt(cut)) == 1, "it did not run twice"


def test_a_prompt_that_was_interrupted_before_its_answer_stays(screen: Screen, asked: Asked) -> None:
    cut = "::think to be seen\n::sleep 60\n::say never"
    session = screen.session("claude-code")
    session.say("::say before")
    session.interrupt(cut, once="to be seen")
    assert session.say("::say after") == "after"
    assert session.say("::say later") == "later"
    assert asked.turns[-1]["prompts"] == ["::say before", cut, "::say after", "::say later"]
    assert len(asked.with_prompt(cut)) == 1, "it did not run twice"


def test_a_tool_that_was_interrupted_and_a_prompt_after_it(screen: Screen, asked: Asked) -> None:
    cut = "\n".join((calls(("bash", {"command": "sleep 60", "description": "long"})), "::say never"))
    session = screen.session("claude-code-client")
    session.say("::say before")
    session.interrupt(cut, once="running")
    assert session.say("::results") != "[]"
    assert session.say("::say later") == "later"
    assert asked.turns[-1]["prompts"] == ["::say before", cut, "::results", "::say later"]
    assert "aborted" in asked.last[-2][1], "what opencode says of a tool that it stopped"


def test_subagents_are_conversations_of_their_own(screen: Screen, asked: Asked) -> None:
    def task(name: str, prompt: str) -> tuple[str, Json]:
        return "task", {"description": name, "prompt": prompt, "subagent_type": "general"}

    first = calls(("bash", {"command": "echo from below", "description": "x"})) + "\n::results"
    script = "\n".join((calls(task("a", first), task("b", "::say sub b")), "::results"))
    session = screen.session("claude-code-client")
    answer = session.say(script)
    assert "from below" in answer
    assert "sub b" in answer
    assert session.say("::say afterwards") == "afterwards"
    assert asked.last == dialogue(script, answer, "::say afterwards")
    for prompt in (first, "::say sub b"):
        assert {tuple(entry["prompts"]) for entry in asked.with_prompt(prompt)} == {(prompt,)}


def test_an_image_reaches_the_model(screen: Screen, asked: Asked) -> None:
    image = {"type": "file", "mime": "image/png", "filename": "dot.png", "url": _PIXEL}
    session = screen.session("claude-code")
    assert session.say("::say seen", image) == "seen"
    assert session.say("::say still") == "still"
    assert [turn["images"] for turn in asked.turns] == [1, 1]


@pytest.mark.parametrize("name", ["claude-code", "claude-code-client"])
def test_two_projects_at_once_do_not_mix(server: Server, asked: Asked, tmp_path: Path, name: str) -> None:
    users = {user: Opencode(tmp_path / user, server.url, name) for user in ("ann", "bob")}

    def talk(user: str) -> None:
        note = calls(("bash", {"command": f"echo {user} >> note.txt", "description": "x"}))
        own = f"::bash echo {user} >> note.txt"
        step = note if name == "claude-code-client" else own
        assert f"{user} one" in users[user].run(prompt=f"{step}\n::say {user} one")
        assert f"{user} two" in users[user].run("-c", prompt=f"{step}\n::say {user} two")

    with ThreadPoolExecutor() as threads:
        list(threads.map(talk, users))
    for user, opencode in users.items():
        prompts = asked_by(asked, user)
        assert all(user in prompt for prompt in prompts)
        assert len(prompts) == 2
        if name == "claude-code-client":
            assert (opencode.project / "note.txt").read_text() == f"{user}\n" * 2


def asked_by(asked: Asked, user: str) -> list[str]:
    """The prompts that the last of this user's requests held."""
    prompts: list[str] = [e["prompts"] for e in asked.turns if f"::say {user} " in e["prompts"][-1]][-1]
    return prompts
