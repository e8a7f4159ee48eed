"""API keys."""

from __future__ import annotations

import pytest

from claude_router.auth import ApiKeys
from claude_worker.openai.errors import ApiError

KEYS = ApiKeys(("key-number-one", "key-number-two"))


@pytest.mark.parametrize("header", [b"Bearer key-number-one", b"bearer key-number-two", b"BEARER  key-number-two "])
def test_a_known_key_passes(header: bytes) -> None:
    KEYS.check(header)


@pytest.mark.parametrize("header", [None, b"Bearer anything", b"nonsense"])
def test_without_keys_everybody_passes(header: bytes | None) -> None:
    ApiKeys(()).check(header)


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
        KEYS.check(header)
    error = refused.value
    assert (error.status, error.kind, error.code) == (401, "authentication_error", code)
    assert error.headers["www-authenticate"] == "Bearer"


def test_no_key_is_kept() -> None:
    assert b"key-number" not in repr(vars(KEYS)).encode()
