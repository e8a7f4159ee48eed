"""Bringing the definitions to a cluster: made, changed, waited for; and in which words it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from claude_crds.api import Api
from claude_crds.install import DEFINITIONS, InstallError, install, main, read
from claude_crds.resources import Resource
from crds.fake_api import PATIENCE, FakeApi, status

Json = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[2] / "crds"
WHOLE: Resource[Json] = Resource(DEFINITIONS.api_version, DEFINITIONS.kind, DEFINITIONS.plural, dict)
SERVED = {"conditions": [{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]}


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    async with FakeApi() as made:
        yield made


@pytest.fixture
async def api(fake: FakeApi) -> AsyncIterator[Api]:
    async with Api(fake.loader) as made:
        yield made


def definition(name: str = "a.example", **fields: Any) -> Json:
    return {"metadata": {"name": name, "labels": {"l": "new"}}, "spec": {"versions": [{"name": "v2"}]}, **fields}


async def test_one_that_is_there_gets_the_new_spec_as_a_whole(api: Api) -> None:
    old = {"versions": [{"name": "v1", "gone": True}]}
    await api.create(WHOLE, "", {"metadata": {"name": "a.example", "labels": {"k": "kept"}}, "spec": old})
    await api.patch(WHOLE, "", "a.example", {"status": SERVED}, subresource="status")
    await install(api, [definition()])
    found = await api.get(WHOLE, "", "a.example")
    assert found["spec"] == {"versions": [{"name": "v2"}]}
    assert found["metadata"]["labels"] == {"k": "kept", "l": "new"}


async def test_one_that_is_not_there_is_made_and_waited_for(api: Api) -> None:
    waiting = asyncio.create_task(install(api, [definition()], PATIENCE))
    while not (await api.list(WHOLE, "")).items:
        assert not waiting.done()
    not_yet = {"conditions": [{"type": "Established", "status": "False"}]}
    await api.patch(WHOLE, "", "a.example", {"status": not_yet}, subresource="status")
    assert not waiting.done()
    await api.patch(WHOLE, "", "a.example", {"status": SERVED}, subresource="status")
    await waiting


async def test_one_that_is_never_served_is_given_up(api: Api) -> None:
    with pytest.raises(InstallError, match=r"a\.example is not served after 0\.2 s: kubectl describe crd a\.example"):
        await install(api, [definition()], 0.2)


async def test_one_whose_name_is_taken(api: Api) -> None:
    await api.create(WHOLE, "", definition())
    taken = [{"type": "NamesAccepted", "status": "False", "message": '"csess" is already in use'}]
    await api.patch(WHOLE, "", "a.example", {"status": {"conditions": taken}}, subresource="status")
    with pytest.raises(InstallError, match='has one of its names: "csess" is already in use'):
        await install(api, [definition()])


async def test_without_the_right_to_it(fake: FakeApi, api: Api) -> None:
    fake.answers[:] = [lambda _: web.json_response(status(403, "Forbidden", "you may not"), status=403)]
    with pytest.raises(InstallError, match=r"you may not; an administrator of the cluster can .*kubectl apply"):
        await install(api, [definition()])


async def test_when_the_server_refuses_it(fake: FakeApi, api: Api) -> None:
    fake.answers[:] = [lambda _: web.json_response(status(422, "Invalid", "spec is wrong"), status=422)]
    with pytest.raises(InstallError, match=r"a\.example: .*spec is wrong"):
        await install(api, [definition()])


def test_what_is_read() -> None:
    read_in = read(FOLDER)
    assert {one["kind"] for one in read_in} == {"CustomResourceDefinition"}
    assert sorted(one["spec"]["names"]["kind"] for one in read_in) == ["ClaudePool", "ClaudeSession", "ClaudeTeam"]


def test_a_folder_without_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: no *.yaml in {tmp_path}\n"
    (tmp_path / "a.yaml").write_text("a: [")
    assert main([str(tmp_path)]) == 1
    assert "cannot be read" in capsys.readouterr().err
