"""Claude on Google's Vertex AI, for a worker that speaks the Messages API.

Project, region and model go into the path, `anthropic_version` into the body; Google's access tokens open it. Answers
are the Messages API's own, but for errors of Google's.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import aiohttp
import msgspec

from claude_router.gateway import cloud, errors
from claude_router.gateway.cloud import Refused, Request
from claude_router.gateway.cloud_models import Ids, vertex_id
from claude_router.gateway.upstream import Asked, Data, Reply

log = logging.getLogger(__name__)

VERTEX = "Vertex AI"
VERSION = "vertex-2023-10-16"
WORD = re.compile(r"[a-z0-9][a-z0-9:.-]{0,62}")
"""A project's or region's name."""
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TOKEN_SECONDS = 10.0
_RETRY_SECONDS = 10.0
_FIRST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Vertex:
    """A project in a region. `token` gives an access token, empty while there is none; `betas` as for Bedrock."""

    url: str
    project: str
    region: str
    token: Callable[[], str] = field(repr=False)
    ids: Ids
    betas: frozenset[str]

    def at(self, url: str) -> Vertex:
        """See Upstream."""
        return replace(self, url=url)

    async def ask(self, http: aiohttp.ClientSession, asked: Asked, data: Data) -> Reply:
        """See Upstream."""
        if not asked.route.has_body:
            raise cloud.not_offered(VERTEX)
        request = await cloud.prepared(partial(self._request, asked), await cloud.collect(data))
        response = await cloud.send(http, request)
        if response.status != 200:
            return await cloud.failed(response, VERTEX, _refused)
        return response

    def _request(self, asked: Asked, body: bytes) -> Request:
        token = self.token()
        if not token:
            raise errors.no_upstream("Google has given no access token; the gateway's log says why")
        fields = cloud.fields_of(body)
        model = cloud.model_of(fields)
        there = vertex_id(model, self.ids)
        if there is None:
            raise cloud.unknown_model(model, VERTEX)
        if asked.route.metered:
            del fields["model"]
            call = f"{there}:{'streamRawPredict' if cloud.streams(fields) else 'rawPredict'}"
        else:
            fields["model"] = cloud.raw(there)
            call = "count-tokens:rawPredict"
        fields["anthropic_version"] = cloud.raw(VERSION)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity",
                   "Authorization": f"Bearer {token}"}  # fmt: skip
        if betas := cloud.betas_of(asked, self.betas):
            headers["anthropic-beta"] = ",".join(betas)
        models = f"projects/{self.project}/locations/{self.region}/publishers/anthropic/models"
        return Request(f"{self.url}/{models}/{call}", headers, msgspec.json.encode(fields))


def address_of(region: str) -> str:
    """Where Vertex is for a region."""
    if region == "global":
        return "https://aiplatform.googleapis.com/v1"
    if region in ("us", "eu"):
        return f"https://aiplatform.{region}.rep.googleapis.com/v1"
    return f"https://{region}-aiplatform.googleapis.com/v1"


class ServiceAccount:
    """Access tokens of a service account, renewed some minutes before their end. Its methods are any thread's."""

    def __init__(self, key: str) -> None:
        """`key` is the JSON file of a service account. Raises ValueError, without any of its text, and ImportError."""
        from google.auth import exceptions  # noqa: PLC0415  # only who uses Vertex needs google-auth
        from google.oauth2 import service_account  # noqa: PLC0415

        try:
            info = json.loads(key)
            made: Any = service_account.Credentials
            self.project = str(info.get("project_id", ""))
            self._credentials: Any = made.from_service_account_info(info, scopes=[_SCOPE])
        except (ValueError, AttributeError, TypeError, KeyError, RecursionError, exceptions.GoogleAuthError):
            raise ValueError("it is no key file of a service account") from None
        self._renewing: threading.Thread | None = None
        self._next_try = 0.0

    def token(self) -> str:
        """One that is valid at the moment; empty: there is none."""
        # Not `valid`, which already gives a token up some minutes before its end.
        return "" if self._state() == "INVALID" else str(self._credentials.token)

    def renew(self, now: Callable[[], float] = time.monotonic) -> None:
        """Get another token if it is time, in a thread of its own. Waits for a first one, but not for long."""
        running = self._renewing is not None and self._renewing.is_alive()
        if running or self._state() == "FRESH" or now() < self._next_try:
            return
        self._next_try = now() + _RETRY_SECONDS
        self._renewing = threading.Thread(target=self._renew, name="Google's access token", daemon=True)
        self._renewing.start()
        if not self.token():
            self._renewing.join(_FIRST_SECONDS)

    def join(self) -> None:
        """Wait for the renewal that runs, if one does."""
        if self._renewing is not None:
            self._renewing.join()

    def _state(self) -> str:
        return str(self._credentials.token_state.name)

    def _renew(self) -> None:
        import urllib3  # noqa: PLC0415  # comes with botocore and google-auth
        from google.auth.transport import urllib3 as transports  # noqa: PLC0415

        made: Any = transports.Request
        with urllib3.PoolManager(retries=False) as pool:
            transport = made(pool)
            try:
                self._credentials.refresh(partial(transport, timeout=_TOKEN_SECONDS))
            except Exception as error:  # of a key that it can read but not use, anything
                log.error("Google gives no access token", extra={"fields": {"reason": type(error).__name__}})


class _Inner(msgspec.Struct):
    message: str = ""
    status: str = ""
    type: str = ""


class _Error(msgspec.Struct):
    error: _Inner


_ERROR = msgspec.json.Decoder(_Error | list[_Error])


def _refused(response: aiohttp.ClientResponse, body: bytes) -> Refused:
    """Google's own error, which a stream's request gets in a list; or one of Anthropic's that was passed on."""
    try:
        found = _ERROR.decode(body)
    except (msgspec.MsgspecError, ValueError):
        return Refused("")
    inner = (found[0].error if found else _Inner()) if isinstance(found, list) else found.error
    return Refused(inner.message, (inner.status or inner.type)[:100])
