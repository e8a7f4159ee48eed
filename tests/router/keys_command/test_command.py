"""What the command prints, and where: a key's text once, on standard output, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from claude_crds.apikeys import EXPIRING_SECONDS, KeyRing, decode_file, make, parse
from claude_crds.resources import SECRETS, TEAMS
from claude_router.__main__ import main as entry
from claude_router.keys_command import command
from claude_router.keys_command.command import main
from claude_router.keys_command.file import FileKeys
from crds.fake_api import FakeApi

NOW = 1896091200.0  # 2030-01-31T12:00:00Z
Said = pytest.CaptureFixture[str]


def at(seconds: float) -> Callable[[], float]:
    return lambda: NOW + seconds


def created(path: Path, said: Said, *arguments: str) -> str:
    assert main(["create", *arguments, "--file", str(path)], at(0)) == 0
    out, err = said.readouterr()
    key = out.removesuffix("\n")
    assert parse(key), "the one line on standard output is the key"
    assert key.split("_", 2)[2] not in err
    return key


def test_a_key_is_printed_once_and_kept_as_a_hash(tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "keys.json"
    key = created(path, capsys, "payments", "--name", "ci", "--expires", "30d")
    secret = key.split("_", 2)[2]
    assert secret not in path.read_text()
    ring = KeyRing()
    ring.replace(decode_file(path.read_bytes()))
    record = ring.check(key, NOW)
    assert record is not None
    assert (record.team, record.name, record.created, record.expires) == ("payments", "ci", NOW, NOW + 30 * 86_400)
    assert ring.check(key, NOW + 30 * 86_400) is None
    assert main(["list", "--file", str(path)], at(0)) == 0
    assert main(["revoke", record.id, "--file", str(path)], at(0)) == 0
    out, err = capsys.readouterr()
    assert secret not in out + err
    assert record.id in out


def test_what_create_says_beside_the_key(tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "keys.json"
    main(["create", "a", "--file", str(path)], at(0))
    assert "of the team a; it never expires. It is kept nowhere: store it now." in capsys.readouterr().err
    main(["create", "a", "--expires", "12h", "--file", str(path)], at(0))
    assert "it expires at 2030-02-01T00:00:00Z." in capsys.readouterr().err


def test_where_they_are_kept_may_be_said_first(tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "keys.json"
    assert main(["--file", str(path), "create", "a"], at(0)) == 0
    assert len(decode_file(path.read_bytes())) == 1
    for both in (["-n", "x", "list", "--file", str(path)], ["--file", str(path), "list", "-n", "x"]):
        with pytest.raises(SystemExit, match="2"):
            main(both, at(0))
    capsys.readouterr()
    assert command._parser().parse_args(["-n", "x", "list"]).namespace == "x"


def test_the_list(tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "keys.json"
    assert main(["list", "--file", str(path)], at(0)) == 0
    assert tuple(capsys.readouterr()) == ("", "There are no keys.\n")
    first = created(path, capsys, "b", "--name", "ci")
    second = created(path, capsys, "a", "--expires", "30d")
    assert main(["list", "--file", str(path)], at(30 * 86_400 - EXPIRING_SECONDS - 1)) == 0
    header, one, two = capsys.readouterr().out.splitlines()
    assert header.split() == ["ID", "TEAM", "NAME", "CREATED", "EXPIRES", "STATE"]
    assert one.split() == [parse(second), "a", "-", "2030-01-31T12:00:00Z", "2030-03-02T12:00:00Z", "active"]
    assert two.split() == [parse(first), "b", "ci", "2030-01-31T12:00:00Z", "never", "active"]
    for later, state in ((30 * 86_400 - EXPIRING_SECONDS, "expires soon"), (30 * 86_400, "expired")):
        assert main(["list", "a", "--file", str(path)], at(later)) == 0
        _, only = capsys.readouterr().out.splitlines()
        assert only.endswith(f"   {state}")


def test_names_of_others_do_not_reach_the_terminal_as_they_are(tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "keys.json"
    asyncio.run(FileKeys(path).add(make("t", "\x1b[2Jx\ny", NOW, None)[1]))
    assert main(["list", "--file", str(path)], at(0)) == 0
    assert "?[2Jx?y" in capsys.readouterr().out


def test_revoking_by_the_key_itself(tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "keys.json"
    key = created(path, capsys, "a")
    assert main(["revoke", key, "--file", str(path)]) == 0
    assert capsys.readouterr().err == f"The key {parse(key)} is revoked.\n"
    assert json.loads(path.read_text()) == {}
    assert main(["revoke", key, "--file", str(path)]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: there is no key {parse(key)}: `keys list` shows those that there are\n")


KEY, _ = make("t", "", NOW, None)


@pytest.mark.parametrize(
    "arguments",
    [
        [KEY],
        [f"--{KEY}"],
        ["create", KEY],
        ["create", "team", KEY],
        ["create", "team", "--name", KEY],
        ["create", "team", "--name", f"x{KEY[:-2]}"],
        ["create", "team", "--expires", KEY],
        ["create", "Team"],
        ["create", "team", "--name", "x" * 65],
        ["create", "team", "--name", "a\nb"],
        ["list", KEY],
        ["revoke", KEY[:-1]],
        ["revoke", "abcd1234", KEY],
        ["revoke", "abcd1234", "--file", "x", "--namespace", KEY],
        [],
        ["make"],
        ["create"],
        ["revoke"],
    ],
)
def test_wrong_arguments_are_told_without_repeating_a_key(arguments: list[str], capsys: Said) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error:" in err
    assert KEY[13:30] not in err


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5400), ("1s", 1), ("3650d", 315_360_000)]
)
def test_lifetimes(text: str, seconds: int) -> None:
    assert command._parser().parse_args(["create", "t", "--expires", text]).expires == seconds


@pytest.mark.parametrize("text", ["", "0d", "30", "d", "1.5h", "-1d", "3651d", "1w", "٣d", "1h30m", "never"])
def test_what_is_no_lifetime(text: str, capsys: Said) -> None:
    with pytest.raises(SystemExit):
        main(["create", "t", f"--expires={text}"])
    assert "30d, 12h or 90m, and at most 3650d" in capsys.readouterr().err


def test_a_key_that_cannot_be_shown_is_to_be_revoked(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with monkeypatch.context() as patched:
        patched.setattr(sys.stdout, "write", broken)
        assert main(["create", "t", "--file", str(tmp_path / "k.json")]) == 1
    (key_id,) = json.loads((tmp_path / "k.json").read_text())
    assert f"error: the key {key_id} was made, but cannot be shown (Broken pipe): revoke it" in capsys.readouterr().err


def test_the_project_s_one_command_has_it(tmp_path: Path, capsys: Said) -> None:
    assert entry(["keys", "list", "--file", str(tmp_path / "k.json")]) == 0
    assert capsys.readouterr().err == "There are no keys.\n"
    assert entry(["-h"]) == 0
    assert "keys --help" in capsys.readouterr().out


async def _command(kubeconfig: Path, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "claude_router", "keys", *arguments),
        env=os.environ | {"KUBECONFIG": str(kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_as_a_process_against_an_api_server(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    async with FakeApi() as fake:
        context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}
        whole = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [context],
            "clusters": [{"name": "c", "cluster": {"server": fake.server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        kubeconfig.write_text(yaml.safe_dump(whole))
        status, out, err = await _command(kubeconfig, "create", "payments")
        assert (status, out, err) == (
            1,
            "",
            "error: there is no ClaudeTeam payments in the namespace ns: make it first\n",
        )
        fake.put(TEAMS.path("ns"), {"metadata": {"name": "payments"}, "spec": {}})
        status, out, err = await _command(kubeconfig, "create", "payments", "--name", "ci")
        assert status == 0, err
        key = out.removesuffix("\n")
        key_id = parse(key)
        assert key_id is not None
        secret = key.split("_", 2)[2]
        assert secret not in err
        (name,) = fake.names(SECRETS.path("ns"))
        everything = json.dumps([body for _, _, _, body in fake._log]) + "".join(r.path_qs for r in fake.requests)
        assert secret not in everything
        assert key_id in everything
        status, out, err = await _command(kubeconfig, "list", "payments")
        assert (status, err) == (0, "")
        assert out.splitlines()[1].split()[:3] == [key_id, "payments", "ci"]
        assert (await _command(kubeconfig, "revoke", key_id))[0] == 0
        assert fake._objects[SECRETS.path("ns")][name]["data"] == {}
