"""A worker's way to the model through the gateway: a token of its own pod instead of a key. Pure.

The kubelet makes the token, puts a new one into its place before it ends, and makes no more once the pod is deleted. It
is for the gateway only: the API server does not take it. No other container of the pod has it.
"""

from __future__ import annotations

from typing import Any

from claude_operator.settings import OperatorSettings

Json = dict[str, Any]

AUDIENCE = "claude-code-api-gateway"
FOLDER = "/var/run/claude-code-api/gateway"
TOKEN_FILE = f"{FOLDER}/token"
_VOLUME = "gateway-token"
_SECONDS = 600
_RETRIES = 8
"""With these the CLI tries for about a minute and a half: longer than the one gateway takes to be replaced."""


def environment(settings: OperatorSettings) -> dict[str, str]:
    """Where the model is, and what opens it; empty without a gateway."""
    if not settings.gateway_url:
        return {}
    return {
        "ANTHROPIC_BASE_URL": settings.gateway_url,
        "MODEL_TOKEN_FILE": TOKEN_FILE,
        "MODEL_RETRIES": str(_RETRIES),
    }


def volumes(settings: OperatorSettings) -> list[Json]:
    """The token, as a volume."""
    token = {"audience": AUDIENCE, "expirationSeconds": _SECONDS, "path": "token"}
    projected = {"sources": [{"serviceAccountToken": token}], "defaultMode": 0o440}
    return [{"name": _VOLUME, "projected": projected}] if settings.gateway_url else []


def mounts(settings: OperatorSettings) -> list[Json]:
    """Where the worker finds it."""
    return [{"name": _VOLUME, "mountPath": FOLDER, "readOnly": True}] if settings.gateway_url else []
