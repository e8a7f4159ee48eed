"""Flags of a row in the ledger: what its figures are worth."""

from __future__ import annotations

from typing import Final

LOST: Final = "lost"
"""The gateway died first."""
ESTIMATED: Final = "estimated"
"""The answer broke off."""
UNMETERED: Final = "unmetered"
"""The API said nothing."""
UNKNOWN_MODEL: Final = "unknown-model"
"""Priced as the dearest."""
