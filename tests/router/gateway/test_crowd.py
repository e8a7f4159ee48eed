"""How much one worker may have in flight."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from claude_router.gateway.crowd import Crowd
from claude_worker.openai.errors import ApiError


def test_a_pod_has_its_number_and_another_pod_its_own() -> None:
    crowd = Crowd(2, 100)
    with ExitStack() as inside:
        for pod in ("a", "a", "b", "b"):
            inside.enter_context(crowd.entered(pod, 10))
        for pod in ("a", "b"):
            with pytest.raises(ApiError) as refused, crowd.entered(pod, 0):
                pass
            assert refused.value.status == 429
    assert crowd._pods == {}, "nothing is kept of those who left"


def test_bodies_count_together_but_one_alone_may_be_large() -> None:
    crowd = Crowd(9, 100)
    with crowd.entered("a", 150):
        with pytest.raises(ApiError), crowd.entered("a", 1):
            pass
        with crowd.entered("b", 60), crowd.entered("b", 40):
            pass
    with crowd.entered("a", 60), pytest.raises(ApiError), crowd.entered("a", 41):
        pass
    with crowd.entered("a", 100):
        pass


def test_a_failure_gives_its_place_back() -> None:
    crowd = Crowd(1, 100)
    with pytest.raises(ValueError, match="x"), crowd.entered("a", 1):
        raise ValueError("x")
    with crowd.entered("a", 1):
        pass
