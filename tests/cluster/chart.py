"""What the chart renders, and looking at it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.node.__main__ import current

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHART = ROOT / "charts" / "claude-code-api"
ALL = HERE / "values-all.yaml"
GATEWAY = HERE / "values-gateway.yaml"
"""To be laid over the other."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Commands:
    """`helm` and `kubectl`, found once."""

    helm_path: Path
    kubectl_path: Path
    kubeconfig: Path
    cache: Path

    def helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run(self.helm_path, *arguments)

    def kubectl(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        return self._run(self.kubectl_path, *arguments, given=given)

    def _run(self, program: Path, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.cache)}
        command = [str(program), *arguments]
        return subprocess.run(command, input=given, env=env, capture_output=True, text=True, timeout=300)


def provided() -> Path:
    """The kubeconfig of the cluster that is up; fails where there is none."""
    provider = current()
    if provider is None:
        pytest.fail("no cluster is up: `make test-cluster` brings one up")
    return Path(provider.kubeconfig())


def render(commands: Commands, *arguments: str) -> list[Json]:
    done = commands.helm("template", "claude-code-api", str(CHART), *arguments)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def named(objects: list[Json], kind: str, name: str) -> Json:
    return next(o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)


def pod_templates(objects: list[Json]) -> list[Json]:
    """Every pod that the chart makes, as a Pod."""
    found = []
    for one in objects:
        if one["kind"] == "Pod":
            found.append(one)
        elif "template" in one.get("spec", {}):
            template = one["spec"]["template"]
            labels = {"labels": template["metadata"]["labels"]}
            metadata = {"name": one["metadata"]["name"], **labels}
            found.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    return found


def environment(pod: Json) -> Json:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in pod["spec"]["containers"][0]["env"]}


def dry_run(commands: Commands, namespace: str, objects: list[Json]) -> subprocess.CompletedProcess[str]:
    text = yaml.safe_dump_all(objects)
    options = ("--dry-run=server", "--validate=strict", f"--namespace={namespace}", "--filename=-")
    return commands.kubectl("create", *options, given=text)


def rights(role: Json) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault(f"{group}/{resource}", set()).update(rule["verbs"])
    return found
