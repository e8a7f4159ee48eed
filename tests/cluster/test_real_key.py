"""The model's real key, another one at each install, is nowhere but in its Secret and in the gateway.

Each search has a control: something that is there, and is found in the same way.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.guarding import GATEWAY, PYTHON, TOKEN_FILE, Guarded, Json, guarded
from cluster.host import processes
from cluster.node import bare, tools
from local.harness import chat, content

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

TALK = "told-nothing"
_SEARCH = """
import json, os, sys
words = {name: text.encode() for name, text in json.load(sys.stdin).items()}
own, found, read = os.getpid(), {}, 0
def look(place, data):
    for name, word in words.items():
        if word in data:
            found.setdefault(name, []).append(place)
for pid in filter(str.isdecimal, os.listdir("/proc")):
    if int(pid) == own:
        continue
    for file in ("environ", "cmdline", "maps", "mountinfo"):
        try:
            look(f"{file} of {pid}", open(f"/proc/{pid}/{file}", "rb").read())
        except OSError:
            pass
    try:
        maps, memory = open(f"/proc/{pid}/maps").read(), open(f"/proc/{pid}/mem", "rb", 0)
    except OSError:
        continue
    for line in maps.splitlines():
        span, rights, *_ = line.split()
        first, last = (int(x, 16) for x in span.split("-"))
        if not rights.startswith("rw") or last - first > 1 << 30:
            continue
        try:
            memory.seek(first)
            data = memory.read(last - first)
            read += len(data)
            look(f"memory of {pid}", data)
        except (OSError, ValueError, OverflowError):
            pass
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
    for file in files:
        place = os.path.join(folder, file)
        try:
            if os.path.isfile(place) and os.path.getsize(place) < 64 << 20:
                look(place, open(place, "rb").read())
        except OSError:
            pass
print(json.dumps({"found": found, "memory": read}))
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Guarded]:
    with guarded({"alpha": {}}, pool__size=3, pool__idleTimeout=0) as running:
        running.stack.watch.until_warm()
        yield running


@pytest.fixture(scope="module")
def worker(site: Guarded) -> Json:
    """The pod of a conversation that has used the model, and its tools."""
    with site.client("alpha", TALK) as client:
        content(chat(client, "::bash printenv; cat /proc/*/environ\n::say done"))
        assert site.real_key not in content(chat(client, "::bash cat /proc/*/environ /proc/*/cmdline\n::results"))
    return site.pod_of(TALK)


def forms(key: str) -> dict[str, str]:
    """As it is, and as Kubernetes and others would write it."""
    return {"plain": key, "base64": base64.b64encode(key.encode()).decode().rstrip("="), "hex": key.encode().hex()}


def test_inside_a_worker_it_is_in_no_process_and_no_file(site: Guarded, worker: Json) -> None:
    """Environments, arguments, memory as far as the worker's user may read it, and all files."""
    pod = worker["metadata"]["name"]
    token = site.cluster.kubectl("exec", pod, "--", "cat", TOKEN_FILE)
    controls = {"token": token, "hash": "TOKEN_SHA256=", "prompt": "::bash printenv;"}
    told = site.cluster.kubectl(
        "exec", "--stdin", pod, "--", PYTHON, "-c", _SEARCH, given=json.dumps(forms(site.real_key) | controls)
    )
    found: dict[str, list[str]] = json.loads(told)["found"]
    assert set(found) == set(controls), found
    assert any(place.endswith("/token") for place in found["token"])
    assert any(place.startswith("environ") for place in found["hash"])
    assert any(place.startswith("/session/") for place in found["prompt"])


