"""The first thing that a new user does, whole: install, ask by curl, SDK and opencode, leave, come back, uninstall."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from cluster.stack import RELEASE, Stack, install, installed, reasons
from local.clients.opencode import Opencode
from local.harness import chat, content

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installed(pool__idleTimeout="5s") as running:
        running.watch.until_warm()
        yield running


def test_curl(stack: Stack) -> None:
    body = {"model": "claude-code", "messages": [{"role": "user", "content": "::say hello curl"}]}
    command = ["curl", "--silent", "--show-error", "--fail", f"{stack.url}/v1/chat/completions"]
    command += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "hello curl"


def test_the_openai_sdk(stack: Stack) -> None:
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", timeout=120)
    chunks = client.chat.completions.create(
        model="claude-code:by-sdk", messages=[{"role": "user", "content": "::say hello sdk"}], stream=True
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == "hello sdk"
    session = stack.watch.session("by-sdk")
    assert session is not None
    assert next(model.id for model in client.models.list()) == "claude-code"
    client.close()


def test_opencode(stack: Stack, tmp_path: Path) -> None:
    user = Opencode(tmp_path, stack.url)
    before = stack.mark()
    assert "written" in user.run("::bash echo one > made.txt\n::say written")
    assert "one" in user.run("-c", "::bash cat made.txt\n::recall")
    asked = stack.log(before)
    last = asked[-1]["prompts"]
    assert [prompt.strip('"').split("\\n")[0].split("\n")[0] for prompt in last][-2:] == [
        "::bash echo one > made.txt", "::bash cat made.txt",
    ]  # fmt: skip


def test_a_conversation_is_left_and_comes_back(stack: Stack) -> None:
    """Edits a file, is idle, is suspended (pod gone, volume kept), is called again, remembers, finds its file."""
    cluster, watch = stack.cluster, stack.watch
    with stack.client("story") as client:
        content(chat(client, "::write notes.txt the first line\n::say written"))
        session = watch.until_phase("story", "Ready")
        pod, claim = session.status.pod_name, session.status.volume_claim_name
        assert pod in [p.name for p in watch.pods.items()]

        watch.until_phase("story", "Suspended")
        watch.until("its pod is gone", lambda: watch.pods.get(pod) is None)
        assert watch.claims.get(claim) is not None
        shown = cluster.kubectl("get", "claudesessions", session.name)
        header, row = (line.split() for line in shown.strip().splitlines())
        assert header == ["NAME", "CONVERSATION", "POOL", "PHASE", "POD", "LAST-ACTIVE", "TURNS", "COST", "AGE"]
        assert row[1:4] == ["story", "default", "Suspended"]
        assert row[-3] == "1"

        recalled = json.loads(content(chat(client, "::recall")))
        assert recalled == ["::write notes.txt the first line\n::say written"]
        content(chat(client, "::edit notes.txt first=>second\n::say edited"))
    resumed = watch.until_phase("story", "Ready")
    file = cluster.kubectl("exec", resumed.status.pod_name, "--", "cat", "/session/workspace/notes.txt")
    assert file == "the second line"
    assert resumed.status.pod_name != pod
    assert resumed.status.volume_claim_name == claim
    found = reasons(stack, session.name, ["Ready", "Suspended", "Started", "Resumed"])
    assert "Claimed" in found or found.count("Started") == 2
    described = cluster.kubectl("describe", "claudesession", session.name)
    assert "Resumed on volume" in described
    assert "WorkerReady" in described


def test_kubectl_does_what_a_person_would_expect(stack: Stack) -> None:
    cluster, watch = stack.cluster, stack.watch
    stack.pool(idleTimeout="0", size=3)
    try:
        with stack.client("person") as client:
            content(chat(client, "::say one"))
            name = watch.until_phase("person", "Ready").name
            cluster.kubectl("wait", "--for=condition=Ready", f"claudesession/{name}", "--timeout=30s")

            cluster.patch("claudesession", name, {"spec": {"desiredState": "Suspended"}})
            watch.until_phase("person", "Suspended")
            cluster.patch("claudesession", name, {"spec": {"desiredState": "Running"}})
            watch.until_phase("person", "Ready")

            cluster.kubectl("scale", "claudepool", "default", "--replicas=0")
            watch.until("no pods", lambda: not watch.pods.items())
            watch.until_phase("person", "Suspended")
            cluster.kubectl("scale", "claudepool", "default", "--replicas=2")
            content(chat(client, "::say two"))

        claim = watch.until_phase("person", "Ready").status.volume_claim_name
        cluster.kubectl("delete", "claudesession", name, "--wait=false")
        watch.until("all gone", lambda: watch.session("person") is None and watch.claims.get(claim) is None)
        watch.until("its pod, too", lambda: not any(p.name.startswith(name) for p in watch.pods.items()))
    finally:
        stack.pool(idleTimeout="5s", size=3)


def test_the_charts_own_test(stack: Stack) -> None:
    assert "Phase:" in stack.cluster.helm("test", RELEASE, "--timeout=2m")


def test_an_upgrade_with_live_conversations_loses_nothing(stack: Stack) -> None:
    """A new revision of everything, while a turn runs: it ends well, idle workers are replaced, memory is kept."""
    cluster, watch = stack.cluster, stack.watch
    key = cluster.get("secret", f"{RELEASE}-worker-key")["data"]["key"]
    with stack.client("upgraded") as client:
        content(chat(client, "::say before"))
        lines = client.stream(
            "POST", "/v1/chat/completions",
            json={"stream": True, "messages": [{"role": "user", "content": "::say begun\n::sleep 25\n::say ended"}]},
        )  # fmt: skip
        with lines as answer:
            stream = answer.iter_lines()
            assert next(line for line in stream if "begun" in line)
            busy = watch.until_phase("upgraded", "Ready").status.pod_name
            label = "pool.podTemplate.metadata.labels.revision=two"
            with ThreadPoolExecutor(1) as pool:
                reading = pool.submit(_read, stream)
                install(cluster, f"--set-string={label}", "--set=router.podAnnotations.revision=two",
                        "--set=operator.podAnnotations.revision=two", pool__idleTimeout="5s")  # fmt: skip
                rest, ended = reading.result()
        gone = [c.at for c in watch.changes if c.name == busy and (c.new is None or c.new.leaving)]
        # What a client reads may have been said a moment earlier, and its worker have been ended since.
        assert all(at > ended - 1.0 for at in gone), "a busy worker is left alone"
        assert "ended" in rest
        assert rest.rstrip().endswith("[DONE]")
        assert cluster.get("secret", f"{RELEASE}-worker-key")["data"]["key"] == key
        watch.until("workers of the new revision only", lambda: all(
            p.metadata.labels.get("revision") == "two" for p in watch.pods.items()))  # fmt: skip
        recalled = json.loads(content(chat(client, "::recall")))
    assert recalled == ["::say before", "::say begun\n::sleep 25\n::say ended"]


def _read(lines: Iterator[str]) -> tuple[str, float]:
    """A stream to its end, and when its last words came."""
    rest, ended = "", 0.0
    for line in lines:
        rest += line
        ended = ended or ("ended" in line and time.monotonic()) or 0.0
    return rest, ended


def test_uninstalled_and_installed_again(stack: Stack) -> None:
    """Nothing of ours runs any more, and every conversation is still there for the next release."""
    cluster, watch = stack.cluster, stack.watch
    with stack.client("kept") as client:
        content(chat(client, "::say remember this"))
    session = watch.until_phase("kept", "Ready", "Suspended")
    claim = session.status.volume_claim_name
    cluster.helm("uninstall", RELEASE, "--wait", "--timeout=3m")
    watch.until("no workers", lambda: not watch.pods.items())
    kept, volume = watch.sessions.get(session.name), watch.claims.get(claim)
    assert kept is not None
    assert volume is not None
    assert not kept.leaving
    assert not volume.leaving
    install(cluster, pool__idleTimeout="5s")
    stack.url = cluster.url(RELEASE)
    with stack.client("kept") as client:
        assert json.loads(content(chat(client, "::recall"))) == ["::say remember this"]
