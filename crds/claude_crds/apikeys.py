"""API keys of teams: how one is made, what is kept of it, and how it is checked. Pure; times are Unix seconds.

A key is `cca_<id>_<secret>`. Only its SHA-256 is kept, in the Secrets `claude-code-api-keys-0` … `-7`: one data entry a
key, named by its id, `{"team", "name", "sha256", "created", "expires"}`. Eight fixed names, so that the right to read
them can name them. A plain hash is enough: there is nothing to guess in 32 random bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from claude_crds.resources import APP, GROUP, NAME_LABEL
from claude_crds.teams import TeamNameError, team_name

SHARDS = 8
COMPONENT_LABEL = f"{GROUP}/component"
LABELS: Mapping[str, str] = {NAME_LABEL: APP, COMPONENT_LABEL: "api-keys"}
"""Of the Secrets."""

NAME_MAX = 64
"""Longest name of a key, in characters."""
EXPIRING_SECONDS = 7 * 86_400.0
"""How long before its end a key is said to expire soon."""

_ID_LENGTH = 8
_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID = re.compile(r"[a-z0-9]{8}", re.ASCII)
_KEY = re.compile(r"cca_([a-z0-9]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
_LIKE_A_KEY = re.compile(r"cca_[A-Za-z0-9_-]+", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NO_HASH = "0" * 64


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is kept of a key."""

    id: str
    team: str
    name: str
    """For people; may be empty."""
    sha256: str
    """Of the key's text, in hexadecimal."""
    created: float
    expires: float | None
    """None: never."""

    def expired(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now


class _Entry(msgspec.Struct, frozen=True):
    """A record as it is kept, under its id."""

    team: str
    name: str
    sha256: str
    created: datetime
    expires: datetime | None


_ENTRY = msgspec.json.Decoder(_Entry)
_FILE = msgspec.json.Decoder(dict[str, msgspec.Raw])


def make(team: str, name: str, now: float, expires: float | None) -> tuple[str, KeyRecord]:
    """A new key and its record, times cut to whole seconds. The text is nowhere else: show it, and forget it."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    text = f"cca_{key_id}_{secret}"
    end = None if expires is None else float(int(expires))
    return text, KeyRecord(key_id, team, name, _hash(text), float(int(now)), end)


def parse(text: str) -> str | None:
    """The id in a key; None if that is no key at all."""
    match = _KEY.fullmatch(text)
    return match[1] if match else None


def is_id(text: str) -> bool:
    """Whether it can be a key's id."""
    return _ID.fullmatch(text) is not None


def redact(text: str) -> str:
    """`text` without what is, or begins like, a key."""
    return _LIKE_A_KEY.sub("cca_…", text)


def shard_of(key_id: str) -> int:
    """The number of the Secret that has it."""
    return zlib.crc32(key_id.encode()) % SHARDS


def shard_name(shard: int) -> str:
    """The name of that Secret."""
    return f"claude-code-api-keys-{shard}"


def encode(record: KeyRecord) -> bytes:
    """Its data entry: one line of JSON."""
    expires = None if record.expires is None else _time(record.expires)
    return msgspec.json.encode(_Entry(record.team, record.name, record.sha256, _time(record.created), expires))


def decode(key_id: str, entry: bytes) -> KeyRecord:
    """Raises ValueError for what `encode` cannot have written."""
    try:
        found = _ENTRY.decode(entry)
        team_name(found.team)
        times = [None if time is None else _seconds(time) for time in (found.created, found.expires)]
    except (msgspec.MsgspecError, TeamNameError, UnicodeDecodeError) as error:
        raise ValueError(f"the entry {key_id!r} is no API key's: {error}") from error
    if not is_id(key_id) or not _HASH.fullmatch(found.sha256):
        raise ValueError(f"the entry {key_id!r} is no API key's: its name or its hash cannot be one")
    created, expires = times
    return KeyRecord(key_id, found.team, found.name, found.sha256, created or 0.0, expires)


def decode_shard(data: Mapping[str, bytes]) -> dict[str, KeyRecord]:
    """The records in a Secret's `data`, by id. An entry that is none is left out: it must not shut out the others."""
    records: dict[str, KeyRecord] = {}
    for key_id, entry in data.items():
        try:
            records[key_id] = decode(key_id, entry)
        except ValueError:
            continue
    return records


def encode_file(records: Mapping[str, KeyRecord]) -> bytes:
    """All of them as one file: an object of what a Secret's entries hold, by id."""
    entries = {key_id: msgspec.Raw(encode(record)) for key_id, record in sorted(records.items())}
    return msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n"


def decode_file(content: bytes) -> dict[str, KeyRecord]:
    """The records in a file, by id. Raises ValueError if not all of it is as `encode_file` writes it."""
    try:
        entries = _FILE.decode(content)
    except msgspec.MsgspecError as error:
        raise ValueError(f"this is no file of API keys: {error}") from error
    return {key_id: decode(key_id, bytes(entry)) for key_id, entry in entries.items()}


class KeyRing:
    """The keys that are in force, for look-up by their text. May be changed while another thread looks."""

    def __init__(self) -> None:
        self._shards: list[Mapping[str, KeyRecord]] = [{} for _ in range(SHARDS)]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self._shards)

    def replace_shard(self, shard: int, records: Mapping[str, KeyRecord]) -> None:
        """From now on the keys of this shard are these. A record that belongs to another shard is never found."""
        self._shards[shard] = records

    def replace(self, records: Mapping[str, KeyRecord]) -> None:
        """From now on all keys are these."""
        for shard in range(SHARDS):
            self.replace_shard(shard, {i: record for i, record in records.items() if shard_of(i) == shard})

    def check(self, text: str, now: float) -> KeyRecord | None:
        """The record of this key; None if it is unknown, revoked or expired. Takes the same time for one and 10,000."""
        key_id = parse(text)
        if key_id is None:
            return None
        record = self._shards[shard_of(key_id)].get(key_id)
        # Compared in any case, and in constant time: how long it takes tells nothing about a hash.
        same = hmac.compare_digest(_hash(text), record.sha256 if record else _NO_HASH)
        return record if record and same and not record.expired(now) else None

    def records(self) -> Iterator[KeyRecord]:
        """All of them, expired ones included."""
        for shard in list(self._shards):
            yield from shard.values()


def expiring(records: Iterable[KeyRecord], now: float) -> dict[str, KeyRecord]:
    """Of each team that has one, the key that expires next, if within EXPIRING_SECONDS."""
    next_ones: dict[str, KeyRecord] = {}
    for record in records:
        if record.expires is None or not now < record.expires <= now + EXPIRING_SECONDS:
            continue
        other = next_ones.get(record.team)
        if other is None or other.expires is None or record.expires < other.expires:
            next_ones[record.team] = record
    return next_ones


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _seconds(time: datetime) -> float:
    """A time without a zone is UTC, wherever this runs."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
