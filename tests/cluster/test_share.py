"""README.md, "On Kubernetes" and "Share it with your team": its commands, as they stand there, one after the other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.chart import ROOT
from cluster.node import tools
from cluster.stack import RELEASE, Cluster, model_manifest, namespace, values
from cluster.watching import PATIENCE

TEXT = (ROOT / "README.md").read_text()
ADDRESS = "localhost:3000"


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```sh\n(.+?)```", TEXT, flags=re.DOTALL)
    assert found is not None, f"README.md has no commands marked {name}"
    return found[1]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with namespace() as cluster:
        cluster.kubectl("apply", "--filename=-", given=model_manifest(with_secret=False))
        cluster.kubectl("rollout", "status", "deployment/model", f"--timeout={PATIENCE:g}s")
        yield cluster


def programs(cluster: Cluster, folder: Path) -> dict[str, str]:
    """An environment in which all three commands are for that namespace, and helm takes the images of this tree."""
    options = [f"--kubeconfig={cluster.kubeconfig}", f"--namespace={cluster.namespace}"]
    ours = [*(v for v in values() if not v.startswith("--set=anthropic.existingSecret")), "--set=image.registry="]
    command = [sys.executable, "-m", "claude_router"]
    for name, run in {
        "kubectl": [str(tools.find("kubectl")), *options, '"$@"'],
        "helm": [str(tools.find("helm")), '"$@"', *options, *ours],
        "claude-code-api": ["env", f"KUBECONFIG={cluster.kubeconfig}", *command, '"$@"', options[1]],
    }.items():
        words = " ".join(word if word == '"$@"' else shlex.quote(word) for word in run)
        (folder / name).write_text(f"#!/bin/sh\nexec {words}\n")
        (folder / name).chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "REGISTRY": "registry.example.com"}


def run(text: str, env: dict[str, str]) -> str:
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_newcomer_installs_it_and_shares_it_with_a_team(cluster: Cluster, tmp_path: Path) -> None:
    env = programs(cluster, tmp_path)
    install, forward = block("install").rsplit("\n", 2)[:2]
    run(install.replace("sk-ant-…", "sk-ant-scripted"), env)
    assert forward == f"kubectl port-forward service/{RELEASE} 3000:80"

    share = block("share")
    assert len(share.splitlines()) <= 10
    with cluster.forwarded(f"service/{RELEASE}", 80) as address:
        assert httpx.get(f"{address}/v1/models", timeout=30).status_code == 200, "without a team it is open"
    upgrade, rest = re.split(r"(?=^KEY=)", share, maxsplit=1, flags=re.MULTILINE)
    run(upgrade, env)
    with cluster.forwarded(f"service/{RELEASE}", 80) as address:
        assert httpx.get(f"{address}/v1/models", timeout=30).status_code == 401, "with a team it needs a key"
        key_kept = rest.replace(ADDRESS, address.removeprefix("http://")) + 'printf "\\nKEY=%s" "$KEY"\n'
        printed = run(key_kept, env)
        key = re.search(r"^KEY=(cca_\w{8}_\S{43})$", printed, flags=re.MULTILINE)
        assert key is not None
        assert "You said: 'Hello! Where are you?'" in printed
        assert re.search(r'"by":"session","data":\[\{"key":"conv-my-project-\w+","requests":\d', printed)
        assert re.search(r"^payments +\d.* 200 ", printed, flags=re.MULTILINE)
        assert re.search(r"^\w{8} +payments +ann .* active$", printed, flags=re.MULTILINE)
        assert printed.count(key[1]) == 1, "it is shown where it is made only"
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key[1]}"}, timeout=30) as client:
            assert client.get("/v1/models").status_code == 401, "the commands above have revoked it"
    cost = "jsonpath={.status.usage.costUSD}"
    cluster.kubectl("wait", f"--for={cost}", "claudeteam/payments", f"--timeout={PATIENCE:g}s")
