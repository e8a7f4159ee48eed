"""Reading the CLI's transcript."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from claude_worker.transcript import entries, messages


def entry(kind: str, uuid: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "uuid": uuid, "message": {"role": kind, "content": f"said {uuid}"}, **more}


def write(config: Path, session: str, *lines: dict[str, Any] | str) -> None:
    folder = config / "projects" / "-workspace"
    folder.mkdir(parents=True, exist_ok=True)
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / f"{session}.jsonl").write_text("\n".join(text))


def uuids(config: Path, session: str, fork: tuple[str, str] | None = None) -> list[str]:
    return [message["uuid"] for message in messages(config, session, fork)]


def test_torn_lines_and_what_is_no_object_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "s", entry("user", "a"), "[]", '{"type": "us', entry("assistant", "b"))
    assert [e["uuid"] for e in entries(tmp_path, "s")] == ["a", "b"]
    assert list(entries(tmp_path, "unknown")) == []


def test_what_is_not_the_conversations_is_left_out(tmp_path: Path) -> None:
    own = (entry("user", "b", isMeta=True), entry("user", "c", isSidechain=True), {"type": "summary"})
    write(tmp_path, "s", entry("user", "a"), *own, entry("assistant", "d"))
    assert uuids(tmp_path, "s") == ["a", "d"]


def test_a_fork_without_a_transcript_has_what_was_said_up_to_its_point(tmp_path: Path) -> None:
    write(tmp_path, "old", *(entry(kind, uuid) for kind, uuid in zip(("user", "assistant") * 2, "abcd", strict=True)))
    assert uuids(tmp_path, "new", ("old", "b")) == ["a", "b"]
    assert uuids(tmp_path, "new", ("old", "gone")) == ["a", "b", "c", "d"]
    assert uuids(tmp_path, "new") == []
    write(tmp_path, "new", entry("user", "a"))
    assert uuids(tmp_path, "new", ("old", "b")) == ["a"], "its own, once it has one"
