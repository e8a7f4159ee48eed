"""Helm on a live release: what people have set by hand, and what the chart has made up, outlive upgrades."""

from __future__ import annotations

import json

import pytest

from cluster.chart import CHART, Commands, Json

pytestmark = [pytest.mark.cluster]
QUIET = ("--set=router.replicas=0", "--set=operator.replicas=0", "--set=crds.upgrade=false")
"""No pods: this is about objects."""


@pytest.mark.usefixtures("definitions")
def test_a_scaled_pool_stays_scaled_until_its_value_changes(commands: Commands, namespace: str) -> None:
    def get(what: str) -> Json:
        done = commands.kubectl("get", what, f"--namespace={namespace}", "--output=json")
        assert done.returncode == 0, done.stderr
        found: Json = json.loads(done.stdout)
        return found

    def upgrade(*values: str) -> int:
        options = ("--install", f"--namespace={namespace}", *QUIET, *values)
        done = commands.helm("upgrade", "scaled", str(CHART), *options)
        assert done.returncode == 0, done.stderr
        return int(get("claudepool/default")["spec"]["size"])

    assert upgrade() == 5
    key = get("secret/scaled-claude-code-api-worker-key")["data"]
    for size in (9, 10):
        scaled = commands.kubectl("scale", "claudepool/default", f"--replicas={size}", f"--namespace={namespace}")
        assert scaled.returncode == 0, scaled.stderr
        assert upgrade() == size
    assert upgrade("--set=pool.size=3", "--force-conflicts") == 3
    assert upgrade("--set=pool.size=4") == 4
    assert get("secret/scaled-claude-code-api-worker-key")["data"] == key
    commands.helm("uninstall", "scaled", f"--namespace={namespace}")
