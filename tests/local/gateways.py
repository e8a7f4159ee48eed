"""A gateway as a process, and workers that reach the model through it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from claude_router.gateway.ledger import connect
from claude_router.gateway.usage import Used, used
from local.harness import Running, clean_environment, eventually, start
from local.server import free_port

TOKEN = "the-workers-own-credential"
REAL_KEY = "sk-ant-the-organisations-key"


@dataclass
class Gateway:
    """A gateway process on a port that stays, over kills."""

    folder: Path
    model: str
    files: dict[str, str] = field(default_factory=lambda: {"ANTHROPIC_API_KEY": REAL_KEY})
    kind: str = "anthropic"
    port: int = field(default_factory=free_port)
    lines: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.sqlite3"

    def begin(self) -> None:
        (self.folder / "upstream").mkdir(exist_ok=True)
        for name, text in self.files.items():
            (self.folder / "upstream" / name).write_text(text)
        caller = {hashlib.sha256(TOKEN.encode()).hexdigest(): {"session": "conv-a", "pool": "default", "pod": "pod-1"}}
        (self.folder / "credentials.json").write_text(json.dumps(caller))
        env = {
            "HOST": "127.0.0.1", "PORT": str(self.port), "INTERNAL_PORT": "0", "UPSTREAM_URL": self.model,
            "UPSTREAM_KIND": self.kind,
            "UPSTREAM_DIR": str(self.folder / "upstream"), "LEDGER_FILE": str(self.ledger),
            "CREDENTIALS_FILE": str(self.folder / "credentials.json"),
        }  # fmt: skip
        self.process = subprocess.Popen([sys.executable, "-m", "claude_router.gateway"], env=clean_environment(env),
                                        stderr=subprocess.PIPE, text=True)  # fmt: skip
        before = len(self.lines)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        eventually(lambda: any(re.search("INFO serving ", line) for line in self.lines[before:]))

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            self.lines += iter(process.stderr.readline, "")

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)

    def sums(self) -> Used:
        return used(self.ledger, "team")[0]

    def rows(self) -> tuple[dict[str, tuple[int, ...]], int]:
        """The counts of each message that was metered, and how many requests are lost."""
        columns = "message, input, output, cache_read, cache_write_5m + cache_write_1h"
        with contextlib.closing(connect(self.ledger)) as db:
            found = db.execute(f"SELECT {columns} FROM requests WHERE flags = '' AND status = 200").fetchall()
            (lost,) = db.execute("SELECT count(*) FROM requests WHERE flags = 'lost'").fetchone()
        assert len({row[0] for row in found}) == len(found), "none is counted twice"
        return {row[0]: tuple(row[1:]) for row in found}, lost

    def counts(self) -> tuple[int, ...]:
        """As `LedgerModel.sums` has them."""
        s = self.sums()
        return (
            s.input_tokens - s.cached_tokens - s.cache_write_tokens,
            s.output_tokens,
            s.cached_tokens,
            s.cache_write_tokens,
        )


@contextlib.contextmanager
def workers(gateway: Gateway, folder: Path) -> Iterator[Callable[..., Running]]:
    """Starts workers whose CLI gets its credential from a file, as a projected token is one."""
    seed = folder / "seed"
    seed.mkdir()
    (folder / "token").write_text(TOKEN)
    (seed / "settings.json").write_text(json.dumps({"apiKeyHelper": f"cat {folder / 'token'}"}))
    started: list[Running] = []

    def begin(**settings: str) -> Running:
        env = {"ANTHROPIC_BASE_URL": gateway.url, "VOLUME_DIR": str(folder / "volume"), "TOKEN_FILE": "-",
               "WATCH_STDIN": "true", "CLAUDE_CONFIG_SEED": str(seed), "MODEL_RETRIES": "10"}  # fmt: skip
        started.append(start("claude_worker", clean_environment(env | settings), first_line="t0ken"))
        return started[-1]

    try:
        yield begin
    finally:
        for running in started:
            running.stop()
