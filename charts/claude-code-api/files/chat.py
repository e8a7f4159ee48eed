"""What `helm test` runs in a pod: one turn of a conversation that is deleted afterwards."""

import json
import os
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

URL = os.environ["URL"]
CONVERSATION = f"helm-test-{uuid.uuid4().hex[:12]}"


def key() -> str:
    """The first of the API keys, if the endpoint has any."""
    files = [path for path in sorted(Path("/api-keys").glob("*")) if path.is_file()]
    return files[0].read_text().strip() if files else ""


def call(method: str, path: str, body: object = None) -> bytes:
    headers = {"Content-Type": "application/json", "X-Conversation-ID": CONVERSATION}
    if secret := key():
        headers["Authorization"] = f"Bearer {secret}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=200) as answer:
        return bytes(answer.read())


def main() -> int:
    message = {"role": "user", "content": "Say hello in five words."}
    try:
        answer = json.loads(call("POST", "/v1/chat/completions", {"model": "claude-code", "messages": [message]}))
        text = answer["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        print(f"FAILED: HTTP {error.code}: {error.read().decode(errors='replace')}")
        return 1
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"FAILED: {type(error).__name__}: {error}")
        return 1
    finally:
        try:
            call("DELETE", f"/conversations/{CONVERSATION}?purge=true")
        except OSError as error:
            print(f"(the test's conversation {CONVERSATION} could not be deleted: {error})")
    print(f"answer: {text}" if text else "FAILED: the answer is empty")
    return 0 if text else 1


sys.exit(main())
