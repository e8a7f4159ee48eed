"""`python -m claude_operator`: the operator, until SIGTERM. Exit status 2: a setting is wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import kopf

from claude_crds.access import AccessError, loader
from claude_crds.logs import configure
from claude_crds.settings import SettingsError
from claude_operator.handlers import registry
from claude_operator.lead import Operator
from claude_operator.settings import OperatorSettings, load_settings


def main() -> int:
    """Entry point; returns the exit status."""
    try:
        settings = load_settings(os.environ)
        namespace = settings.namespace or loader()().namespace
    except (SettingsError, AccessError) as error:
        print(f"claude_operator: {error}", file=sys.stderr)
        return 2
    configure(settings.log_format, getattr(logging, settings.log_level.upper()))
    for noisy in ("kopf", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    asyncio.run(_run(settings, namespace))
    return 0


async def _run(settings: OperatorSettings, namespace: str) -> None:
    await kopf.operator(registry=registry(Operator(settings)), namespaces=[namespace], standalone=True)


if __name__ == "__main__":
    sys.exit(main())