def test_outside_it_is_in_its_secret_alone(site: Guarded, worker: Json) -> None:
    """All objects of the namespace as the API server has them, releases of Helm unpacked, and all logs."""
    cluster = site.cluster
    kinds = cluster.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    kinds = [kind for kind in kinds if not kind.endswith("metrics.k8s.io")]
    objects: list[Json] = cluster.get(",".join(kinds))["items"]
    assert {"Pod", "Event", "ConfigMap", "PersistentVolumeClaim", "ClaudeSession", "ClaudePool", "ClaudeTeam",
            "Secret", "StatefulSet"} <= {one["kind"] for one in objects}  # fmt: skip
    having = {
        (one["kind"], one["metadata"]["name"])
        for one in objects
        if any(form in json.dumps(one) + release(one) for form in forms(site.real_key).values())
    }
    assert having == {("Secret", "anthropic")}
    logs = {
        pod["metadata"]["name"]: cluster.kubectl("logs", pod["metadata"]["name"], "--all-containers")
        for pod in cluster.get("pods")["items"]
    }
    assert worker["metadata"]["name"] in logs
    assert '"session"' in logs[f"{GATEWAY}-0"]
    assert not [name for name, log in logs.items() if any(form in log for form in forms(site.real_key).values())]


def release(one: Json) -> str:
    """What Helm keeps of a release."""
    if one.get("type") != "helm.sh/release.v1":
        return ""
    text = gzip.decompress(base64.b64decode(base64.b64decode(one["data"]["release"]))).decode()
    assert "ClaudePool" in text
    return text


def test_the_ledger_does_not_have_it(site: Guarded, worker: Json) -> None:
    session = site.stack.watch.until_phase(TALK, "Ready").name
    program = f"""
import glob, sys
data = b"".join(open(f, "rb").read() for f in glob.glob("/var/lib/claude-gateway/*"))
assert {session!r}.encode() in data
print(sys.stdin.read().encode() in data)
"""
    command = ("exec", "--stdin", f"{GATEWAY}-0", "--", PYTHON, "-c", program)
    assert site.cluster.kubectl(*command, given=site.real_key).strip() == "False"


def test_the_node_has_it_for_the_gateway_alone(site: Guarded, worker: Json) -> None:
    """Environments and arguments of all processes of the pods, as the node sees them."""
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in site.cluster.get("pods")["items"]}
    seen = 0
    for name, uid in pods.items():
        for pid in processes(uid):
            for file in ("environ", "cmdline"):
                data = _read(Path(f"/proc/{pid}/{file}"))
                seen += len(data)
                assert site.real_key.encode() not in data, (name, file)
    assert seen > 1000


def test_a_bare_node_s_runtime_and_kubelet_have_it_for_the_gateway_alone(site: Guarded, worker: Json) -> None:
    """What `crictl inspect` would show, the kubelet's folders of each pod, the volumes, and the node's own logs.

    On another node nobody here can look; there is nothing in it that the bare one has not.
    """
    if not bare.runs():
        return
    run = bare.run_folder()
    session = ["--address", str(run / "containerd.sock"), "--namespace", "k8s.io"]
    ctr = [str(tools.path("ctr")), *session, "containers"]
    ours = _output(*ctr, "ls", "--quiet", f'labels."io.kubernetes.pod.namespace"=={site.cluster.namespace}').split()
    inspected = [_output(*ctr, "info", one) for one in ours]
    assert any("TOKEN_SHA256" in text for text in inspected)
    assert not [text for text in inspected if any(form in text for form in forms(site.real_key).values())]
    pods = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in site.cluster.get("pods")["items"]}
    # Secrets are on file systems of the node's own, which are seen through one of its processes.
    [kubelet] = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if b"/bin/kubelet\0" in _read(p)]
    kept = Path(f"/proc/{kubelet}/root", "var/lib/kubelet/pods")
    assert {pods[uid] for uid in pods if _holds(kept / uid, site.real_key)} == {f"{GATEWAY}-0"}
    volumes = [folder for folder in (run / "volumes").iterdir() if site.cluster.namespace in folder.name]
    assert volumes
    assert not [folder for folder in (*volumes, run / "log") if _holds(folder, site.real_key)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _holds(folder: Path, word: str) -> bool:
    """Whether a file under the folder has the word in it."""
    paths = (Path(top, name) for top, _, files in os.walk(folder) for name in files)
    return any(word.encode() in _read(path) for path in paths if path.is_file())
