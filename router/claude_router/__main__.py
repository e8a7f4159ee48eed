"""`python -m claude_router`: the endpoint on one machine; `--check-health [URL]`: ask one; `keys`: API keys."""

from __future__ import annotations

import sys

_USAGE = """\
usage: python -m claude_router                        serve; settings come from the environment (see README)
       python -m claude_router --check-health [URL]   exit 0 if the server at URL, or at PORT on this machine, is well
       python -m claude_router keys --help            API keys of teams: create, list, revoke
"""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status. `arguments` are the command line's unless given."""
    # Imported late: a health check runs every few seconds, and must not load the server for it.
    match arguments if arguments is not None else sys.argv[1:]:
        case []:
            from claude_router.local.init import run_with_init  # noqa: PLC0415
            from claude_router.local.serve import main as serve  # noqa: PLC0415

            try:
                return run_with_init(serve)
            except KeyboardInterrupt:  # before the server has set up its own handling
                return 130
        case ["--check-health", *url] if len(url) <= 1:
            from claude_router.local.health import check_health  # noqa: PLC0415

            return check_health(*url)
        case ["keys", *rest]:
            from claude_router.keys_command.command import main as keys  # noqa: PLC0415

            return keys(rest)
        case ["-h" | "--help"]:
            print(_USAGE, end="")
            return 0
        case _:
            print(_USAGE, end="", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
