"""`python -m claude_router.gateway`: see `claude_router.gateway.serve`."""

from __future__ import annotations

import sys

from claude_router.gateway.serve import main

if __name__ == "__main__":
    sys.exit(main())
