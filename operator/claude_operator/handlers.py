"""The glue to kopf, which runs the process: settings, credentials, start, stop, signals, and a watch on the pools.

Why no more of it: kopf delivers no deletions after a 410, starts an index quadratically, retries no event handler, and
serialises by object where a pool is what has to be decided on as a whole (docs/architecture.md). So state comes from
reflectors, and what kopf sees is one more doorbell.
"""

from __future__ import annotations

import os
from typing import Any

import kopf

from claude_crds.resources import GROUP, POOLS, VERSION
from claude_operator.lead import Operator


def registry(operator: Operator) -> kopf.OperatorRegistry:
    """The handlers, in a registry of their own."""
    made = kopf.OperatorRegistry()

    @kopf.on.startup(registry=made)
    async def begin(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.scanning.disabled = True  # nothing is to be found out about other resources
        settings.peering.standalone = True
        settings.watching.server_timeout = 60
        settings.networking.error_backoffs = (0.5, 1, 2, 5)
        await operator.begin()

    @kopf.on.cleanup(registry=made)
    async def end(**_: Any) -> None:
        await operator.end()

    @kopf.on.login(registry=made)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        if os.environ.get("KUBECONFIG") or not os.environ.get("KUBERNETES_SERVICE_HOST"):
            return kopf.login_with_kubeconfig(**kwargs)
        return kopf.login_with_service_account(**kwargs)

    @kopf.on.event(GROUP, VERSION, POOLS.plural, registry=made)
    async def pool(name: str, **_: Any) -> None:
        operator.ring(name)

    return made
