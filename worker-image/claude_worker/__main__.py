"""`python -m claude_worker`: see `run`.

Signals come first: until the program's own handlers are in place there is nothing to clean up, and a pod's process 1
would not even die of a SIGTERM that nobody handles.
"""

from __future__ import annotations

import os
import signal
import sys


def _end(*_: object) -> None:
    # Not SystemExit: an import or a handler of exceptions that is under way could swallow it.
    os._exit(0)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)

    from claude_worker.run import main

    sys.exit(main())
