"""API keys: made, kept as hashes, found in one step, expired by the clock that is given."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_crds import apikeys
from claude_crds.apikeys import (
    EXPIRING_SECONDS,
    SHARDS,
    KeyRecord,
    KeyRing,
    decode,
    decode_file,
    decode_shard,
    encode,
    encode_file,
    expiring,
    is_id,
    make,
    parse,
    redact,
    shard_name,
    shard_of,
)

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC).timestamp()


class LookUpsOnly(dict[str, KeyRecord]):
    """A shard that nobody may go through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("a look-up went through all keys")

    keys = values = items = __iter__  # type: ignore[assignment]


def ring(*records: KeyRecord) -> KeyRing:
    made = KeyRing()
    made.replace({record.id: record for record in records})
    return made


def test_a_key_and_what_is_kept_of_it() -> None:
    text, record = make("payments", "ci", NOW + 0.7, NOW + 60.9)
    head, key_id, secret = text.split("_", 2)
    assert (head, len(key_id), len(secret), len(text)) == ("cca", 8, 43, 56)
    assert (record.id, record.team, record.name) == (key_id, "payments", "ci")
    assert (record.created, record.expires) == (NOW, NOW + 60)
    kept = json.loads(encode(record))
    assert set(kept) == {"team", "name", "sha256", "created", "expires"}
    assert (kept["created"], kept["expires"]) == ("2030-01-31T12:00:00Z", "2030-01-31T12:01:00Z")
    assert secret not in encode(record).decode() + repr(record)
    assert json.loads(encode(make("t", "", NOW, None)[1]))["expires"] is None


def test_no_two_keys_are_alike() -> None:
    made = [make("t", "", NOW, None) for _ in range(1000)]
    assert len({text for text, _ in made}) == len({record.sha256 for _, record in made}) == 1000
    assert {shard_of(record.id) for _, record in made} == set(range(SHARDS))


def test_the_names_of_secrets_are_fixed() -> None:
    assert [shard_name(n) for n in range(SHARDS)] == [f"claude-code-api-keys-{n}" for n in range(8)]
    assert shard_of("abcd1234") == 6, "another function would lose every key there is"
    assert apikeys.LABELS["claude-code-api.io/component"] == "api-keys"


@pytest.mark.parametrize("change", ["", "x", " ", "\n", "é", "cca_"])
def test_only_a_whole_key_is_one(change: str) -> None:
    text, record = make("t", "", NOW, None)
    assert (parse(text), is_id(record.id)) == (record.id, True)
    assert not change or parse(text + change) is None
    assert not change or parse(change + text) is None
    for bad in (text[:-1], text.upper(), text.replace("_", "-", 1), record.id, change):
        assert parse(bad) is None


@given(st.text(max_size=80))
def test_no_text_is_too_odd_to_be_looked_up(text: str) -> None:
    assert ring(make("t", "", NOW, None)[1]).check(text, NOW) is None


@given(st.text(max_size=20), st.text(max_size=20))
def test_what_is_printed_can_be_freed_of_keys(before: str, after: str) -> None:
    text, record = make("t", "", NOW, None)
    for part in (text, text[:-1], text[:20]):
        clean = redact(f"{before}{part}{after}")
        assert text[13:20] not in clean
        assert record.id not in clean


def test_a_key_is_checked_by_its_secret() -> None:
    (text, record), (other, second) = make("a", "", NOW, None), make("b", "", NOW, None)
    keys = ring(record, second)
    assert (keys.check(text, NOW), keys.check(other, NOW), len(keys)) == (record, second, 2)
    crossed = f"cca_{record.id}_{other.split('_', 2)[2]}"
    assert keys.check(crossed, NOW) is None
    assert keys.check(make("a", "", NOW, None)[0], NOW) is None
    assert sorted(r.team for r in keys.records()) == ["a", "b"]


def test_a_key_holds_until_it_expires_or_is_revoked() -> None:
    text, record = make("t", "", NOW, NOW + 3600)
    keys = ring(record)
    assert keys.check(text, NOW + 3599.9) == record
    assert keys.check(text, NOW + 3600) is None
    assert keys.check(text, NOW) == record, "the clock is the caller's"
    keys.replace_shard(shard_of(record.id), {})
    assert keys.check(text, NOW) is None


