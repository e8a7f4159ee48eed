"""Teams in the operator's metrics: a bounded number of names."""

from __future__ import annotations

from claude_crds.views import TeamStatus
from claude_operator.metrics import MOST_TEAMS, OperatorMetrics


def test_a_bounded_number_of_teams_is_named_and_one_that_is_gone_is_not() -> None:
    metrics = OperatorMetrics()
    for number in range(MOST_TEAMS + 3):
        metrics.team(f"t{number}", TeamStatus(sessions=2, live=1, turns=5))
    metrics.render()
    value = metrics.registry.get_sample_value
    assert value("claude_operator_team_sessions", {"team": "t0"}) == 2
    assert value("claude_operator_team_turns", {"team": "other"}) == 15
    metrics.team("t0", None)
    text = metrics.render().decode()
    assert 'team="t0"' not in text
    assert f'team="t{MOST_TEAMS}"' in text
    assert value("claude_operator_team_live_workers", {"team": "other"}) == 2
