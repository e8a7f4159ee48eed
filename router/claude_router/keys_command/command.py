"""The arguments, what is done about them, and what is printed.

Of a key's text there is one copy: the only line that `create` writes to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from claude_crds.access import loader
from claude_crds.api import Api
from claude_crds.apikeys import EXPIRING_SECONDS, NAME_MAX, KeyRecord, is_id, make, parse, redact
from claude_crds.teams import TeamNameError, team_name
from claude_router.keys_command.cluster import ClusterKeys
from claude_router.keys_command.file import FileKeys
from claude_router.keys_command.store import KeysError, KeyStore

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_LIFETIME = re.compile(r"([0-9]{1,9})([dhms])", re.ASCII)
_LONGEST_DAYS = 3650
_COLUMNS = ("ID", "TEAM", "NAME", "CREATED", "EXPIRES", "STATE")


def main(arguments: Sequence[str], clock: Callable[[], float] = time.time) -> int:
    """Returns the exit status: 0, 1 (cannot be done), 2 (arguments; by SystemExit), 130 (interrupted)."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.namespace and asked.file is not None:
        parser.error("keys are kept in a namespace or in a file, not in both")
    try:
        asyncio.run(_run(asked, clock()))
    except KeysError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _run(asked: argparse.Namespace, now: float) -> None:
    async with _store(asked) as store:
        match asked.command:
            case "create":
                await create(store, asked.team, asked.name, now, asked.expires)
            case "list":
                await show(store, asked.team or "", now)
            case "revoke":
                await revoke(store, asked.id)


async def create(store: KeyStore, team: str, name: str, now: float, lifetime: float | None) -> None:
    """Make a key that holds for `lifetime` seconds (None: for good). It is printed when, and only if, it is kept."""
    await store.check_team(team)
    text, record = make(team, name, now, None if lifetime is None else now + lifetime)
    await store.add(record)
    until = "never expires" if record.expires is None else f"expires at {_time(record.expires)}"
    try:
        print(text, flush=True)
    except OSError as error:
        raise KeysError(f"the key {record.id} was made, but cannot be shown ({error.strerror}): revoke it") from error
    _say(f"This is the key {record.id} of the team {team}; it {until}. It is kept nowhere: store it now.")


async def show(store: KeyStore, team: str, now: float) -> None:
    """Print a table of the keys, of one team or ("") of all."""
    kept = await store.read()
    records = [record for record in kept.records.values() if team in ("", record.team)]
    records.sort(key=lambda record: (record.team, record.created, record.id))
    rows = [_COLUMNS, *(_row(record, now) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows if records else ():
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not records:
        _say("There are no keys.")
    for name in kept.odd:
        _say(f"warning: {_printable(name)} is no API key's entry, and nobody's key")


async def revoke(store: KeyStore, key_id: str) -> None:
    """Forget a key."""
    await store.remove(key_id)
    _say(f"The key {key_id} is revoked.")


def _row(record: KeyRecord, now: float) -> tuple[str, ...]:
    state = "active"
    if record.expires is not None and record.expires <= now + EXPIRING_SECONDS:
        state = "expired" if record.expired(now) else "expires soon"
    expires = "never" if record.expires is None else _time(record.expires)
    name = _printable(record.name) or "-"
    return (record.id, record.team, name, _time(record.created), expires, state)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _printable(text: str) -> str:
    """What others wrote must not move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _say(message: str) -> None:
    print(redact(message), file=sys.stderr, flush=True)


@asynccontextmanager
async def _store(asked: argparse.Namespace) -> AsyncIterator[KeyStore]:
    if asked.file is not None:
        yield FileKeys(asked.file)
        return
    async with Api(loader()) as api:
        yield ClusterKeys(api, asked.namespace)


class _Parser(argparse.ArgumentParser):
    """A key that somebody has put among the arguments is not repeated."""

    def error(self, message: str) -> NoReturn:
        super().error(redact(message))


def _where(namespace: str, file: str | None) -> _Parser:
    """The options that say where keys are kept, with these defaults."""
    parser = _Parser(add_help=False)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("-n", "--namespace", default=namespace, help="the teams' namespace (default: the kubeconfig's)")
    place.add_argument("--file", type=Path, default=file, help="keep the keys in this file instead of on a cluster")
    return parser


def _parser() -> argparse.ArgumentParser:
    # Before the command as well as after it, as with kubectl. A default after it would undo what was said before it.
    parser = _Parser(prog="claude-code-api keys", description="API keys of teams.", allow_abbrev=False,
                     parents=[_where("", None)])  # fmt: skip
    where = _where(argparse.SUPPRESS, argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="create|list|revoke")
    creating = commands.add_parser("create", parents=[where], help="make a key, and print it once")
    creating.add_argument("team", type=_team, metavar="TEAM", help="name of the ClaudeTeam")
    creating.add_argument("--name", type=_name, default="", help="whose or what for it is, for people")
    creating.add_argument("--expires", type=_lifetime, metavar="30d", help="how long it holds (default: for good)")
    listing = commands.add_parser("list", parents=[where], help="show the keys that there are")
    listing.add_argument("team", type=_team, nargs="?", metavar="TEAM", help="only this team's")
    revoking = commands.add_parser("revoke", parents=[where], help="make a key invalid")
    revoking.add_argument("id", type=_id, metavar="ID", help="the key's id, as `list` shows it")
    return parser


def _team(text: str) -> str:
    try:
        return team_name(text)
    except TeamNameError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _name(text: str) -> str:
    if len(text) > NAME_MAX or not text.isprintable() or redact(text) != text:
        raise argparse.ArgumentTypeError(f"must be at most {NAME_MAX} printable characters, and no key")
    return text


def _lifetime(text: str) -> float:
    match = _LIFETIME.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_DAYS * 86_400:
        raise argparse.ArgumentTypeError(f"must be such as 30d, 12h or 90m, and at most {_LONGEST_DAYS}d")
    return float(seconds)


def _id(text: str) -> str:
    """Of a whole key, too: who has that at hand wants just this key gone."""
    key_id = text if is_id(text) else parse(text)
    if key_id is None:
        raise argparse.ArgumentTypeError("must be 8 characters of a-z and 0-9, as `keys list` shows them")
    return key_id