def test_changing_one_shard_leaves_the_others() -> None:
    made = [make("t", "", NOW, None) for _ in range(100)]
    keys = ring(*(record for _, record in made))
    keys.replace_shard(3, {})
    for text, record in made:
        assert keys.check(text, NOW) == (None if shard_of(record.id) == 3 else record)


def test_a_record_in_another_shard_than_its_own_is_no_key() -> None:
    text, record = make("t", "", NOW, None)
    keys = KeyRing()
    keys.replace_shard((shard_of(record.id) + 1) % SHARDS, {record.id: record})
    assert keys.check(text, NOW) is None


def test_among_ten_thousand_keys_a_look_up_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make("t", "", NOW, None) for _ in range(10_000)]
    keys = KeyRing()
    for shard in range(SHARDS):
        keys.replace_shard(shard, LookUpsOnly({r.id: r for _, r in made if shard_of(r.id) == shard}))
    assert len(keys) == 10_000
    compared: list[str] = []

    def compare(one: str, other: str) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for text, record in made[::100]:
        compared.clear()
        assert keys.check(text, NOW) == record
        assert compared == [record.sha256]
    compared.clear()
    assert keys.check(make("t", "", NOW, None)[0], NOW) is None
    assert len(compared) == 1, "an unknown id is compared, too, so it takes as long"


def test_records_are_read_as_they_were_written() -> None:
    records = {r.id: r for _, r in (make("t", "größe/№7", NOW, None), make("u.v", "", NOW, NOW + 1))}
    assert decode_shard({i: encode(r) for i, r in records.items()}) == records
    assert decode_file(encode_file(records)) == records
    assert decode_file(b"{}") == {}


HASH = "0" * 64
GOOD = {"team": "t", "name": "", "sha256": HASH, "created": "2030-01-31T12:00:00Z", "expires": None}


@pytest.mark.parametrize(
    ("key_id", "entry"),
    [
        ("abcd1234", b"\xff"),
        ("abcd1234", b"[]"),
        ("abcd1234", b'{"team": "t"}'),
        ("abcd1234", json.dumps(GOOD | {"sha256": "short"}).encode()),
        ("abcd1234", json.dumps(GOOD | {"sha256": HASH.replace("0", "G")}).encode()),
        ("abcd1234", json.dumps(GOOD | {"team": "../other"}).encode()),
        ("abcd1234", json.dumps(GOOD | {"created": "yesterday"}).encode()),
        ("ABCD1234", json.dumps(GOOD).encode()),
        ("abcd", json.dumps(GOOD).encode()),
    ],
)
def test_an_entry_that_is_none_shuts_out_nobody(key_id: str, entry: bytes) -> None:
    _, record = make("t", "", NOW, None)
    assert decode_shard({key_id: entry, record.id: encode(record)}) == {record.id: record}
    with pytest.raises(ValueError, match="is no API key's"):
        decode(key_id, entry)


def test_a_time_without_a_zone_is_utc() -> None:
    entry = json.dumps(GOOD | {"created": "2030-01-31T12:00:00", "expires": "2030-01-31T13:00:00+01:00"}).encode()
    record = decode("abcd1234", entry)
    assert (record.created, record.expires) == (NOW, NOW)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"abcd1234": 1}'])
def test_a_file_is_read_as_a_whole_or_not_at_all(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"is no (file of )?API key"):
        decode_file(content)


def test_which_keys_expire_soon() -> None:
    ends = {"a": (60.0, 30.0, None), "b": (EXPIRING_SECONDS + 1,), "c": (EXPIRING_SECONDS,), "d": (0.0, -5.0)}
    records = [make(t, "", NOW, None if e is None else NOW + e)[1] for t, found in ends.items() for e in found]
    assert {t: r.expires for t, r in expiring(records, NOW).items()} == {"a": NOW + 30, "c": NOW + EXPIRING_SECONDS}
