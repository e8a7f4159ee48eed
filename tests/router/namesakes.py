"""Two conversations, of two teams, whose sessions would have one name: found by a search of a minute."""

from __future__ import annotations

from claude_router.sessions import ConversationKey

RED = ConversationKey("red", "please-fix-the-failing-login-test 15340074")
BLUE = ConversationKey("blue", "please-fix-the-failing-login-test 53013308")
assert RED.name == BLUE.name
