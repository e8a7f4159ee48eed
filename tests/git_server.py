"""A git server that asks for a password, over https: git's own http-backend behind Python's own server.

    python3 git_server.py FOLDER CERT KEY PORT        # USERNAME and PASSWORD are in the environment

It needs nothing but git, and makes the one repository that it serves, which is always the same: /repo.git, and for
everybody /public/repo.git; what is asked of /moved/… is somewhere else. On standard
output it says where it listens, and then one line for each request: method, path and whether it was let in.
"""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FIRST, SECOND = "one\n", "two\n"
"""README.md in the first commit (tag v1) and in the second one (main); the branch `feature` has feature.txt as well."""

_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_AUTHOR_DATE": "2030-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com", "GIT_COMMITTER_DATE": "2030-01-01T00:00:00Z",
}  # fmt: skip


def make(folder: Path) -> tuple[str, str]:
    """The repository `folder/repo.git`; returns the ids of its first and second commit."""
    work = folder / "work"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(work), *arguments]
        return subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=True).stdout.strip()

    work.mkdir(parents=True)
    git("init", "--quiet", "--initial-branch=main")
    commits = []
    for text in (FIRST, SECOND):
        (work / "README.md").write_text(text)
        git("add", ".")
        git("commit", "--quiet", "--message", text.strip())
        commits.append(git("rev-parse", "HEAD"))
    git("tag", "v1", commits[0])
    git("checkout", "--quiet", "-b", "feature")
    (work / "feature.txt").write_text("new\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "feature")
    git("checkout", "--quiet", "main")
    git("clone", "--quiet", "--bare", str(work), str(folder / "repo.git"))
    return commits[0], commits[1]


class Handler(BaseHTTPRequestHandler):
    """One request, by CGI."""

    protocol_version = "HTTP/1.1"
    root: Path
    wanted: str

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        public = self.path.startswith("/public/")
        let_in = public or self.headers.get("Authorization", "") == self.wanted
        print(self.command, self.path, "let-in" if let_in else "refused", flush=True)
        if self.path.startswith("/moved/"):
            self.send_response(301)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not let_in:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.removeprefix("/public").partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        cgi = {
            "PATH": os.environ.get("PATH", ""), "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            "REQUEST_METHOD": self.command, "PATH_INFO": path, "QUERY_STRING": query, "REMOTE_USER": "a",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], env=cgi, input=body, capture_output=True, check=False)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        self.send_response(status)
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


def server(folder: Path, cert: str, key: str, port: int, username: str, password: str) -> ThreadingHTTPServer:
    """The server, not yet serving."""
    wanted = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
    handler = type("Bound", (Handler,), {"root": folder, "wanted": wanted})
    made = ThreadingHTTPServer(("", port), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    return made


def main(arguments: list[str]) -> None:
    """Entry point."""
    folder, cert, key, port = Path(arguments[0]), arguments[1], arguments[2], int(arguments[3])
    make(folder)
    serving = server(folder, cert, key, port, os.environ["USERNAME"], os.environ["PASSWORD"])
    print("listening", serving.server_address[1], flush=True)
    serving.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
