"""The cluster for the tests: `python -m cluster.node VERB`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

from cluster.node import bare, control, given, kind, tools
from cluster.node.components import COMPONENTS
from cluster.node.places import ROOT, Trouble, alone, say

PROVIDERS = (given, kind, bare)
"""In order: the first that serves is taken."""
NO_PROVIDER = 3
"""The exit status when none does."""

CHANGING = ("up", "down", "build", "tool")
"""Verbs that wait for one another."""

IMAGES = {
    "router": "router/Dockerfile",
    "operator": "operator/Dockerfile",
    "worker": "worker-image/Dockerfile",
    "egress": "egress-image/Dockerfile",
}
"""The product's images: part → Dockerfile."""


class NoProviderError(Trouble):
    """There can be no cluster here."""


def current() -> ModuleType | None:
    """The provider whose cluster is up."""
    if given.obstacle() is None:
        given.runs()
        return given
    return next((provider for provider in (kind, bare) if provider.runs()), None)


def needed() -> ModuleType:
    """The same, but it must be up."""
    if (provider := current()) is None:
        raise Trouble("no cluster is up: `make cluster`")
    return provider


def up() -> ModuleType:
    """Have a cluster: the one that is up, or a new one."""
    if provider := current():
        return provider
    obstacles: list[str] = []
    for provider in PROVIDERS:
        if (obstacle := provider.obstacle()) is None:
            say(f"cluster provider: {provider.name}")
            provider.up()
            return provider
        obstacles.append(obstacle)
    raise NoProviderError(f"no cluster provider: {'; '.join(obstacles)}")


def down() -> None:
    """Stop what `up` has started."""
    if given.obstacle() is None:
        given.down()
        return
    for provider in (kind, bare):
        provider.down()


def image_name(part: str) -> str:
    registry = os.environ.get("CLUSTER_REGISTRY") or "localhost"
    return f"{registry}/claude-code-api-{part}:dev"


def image(name: str, dockerfile: Path, context: Path) -> None:
    """Build one image and bring it to the cluster."""
    provider = needed()
    say(f"building {name} …")
    provider.build(name, dockerfile, context)
    provider.load(name)
    print(name)


def images(parts: list[str]) -> None:
    for part in parts or IMAGES:
        image(image_name(part), ROOT / IMAGES[part], ROOT)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m cluster.node", description="A Kubernetes cluster for the tests.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, act: Callable[[argparse.Namespace], object]) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(act=act)
        return made

    verb("up", "have a cluster, and print its kubeconfig's path", lambda _: print(up().kubeconfig()))
    verb("down", "stop the cluster and leave nothing but the cache", lambda _: down())
    verb("kubeconfig", "print the kubeconfig's path", lambda _: print(needed().kubeconfig()))
    made = verb("build", "build the node's programs, and helm", lambda a: tools.build(a.name or [*tools.NODE, "helm"]))
    made.add_argument("name", nargs="*", choices=[*tools.TOOLS, []], metavar="NAME")
    made = verb("tool", "print where a program is, built if need be", lambda a: print(tools.find(a.name)))
    made.add_argument("name", choices=tools.TOOLS, metavar="NAME")
    made = verb("images", "build the product's images and load them", lambda a: images(a.part))
    made.add_argument("part", nargs="*", choices=[*IMAGES, []], metavar="PART")
    made = verb("image", "build an image and load it", lambda a: image(a.name, a.dockerfile, a.context))
    made.add_argument("name", metavar="NAME")
    made.add_argument("dockerfile", type=Path, metavar="DOCKERFILE")
    made.add_argument("context", type=Path, metavar="CONTEXT")
    made = verb("load", "load an image that is built", lambda a: needed().load(a.name))
    made.add_argument("name", metavar="NAME")
    for do in ("start", "stop", "kill"):
        made = verb(do, f"{do} a part of a bare node", lambda a: control.ask(bare.run_folder(), a.verb, a.name))
        made.add_argument("name", choices=COMPONENTS, metavar="PART")
    return top


def main() -> int:
    arguments = parser().parse_args()
    try:
        with alone() if arguments.verb in CHANGING else nullcontext():
            arguments.act(arguments)
    except KeyboardInterrupt:
        return 130
    except NoProviderError as trouble:
        say(str(trouble))
        return NO_PROVIDER
    except Trouble as trouble:
        say(f"error: {trouble}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
