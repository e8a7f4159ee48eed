"""Which cluster is taken, and what is asked of kind, an engine or a registry: with stand-ins for their programs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.node import __main__ as node
from cluster.node import bare, network, places, tools


@dataclass
class Desk:
    """A machine with no program but the stand-ins, each of which writes down how it was called."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def has(self, program: str, script: str = "") -> None:
        path = self.folder / "bin" / program
        path.write_text(f'#!/bin/sh\necho {program} "$@" >> {self.folder}/calls\n{script}\n')
        path.chmod(0o755)

    def calls(self) -> list[str]:
        """How the stand-ins were called, less questions about state."""
        lines = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        return [line for line in lines if not re.search(r"^\w+ (info|image inspect)|--raw=/readyz$", line)]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, output and errors of a verb."""
        self.monkeypatch.setattr("sys.argv", ["cluster.node", *arguments])
        status = node.main()
        out, err = self.capture.readouterr()
        return status, out.strip(), err.strip()


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CLUSTER_KUBECONFIG", raising=False)
    monkeypatch.delenv("CLUSTER_REGISTRY", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return Desk(tmp_path, capsys, monkeypatch)


def test_where_nothing_serves_one_line_says_why(desk: Desk) -> None:
    status, out, err = desk.run("up")
    assert (status, out, len(err.splitlines())) == (3, "", 1)
    assert err.startswith("no cluster provider: ")
    for reason in ("CLUSTER_KUBECONFIG is not set", "no container engine runs", "root on Linux"):
        assert reason in err


def test_root_without_go_is_told_of_go(desk: Desk) -> None:
    desk.monkeypatch.setattr(os, "geteuid", lambda: 0)
    status, _, err = desk.run("up")
    assert status == 3
    assert "Go on the PATH" in err


def test_an_engine_without_kind_s_image_does_not_serve(desk: Desk) -> None:
    desk.has("podman", '[ "$1" = info ]')
    status, _, err = desk.run("up")
    assert status == 3
    assert "podman cannot pull kind's node image" in err


def test_a_named_cluster_is_used_or_nothing_is(desk: Desk) -> None:
    desk.has("docker")
    desk.has("kind")
    desk.has("kubectl", "exit 1")
    desk.monkeypatch.setenv("CLUSTER_KUBECONFIG", str(desk.folder / "mine"))
    status, _, err = desk.run("up")
    assert status == 1
    assert f"names {desk.folder / 'mine'}, which is not there" in err
    (desk.folder / "mine").touch()
    status, _, err = desk.run("up")
    assert status == 1
    assert "does not answer" in err
    desk.has("kubectl")
    assert desk.run("up") == (0, str(desk.folder / "mine"), "")
    assert desk.run("down")[0] == 0
    assert desk.calls() == []


def test_images_for_a_named_cluster_go_to_its_registry(desk: Desk) -> None:
    desk.has("docker")
    desk.has("kubectl")
    (desk.folder / "mine").touch()
    desk.monkeypatch.setenv("CLUSTER_KUBECONFIG", str(desk.folder / "mine"))
    status, _, err = desk.run("load", node.image_name("router"))
    assert status == 1
    assert "set CLUSTER_REGISTRY" in err
    desk.monkeypatch.setenv("CLUSTER_REGISTRY", "registry.example/me")
    name = node.image_name("router")
    (desk.folder / "Dockerfile").touch()
    assert desk.run("image", name, f"{desk.folder}/Dockerfile", ".")[:2] == (0, name)
    built = (
        f"docker build --quiet --tag registry.example/me/claude-code-api-router:dev --file {desk.folder}/Dockerfile ."
    )
    assert desk.calls() == [built, "docker push registry.example/me/claude-code-api-router:dev"]


def test_kind_where_docker_runs(desk: Desk) -> None:
    desk.has("docker")
    desk.has("kubectl")
    config = desk.folder / "cache" / "claude-code-api" / "kind.kubeconfig"
    desk.has("kind", f'[ "$1" = create ] && echo > {config} || true')
    assert desk.run("kubeconfig")[0] == 1
    status, out, err = desk.run("up")
    assert (status, out) == (0, str(config)), err
    assert desk.run("up") == (0, str(config), ""), "the same one"
    (desk.folder / "Dockerfile").touch()
    assert desk.run("image", "localhost/x:dev", f"{desk.folder}/Dockerfile", ".")[0] == 0
    assert desk.run("down")[0] == 0
    assert not config.exists()
    created, built, loaded, deleted = desk.calls()
    assert created.startswith(f"kind create cluster --name claude-code-api --config {places.HERE}/kind.yaml ")
    assert built.startswith("docker build ")
    assert loaded == "kind load docker-image localhost/x:dev --name claude-code-api"
    assert deleted.startswith("kind delete cluster --name claude-code-api ")


def test_a_missing_dockerfile_is_named(desk: Desk) -> None:
    desk.has("docker")
    desk.has("kubectl")
    (desk.folder / "mine").touch()
    desk.monkeypatch.setenv("CLUSTER_KUBECONFIG", str(desk.folder / "mine"))
    status, _, err = desk.run("image", "localhost/x:dev", "no/such/Dockerfile", ".")
    assert status == 1
    assert "no such Dockerfile: no/such/Dockerfile" in err


def test_a_tool_is_built_once_and_kept_by_its_version(desk: Desk) -> None:
    desk.has("go", 'while [ "$1" != -o ]; do shift; done; echo built > "$2"')
    status, out, err = desk.run("tool", "etcd")
    assert status == 0
    assert out == f"{desk.folder}/cache/claude-code-api/bin/etcd-{tools.version('etcd')}/etcd"
    assert Path(out).read_text() == "built\n"
    assert err.startswith(f"building etcd {tools.version('etcd')} (1 of 1) …")
    assert desk.run("tool", "etcd") == (0, out, "")
    assert len(desk.calls()) == 1


def test_a_broken_build_leaves_nothing_that_looks_built(desk: Desk) -> None:
    desk.has("go", 'while [ "$1" != -o ]; do shift; done; echo half > "$2"; exit 1')
    status, _, err = desk.run("build", "etcd", "kubectl")
    assert status == 1
    assert "etcd could not be built" in err
    assert tools.missing(["etcd", "kubectl"]) == ["etcd", "kubectl"]
    assert list(tools.path("etcd").parent.iterdir()) == []


def test_every_tool_has_a_version() -> None:
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", tools.version(name)) for name in tools.TOOLS)


def test_kind_s_kubernetes_is_the_bare_node_s() -> None:
    image = re.findall(r"kindest/node:(v\d+\.\d+)\.", (places.HERE / "kind.yaml").read_text())
    assert image == [tools.version("kubelet").rpartition(".")[0]]


def test_configuration_files_keep_to_the_addresses_of_the_node() -> None:
    files = [path for path in places.HERE.rglob("*") if path.suffix in {".yaml", ".conflist"}]
    text = "\n".join(path.read_text() for path in files)
    found = set(re.findall(r"\b198\.1[89]\.\d+\.\d+(?:/\d+)?", text))
    assert found == {network.PODS, network.SERVICES, network.DNS_SERVICE}


def test_a_node_that_is_not_there_says_so(desk: Desk) -> None:
    status, _, err = desk.run("stop", "kubelet")
    assert status == 1
    assert "is it up?" in err
    assert not bare.runs()
