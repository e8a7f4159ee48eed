"""What a pool's workers may reach beyond the cluster: the way to the pool's proxy, and the list that the proxy follows.

A ClaudePool names the hosts (`spec.egress.allow`). The chart runs a proxy for each pool that has one, and mounts its
key of one ConfigMap; the operator keeps that true (`claude_operator.egress_writer`). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from claude_crds.views import ClaudePool
from claude_operator.settings import OperatorSettings

_LOCAL = ("localhost", "127.0.0.1", "::1")
_MODEL = "https://api.anthropic.com"


def environment(pool: ClaudePool, settings: OperatorSettings) -> dict[str, str]:
    """Variables that send what a worker runs through its pool's proxy; empty where the pool has none.

    Both spellings, since curl reads `http_proxy` in lower case only, and others read upper case only.
    """
    proxy = settings.egress_proxies.get(pool.name)
    if not proxy:
        return {}
    host, direct = model(pool, settings)
    hosts = [*_LOCAL, *([host] if direct else []), *settings.egress_no_proxy]
    values = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": ",".join(dict.fromkeys(hosts))}
    return {**values, **{name.lower(): value for name, value in values.items()}}


def model(pool: ClaudePool, settings: OperatorSettings) -> tuple[str, bool]:
    """The model's host, and whether workers go there directly: to the gateway, and to what no proxy would let through.

    A public model without a gateway is reached through the proxy, since workers then have no other way out.
    """
    if settings.gateway_url:
        return urlsplit(settings.gateway_url).hostname or "", True
    host, direct = "", True
    with suppress(ValueError):  # what cannot be read, or has no port: what that leads to is told elsewhere
        url = urlsplit(pool.spec.anthropic.base_url or _MODEL)
        host = url.hostname or ""
        direct = url.scheme != "https" or url.port not in (None, 443)
    return host, direct


def lines(allow: Iterable[str]) -> str:
    """The hosts as Squid's `dstdomain` reads them, one a line: `.example.com` is that host and all below it.

    What another entry covers is left out: Squid complains about it at each start.
    """
    wanted = {host.removeprefix("*") for host in allow}
    kept = [host for host in wanted if not any(_covers(other, host) for other in wanted - {host})]
    return "".join(f"{host}\n" for host in sorted(kept))


def _covers(wide: str, host: str) -> bool:
    return wide.startswith(".") and (host.endswith(wide) or host == wide[1:])


def lists(pools: Iterable[ClaudePool], settings: OperatorSettings) -> dict[str, str]:
    """The ConfigMap's data: of each pool that has a proxy, its list; an empty one for a pool that is not there."""
    there = {pool.name: pool for pool in pools if not pool.leaving}
    return {name: lines(_allowed(there[name], settings)) if name in there else "" for name in settings.egress_proxies}


def _allowed(pool: ClaudePool, settings: OperatorSettings) -> tuple[str, ...]:
    host, direct = model(pool, settings)
    return pool.spec.egress.allow if direct else (*pool.spec.egress.allow, host)
