"""Names from any conversation id."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from claude_crds.names import session_name, slug

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
ids = st.text(min_size=1, max_size=256)


@given(ids, ids)
def test_any_id_gives_a_dns_label(tenant: str, conversation: str) -> None:
    name = session_name(tenant, conversation)
    assert LABEL.fullmatch(name)
    assert len(name) <= 46


@given(ids, ids, ids, ids)
def test_different_conversations_have_different_names(t1: str, c1: str, t2: str, c2: str) -> None:
    assert (session_name(t1, c1) == session_name(t2, c2)) == ((t1, c1) == (t2, c2))


def test_tenant_and_id_are_not_run_together() -> None:
    assert session_name("a", "bc") != session_name("ab", "c")
    assert session_name("default", "../../etc") == session_name("default", "../../etc")


def test_the_slug_is_for_the_eye() -> None:
    assert slug("Größe: My Project/№ 7!") == "groe-my-project-no-7"
    assert slug("../..") == ""
    assert session_name("default", "My chat").startswith("conv-my-chat-")
