"""A mounted Secret as an account: of the Messages API, of Bedrock or of Vertex, by what is in it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from claude_router.gateway.bedrock_stream import FrameDecoder
from claude_router.gateway.cloud_models import BEDROCK_BETAS, VERTEX_BETAS, Ids, prefix_of, read_ids
from claude_router.gateway.upstream import Api, Upstream
from claude_router.gateway.upstream_bedrock import Bedrock, bearer, sigv4
from claude_router.gateway.upstream_vertex import WORD, ServiceAccount, Vertex, address_of

ANTHROPIC = "https://api.anthropic.com"
API, BEDROCK, VERTEX = "anthropic", "bedrock", "vertex"
_KEY, _TOKEN, _URL = "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"
_AWS_KEY, _AWS_SECRET, _AWS_SESSION = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
_AWS_BEARER, _AWS_REGION = "AWS_BEARER_TOKEN_BEDROCK", "AWS_REGION"
_AWS_URL, _AWS_PREFIX = "ANTHROPIC_BEDROCK_BASE_URL", "ANTHROPIC_BEDROCK_REGION_PREFIX"
_GOOGLE, _PROJECT, _REGION = "GOOGLE_APPLICATION_CREDENTIALS", "ANTHROPIC_VERTEX_PROJECT_ID", "CLOUD_ML_REGION"
_GOOGLE_URL = "ANTHROPIC_VERTEX_BASE_URL"
_IDS = "MODEL_IDS"
_LARGEST_BYTES = 65_536
_VALUE = re.compile(r"[!-~]+")
_PREFIX = re.compile(r"[a-z]{2,6}(?:-gov)?")

NAMES = (
    _KEY, _TOKEN, _URL, _AWS_KEY, _AWS_SECRET, _AWS_SESSION, _AWS_BEARER, _AWS_REGION, _AWS_URL, _AWS_PREFIX,
    _GOOGLE, _PROJECT, _REGION, _GOOGLE_URL, _IDS,
)  # fmt: skip
"""All files that a folder may hold."""


class Unusable(Exception):
    """Why a folder is no account; never with a value in it."""


@dataclass(slots=True)
class Folders:
    """Reads them. What costs something to make stays the same while its file does.

    `urls` are other addresses than the usual ones, by kind; `ids` are for folders that have none.
    """

    urls: dict[str, str] = field(default_factory=dict)
    ids: Ids = field(default_factory=dict)
    betas: frozenset[str] = frozenset()
    """Instead of the clouds' own lists, if any."""
    _accounts: dict[Path, tuple[str, ServiceAccount]] = field(default_factory=dict, repr=False)

    def read(self, folder: Path, kind: str = "") -> Upstream:
        """`kind`: what it must be; empty: whatever it is. Raises Unusable. Blocks."""
        kind = kind or _kind(folder)
        made: Upstream
        try:
            if kind == BEDROCK:
                made = self._bedrock(folder)
            elif kind == VERTEX:
                made = self._vertex(folder)
            else:
                made = self._api(folder)
        except ImportError as error:
            raise Unusable(f"{error.name} is not installed; install claude-code-api[clouds]") from error
        return made

    def forget(self, folders: set[Path]) -> None:
        """Keep nothing of folders but of these."""
        self._accounts = {folder: kept for folder, kept in self._accounts.items() if folder in folders}

    def _api(self, folder: Path) -> Upstream:
        url = self._address(folder, _URL, API, ANTHROPIC)
        if value := _word(folder, _KEY):
            return Api(url, "x-api-key", value)
        if value := _word(folder, _TOKEN):
            return Api(url, "authorization", f"Bearer {value}")
        raise Unusable(f"there is neither {_KEY} nor {_TOKEN}")

    def _bedrock(self, folder: Path) -> Upstream:
        region = _word(folder, _AWS_REGION)
        if not WORD.fullmatch(region):
            raise Unusable(f"{_AWS_REGION} names no region")
        key, key_id, secret = (_word(folder, name) for name in (_AWS_BEARER, _AWS_KEY, _AWS_SECRET))
        if key:
            sign = bearer(key)
        elif key_id and secret:
            sign = sigv4(key_id, secret, _word(folder, _AWS_SESSION), region)
        else:
            raise Unusable(f"there is neither {_AWS_BEARER} nor {_AWS_KEY} with {_AWS_SECRET}")
        FrameDecoder()  # what is missing, or slow to load, is so here and in no request
        prefix = _word(folder, _AWS_PREFIX) or prefix_of(region)
        if not _PREFIX.fullmatch(prefix):
            raise Unusable(f"{_AWS_PREFIX} must be a word such as eu, or none")
        url = self._address(folder, _AWS_URL, BEDROCK, f"https://bedrock-runtime.{region}.amazonaws.com")
        return Bedrock(url, sign, self._ids(folder), "" if prefix == "none" else prefix, self.betas or BEDROCK_BETAS)

    def _vertex(self, folder: Path) -> Upstream:
        account = self._account(folder)
        project, region = _word(folder, _PROJECT) or account.project, _word(folder, _REGION)
        for name, value in ((_PROJECT, project), (_REGION, region)):
            if not WORD.fullmatch(value):
                raise Unusable(f"{name} is missing, or is none")
        url = self._address(folder, _GOOGLE_URL, VERTEX, address_of(region))
        account.renew()
        if not account.token():
            raise Unusable("Google has given no access token")
        return Vertex(url, project, region, account.token, self._ids(folder), self.betas or VERTEX_BETAS)

    def _account(self, folder: Path) -> ServiceAccount:
        key = _text(folder, _GOOGLE)
        if not key:
            raise Unusable(f"there is no {_GOOGLE}")
        kept = self._accounts.get(folder)
        if kept is None or kept[0] != key:
            try:
                kept = self._accounts[folder] = (key, ServiceAccount(key))
            except ValueError as error:
                raise Unusable(f"{_GOOGLE}: {error}") from error
        return kept[1]

    def _address(self, folder: Path, name: str, kind: str, usual: str) -> str:
        url = _text(folder, name) or self.urls.get(kind) or usual
        if not url.startswith(("https://", "http://")):
            raise Unusable(f"{name} is no http or https address")
        return url.rstrip("/")

    def _ids(self, folder: Path) -> Ids:
        text = _text(folder, _IDS)
        if not text:
            return self.ids
        try:
            found = json.loads(text)
            return read_ids(found if isinstance(found, dict) else {"": None})
        except (ValueError, RecursionError) as error:
            raise Unusable(f"{_IDS}: must be a JSON object of names and ids of models") from error


def _kind(folder: Path) -> str:
    if _text(folder, _KEY) or _text(folder, _TOKEN):
        return API
    if _text(folder, _AWS_BEARER) or _text(folder, _AWS_KEY):
        return BEDROCK
    return VERTEX if _text(folder, _GOOGLE) else API


def _word(folder: Path, name: str) -> str:
    value = _text(folder, name)
    if value and not _VALUE.fullmatch(value):
        raise Unusable(f"{name} holds blanks or characters that fit in no header")
    return value


def _text(folder: Path, name: str) -> str:
    try:
        with (folder / name).open("rb") as opened:
            return opened.read(_LARGEST_BYTES).strip().decode()
    except (OSError, UnicodeDecodeError):
        return ""
