"""The chart's values: what is refused, and that their schema knows them all. No cluster."""

from __future__ import annotations

import json

import pytest
import yaml

from cluster.chart import CHART, Commands, Json, environment, pod_templates, render


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("poool.size=3", "'poool' not allowed"),
        ("pool.siez=3", "'/pool': additional properties 'siez' not allowed"),
        ("pool.size=many", "'/pool/size': got string, want"),
        ("pool.size=-1", "'/pool/size': minimum: got -1, want 0"),
        ("pool.idleTimeout=5x", "'/pool/idleTimeout': '5x' does not match pattern"),
        ("pool.claude.commands.A=x", "'/pool/claude/commands': additional properties 'A' not allowed"),
        ("pool.workspace.git.url=https://me:secret@h/x", "'/pool/workspace/git/url': 'https://me:secret@h/x' does not"),
        ("pool.workspace.git.key=x", "'/pool/workspace/git': additional properties 'key' not allowed"),
        ("pool.workspace.gitHosts={https://h}", "'/pool/workspace/gitHosts/0': 'https://h' does not match pattern"),
        ("pool.tools=mine", "'/pool/tools': value must be one of 'own', 'both', 'client'"),
        ("pool.systemPrompt=prepend", "'/pool/systemPrompt': value must be one of 'append', 'replace', 'ignore'"),
        ("router.replicas=two", "'/router/replicas': got string, want integer"),
        ("router.auditLog=/var/log/audit.log", "'/router/auditLog': '/var/log/audit.log' does not match pattern"),
        ("router.auditLog=/tmp/../audit.log", "'/router/auditLog': '/tmp/../audit.log' does not match pattern"),
        ("operator.logLevel=loud", "'/operator/logLevel': value must be one of 'debug', 'info', 'warning'"),
        ("networkPolicy.enabled=maybe", "'/networkPolicy/enabled': got string, want boolean"),
        ("worker.image.digest=abc", "'/worker/image/digest': 'abc' does not match pattern"),
        ("gateway.enabled=1", "'/gateway/enabled': got number, want boolean"),
        ("gateway.url=x", "'/gateway': additional properties 'url' not allowed"),
        ("teams.a.maxLife=1", "'/teams/a': additional properties 'maxLife' not allowed"),
        ("teams.a.budget.usd=0", "'/teams/a/budget/usd': exclusiveMinimum: got 0, want 0"),
        ("teams.a.anthropic.baseURL=https://x", "'/teams/a/anthropic': missing property 'secretRef'"),
        ("teams.A=null", "invalid propertyName 'A'"),
        ("fullnameOverride=" + "n" * 45, "'/fullnameOverride': maxLength: got 45, want 44"),
        ("imagePullSecrets={a}", "'/imagePullSecrets/0': got string, want object"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: Commands, setting: str, told: str) -> None:
    done = helm.helm("template", "x", str(CHART), f"--set={setting}")
    assert done.returncode != 0
    assert told in done.stderr


@pytest.mark.parametrize("where", ["", "stdout", "/tmp/audit.log"])
def test_the_audit_log_goes_where_a_router_can_write(helm: Commands, where: str) -> None:
    made = render(helm, f"--set=router.auditLog={where}")
    router = next(p for p in pod_templates(made) if p["metadata"]["name"] == "claude-code-api-router")
    assert environment(router).get("AUDIT_LOG", "") == where
    (container,) = router["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    written = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    assert written == ["/tmp"]


def test_the_schema_knows_every_value_and_no_other() -> None:
    def compare(schema: Json, values: Json, where: str) -> None:
        known = set(schema["properties"]) - {"global"}
        assert known >= set(values), where
        for name in known:
            part = schema["properties"][name]
            if part.get("properties") and where + name not in (
                "pool.podTemplate",
                "router.resources",
                "operator.resources",
                "gateway.resources",
                "egressProxy.resources",
            ):
                compare(part, values[name], f"{where}{name}.")
            else:
                assert name in values, where + name

    compare(
        json.loads((CHART / "values.schema.json").read_text()), yaml.safe_load((CHART / "values.yaml").read_text()), ""
    )
