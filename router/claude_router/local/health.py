"""`python -m claude_router --check-health [URL]`: is the server well?

For a container's HEALTHCHECK: quick, so it loads nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request

_SECONDS = 5.0


def check_health(url: str = "") -> int:
    """0 when `GET /health` answers 200; else 1, with the reason on standard error.

    `url` is the server's address; by default this machine's, at PORT.
    """
    base = url or f"http://127.0.0.1:{os.environ.get('PORT') or 3000}"
    # A proxy has no business between a server and its own health check.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(base.rstrip("/").removesuffix("/health") + "/health", timeout=_SECONDS):
            return 0
    except urllib.error.HTTPError as error:
        reason = _reason(error.read()) or f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        reason = str(error)
    print(f"not healthy: {reason}", file=sys.stderr)
    return 1


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
