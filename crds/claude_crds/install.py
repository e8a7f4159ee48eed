"""`python -m claude_crds.install FOLDER`: bring the resource definitions in that folder to the cluster.

Helm installs what is in a chart's `crds` folder once, and never changes it again; so the chart runs this before each
install and upgrade. Definitions that are there get the new `spec`, others are made. It ends when the API server serves
them all.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from claude_crds.access import AccessError, loader
from claude_crds.api import Api
from claude_crds.errors import ApiError, Forbidden, NotFound
from claude_crds.resources import Resource
from claude_crds.views import Condition, Frozen, Object, condition

_MANAGER = "helm"
"""Helm applies a chart's `crds` folder as this, too, and refuses to change what is another's."""

PATIENCE = 60.0
"""Seconds in which all must be served."""


class InstallError(Exception):
    """Why the definitions are not all there, and what to do."""


class DefinitionStatus(Frozen, frozen=True):
    conditions: tuple[Condition, ...] | None = None
    """null for a moment after the definition was made."""


class Definition(Object, frozen=True):
    """Of a CustomResourceDefinition."""

    status: DefinitionStatus = DefinitionStatus()


DEFINITIONS = Resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", Definition)


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_EVENT = msgspec.json.Decoder(_Event)
_TOLD = ("ADDED", "MODIFIED")


def read(folder: Path) -> list[dict[str, Any]]:
    """The definitions in `*.yaml` of the folder. Raises InstallError."""
    try:
        found = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))]
    except (OSError, yaml.YAMLError) as error:
        raise InstallError(f"the definitions in {folder} cannot be read: {error}") from error
    if not found:
        raise InstallError(f"no *.yaml in {folder}")
    return found


async def install(api: Api, definitions: Sequence[dict[str, Any]], patience: float = PATIENCE) -> None:
    """Apply them, and wait until they are served. Raises InstallError."""
    waiting = ""
    try:
        async with asyncio.timeout(patience):
            for body in definitions:
                waiting = body["metadata"]["name"]
                await _apply(api, body)
                await _established(api, waiting)
    except TimeoutError as error:
        raise InstallError(f"{waiting} is not served after {patience:g} s: kubectl describe crd {waiting}") from error
    except Forbidden as error:
        told = "an administrator of the cluster can apply them: kubectl apply --server-side --filename crds/"
        raise InstallError(f"{error}; {told}") from error
    except (ApiError, AccessError, aiohttp.ClientError, OSError) as error:
        raise InstallError(f"{waiting}: {error}") from error


async def _apply(api: Api, body: dict[str, Any]) -> None:
    name, labels = body["metadata"]["name"], body["metadata"].get("labels", {})
    try:
        await api.get(DEFINITIONS, "", name)
        metadata = {"name": name, "labels": labels}
        await api.apply(DEFINITIONS, "", {"metadata": metadata, "spec": body["spec"]}, manager=_MANAGER)
        print(f"{name}: up to date", flush=True)
    except NotFound:
        await api.create(DEFINITIONS, "", body)
        print(f"{name}: made", flush=True)


async def _established(api: Api, name: str) -> None:
    """Return once the definition is served. It is followed by its name alone: more, the hook has no right to see."""
    selector = f"metadata.name={name}"
    while True:
        page = await api.list(DEFINITIONS, "", field_selector=selector)
        if any(_served(definition) for definition in page.items):
            return
        query = {"fieldSelector": selector, "resourceVersion": page.resource_version, "timeoutSeconds": "60"}
        query |= {"allowWatchBookmarks": "true"}
        async with api.watch(DEFINITIONS, "", query, silence=PATIENCE) as stream:
            rest = b""
            async for chunk in stream.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = _EVENT.decode(line)
                    # After an ERROR the stream ends, and the next LIST knows.
                    if event.type in _TOLD and _served(DEFINITIONS.decoder.decode(event.object)):
                        return


def _served(definition: Definition) -> bool:
    """Raises InstallError if it never will be."""
    conditions = definition.status.conditions or ()
    names, established = condition(conditions, "NamesAccepted"), condition(conditions, "Established")
    if names and names.status == "False":
        raise InstallError(f"{definition.name}: another definition has one of its names: {names.message}")
    return established is not None and established.status == "True"


async def _main(folder: Path) -> None:
    async with Api(loader()) as api:
        await install(api, read(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 and one line on standard error if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m claude_crds.install", description="Install or upgrade the CRDs.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    try:
        asyncio.run(_main(parser.parse_args(arguments).folder))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
