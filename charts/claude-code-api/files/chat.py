"""What `helm test` runs in a pod: one turn of a conversation that is deleted afterwards, as is its key."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

URL = os.environ["URL"]
TEAM = os.environ.get("TEAM", "")
MODEL = os.environ.get("MODEL", "claude-code")
CONVERSATION = f"helm-test-{uuid.uuid4().hex[:12]}"
KEYS = [sys.executable, "-m", "claude_router", "keys"]
KNOWN_SECONDS = 20.0
"""In this time every router has heard of a new key."""


def key() -> str:
    """A new one of the team, or the first of the endpoint's own, if there are any."""
    if TEAM:
        command = [*KEYS, "create", TEAM, "--name", "helm-test", "--expires", "15m"]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    files = [path for path in sorted(Path("/api-keys").glob("*")) if path.is_file()]
    return files[0].read_text().strip() if files else ""


def call(secret: str, method: str, path: str, body: object = None) -> bytes:
    headers = {"Content-Type": "application/json", "X-Conversation-ID": CONVERSATION}
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=200) as answer:
        return bytes(answer.read())


def ask(secret: str) -> str:
    """The answer's text."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello in five words."}]}
    latest = time.monotonic() + KNOWN_SECONDS
    while True:
        try:
            answer = json.loads(call(secret, "POST", "/v1/chat/completions", body))
            return str(answer["choices"][0]["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            if error.code != 401 or not TEAM or time.monotonic() > latest:
                raise
        time.sleep(0.5)


def main() -> int:
    try:
        secret = key()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"FAILED: no key for the team {TEAM}: {error}")
        return 1
    try:
        text = ask(secret)
    except urllib.error.HTTPError as error:
        print(f"FAILED: HTTP {error.code}: {error.read().decode(errors='replace')}")
        if error.code == 401 and not TEAM:
            print("(requests need a team's key: the value test.team names the team to make one for)")
        return 1
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"FAILED: {type(error).__name__}: {error}")
        return 1
    finally:
        try:
            call(secret, "DELETE", f"/conversations/{CONVERSATION}?purge=true")
        except OSError as error:
            print(f"(the test's conversation {CONVERSATION} could not be deleted: {error})")
        if TEAM:
            subprocess.run([*KEYS, "revoke", secret.split("_")[1]], check=False)
    print(f"answer: {text}" if text else "FAILED: the answer is empty")
    return 0 if text else 1


sys.exit(main())
