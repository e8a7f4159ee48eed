"""`python -m claude_router.cluster`: the endpoint on a cluster; settings come from the environment (see README)."""

from __future__ import annotations

import sys

from claude_router.cluster.serve import main

if __name__ == "__main__":
    sys.exit(main())
