"""API keys."""

from __future__ import annotations

import pytest

from claude_router.auth import ApiKeys
from claude_worker.openai.errors import ApiError

KEYS = ApiKeys(("key-number-one", "key-number-two"))


def headers(authorization: bytes | None, **more: bytes) -> dict[bytes, bytes]:
    found = {name.encode(): value for name, value in more.items()}
    return found if authorization is None else {**found, b"authorization": authorization}


@pytest.mark.parametrize("header", [b"Bearer key-number-one", b"bearer key-number-two", b"BEARER  key-number-two "])
def test_a_known_key_passes(header: bytes) -> None:
    KEYS.check(headers(header))


@pytest.mark.parametrize("authorization", [None, b"", b"Bearer", b"Basic something"])
def test_a_key_may_come_as_anthropics_clients_send_it(authorization: bytes | None) -> None:
    sent = headers(authorization)
    KEYS.check({**sent, b"x-api-key": b"key-number-one"})
    for wrong, code in ((b"key-number-on", "invalid_api_key"), (b" ", "missing_api_key")):
        with pytest.raises(ApiError) as refused:
            KEYS.check({**sent, b"x-api-key": wrong})
        assert refused.value.code == code


def test_a_wrong_bearer_is_not_saved_by_another_key() -> None:
    with pytest.raises(ApiError):
        KEYS.check({**headers(b"Bearer wrong-key"), b"x-api-key": b"key-number-one"})


@pytest.mark.parametrize("header", [None, b"Bearer anything", b"nonsense"])
def test_without_keys_everybody_passes(header: bytes | None) -> None:
    ApiKeys(()).check(headers(header))


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        (b"", "missing_api_key"),
        (b"Bearer", "missing_api_key"),
        (b"Bearer   ", "missing_api_key"),
        (b"Basic key-number-one", "missing_api_key"),
        (b"key-number-one", "missing_api_key"),
        (b"Bearer key-number-on", "invalid_api_key"),
        (b"Bearer key-number-one2", "invalid_api_key"),
        (b"Bearer \xff\xfe", "invalid_api_key"),
    ],
)
def test_anything_else_is_401(header: bytes | None, code: str) -> None:
    with pytest.raises(ApiError) as refused:
        KEYS.check(headers(header))
    error = refused.value
    assert (error.status, error.kind, error.code) == (401, "authentication_error", code)
    assert error.headers["www-authenticate"] == "Bearer"


def test_no_key_is_kept() -> None:
    assert b"key-number" not in repr(vars(KEYS)).encode()


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (b"http://evil.example", b"localhost:3000"),
        (b"null", b"localhost:3000"),
        (b"http://evil.example", b"evil.example"),  # its own name, made to point here
        (b"http://localhost:8080", b"localhost:3000"),
    ],
)
def test_without_keys_a_web_page_is_refused(origin: bytes, host: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        ApiKeys(()).check(headers(None, origin=origin, host=host))
    assert (refused.value.status, refused.value.code) == (403, "origin_not_allowed")
    KEYS.check(headers(b"Bearer key-number-one", origin=origin, host=host))


@pytest.mark.parametrize("host", [b"localhost:3000", b"127.0.0.1:80", b"[::1]:3000"])
def test_without_keys_the_pages_at_docs_may_try(host: bytes) -> None:
    ApiKeys(()).check(headers(None, origin=b"http://" + host, host=host))


def test_keys_can_be_replaced() -> None:
    keys = ApiKeys(("key-number-one",))
    keys.replace(("key-number-two",))
    keys.check(headers(b"Bearer key-number-two"))
    with pytest.raises(ApiError):
        keys.check(headers(b"Bearer key-number-one"))


def test_where_keys_are_required_none_is_no_open_door() -> None:
    keys = ApiKeys(required=True)
    assert not keys.open
    for given in (None, b"Bearer key-number-one", b"Bearer "):
        with pytest.raises(ApiError) as raised:
            keys.check(headers(given))
        assert raised.value.status == 401
    assert ApiKeys().open
