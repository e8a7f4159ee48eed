"""Who may speak to the worker, and what it refuses to start with."""

from __future__ import annotations

import hashlib
import io
import sys
import time
from pathlib import Path

import pytest

from claude_crds.settings import SettingsError
from claude_crds.tokens import token_hash, worker_token
from claude_worker.guard import Guard, read_guard
from claude_worker.settings import WorkerSettings, load_settings

TOKEN = worker_token(b"k" * 32, "namespace", "pod")


def test_the_hash_of_the_token_is_all_it_needs() -> None:
    settings = load_settings({"TOKEN_SHA256": token_hash(TOKEN), "HOST": "0.0.0.0"})
    guard = read_guard(settings)
    assert guard.admits(f"Bearer {TOKEN}")
    for wrong in (
        "",
        TOKEN,
        "Bearer ",
        f"Bearer {TOKEN} ",
        f"Basic {TOKEN}",
        f"Bearer {token_hash(TOKEN)}",
        "Bearer ÿ",
    ):
        assert not guard.admits(wrong), wrong


def test_capitals_are_digits_too() -> None:
    assert read_guard(load_settings({"TOKEN_SHA256": token_hash(TOKEN).upper()})).admits(f"Bearer {TOKEN}")


@pytest.mark.parametrize("given", ["abc", "g" * 64, "a" * 63, "a" * 65, " ".join(["ab"] * 32), TOKEN])
def test_what_is_no_hash_is_said_without_showing_it(given: str) -> None:
    """It may well be the token itself."""
    with pytest.raises(SettingsError, match=r"TOKEN_SHA256=\(hidden\): must be 64 hexadecimal digits") as raised:
        load_settings({"TOKEN_SHA256": given})
    assert given not in str(raised.value)


def test_a_token_may_still_come_from_a_file_or_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("from-file\n")
    assert read_guard(WorkerSettings(token_file=str(tmp_path / "token"))).admits("Bearer from-file")
    monkeypatch.setattr(sys, "stdin", io.StringIO("from-stdin\nrest\n"))
    guard = read_guard(WorkerSettings(token_file="-", host="0.0.0.0"))
    assert guard.admits("Bearer from-stdin")
    assert not guard.admits("Bearer from-file")


def test_an_empty_token_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(SettingsError, match="TOKEN_FILE='-': holds no token"):
        read_guard(WorkerSettings(token_file="-"))


def test_two_tokens_are_one_too_many() -> None:
    with pytest.raises(SettingsError, match="both set"):
        read_guard(WorkerSettings(token_file="-", token_sha256="a" * 64))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_without_a_token_it_is_open_to_its_own_machine(host: str) -> None:
    assert read_guard(WorkerSettings(host=host)).admits("")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "worker.example"])
def test_without_a_token_it_is_open_to_nobody_else(host: str) -> None:
    with pytest.raises(SettingsError, match="without TOKEN_SHA256 or TOKEN_FILE"):
        read_guard(WorkerSettings(host=host))


def test_it_costs_a_request_a_few_microseconds() -> None:
    guard, header = Guard(hashlib.sha256(TOKEN.encode()).digest()), f"Bearer {TOKEN}"
    best = 1.0
    for _ in range(5):
        before = time.process_time()
        for _ in range(1000):
            guard.admits(header)
        best = min(best, (time.process_time() - before) / 1000)
    assert best < 20e-6
