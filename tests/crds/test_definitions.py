"""The resource definitions: the API server's rules for structural schemas, and that the code says the same."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from claude_crds.model_names import RESERVED, TOOLS
from claude_crds.names import CONVERSATION_ID_MAX
from claude_crds.resources import (
    API_VERSION,
    GROUP,
    POOLS,
    SESSIONS,
    TEAMS,
    VERSION,
    Desired,
    Phase,
    Resource,
    duration,
)
from claude_crds.teams import NAME_MAX as TEAM_NAME_MAX
from claude_crds.teams import Aspect, Period
from claude_router.sessions import LOCAL_TENANT
from claude_router.settings import RouterSettings
from claude_worker.settings import DEFAULT_MODELS, PERMISSION_MODES, SYSTEM_PROMPT_MODES, TOOL_ACTIVITY

Json = dict[str, Any]
CRDS = Path(__file__).resolve().parents[2] / "crds"
RESOURCES: dict[str, Resource[Any]] = {"claudesessions": SESSIONS, "claudepools": POOLS, "claudeteams": TEAMS}
TYPES = {"object", "array", "string", "integer", "number", "boolean"}


@functools.cache
def definition(plural: str) -> Json:
    loaded: Json = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return loaded


def version(plural: str) -> Json:
    (only,) = definition(plural)["spec"]["versions"]
    assert isinstance(only, dict)
    return only


def schema(plural: str) -> Json:
    found: Json = version(plural)["schema"]["openAPIV3Schema"]
    return found


def nodes(node: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every schema below and including this one, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if key in node:
            yield from nodes(node[key], path + suffix)


def at(plural: str, path: str) -> Json:
    return dict(nodes(schema(plural)))[path]


def fields(plural: str) -> list[tuple[str, Json]]:
    """All but `metadata`, of which a definition may say next to nothing."""
    return [(path, node) for path, node in nodes(schema(plural)) if not path.startswith(".metadata")]


DEFINITIONS = pytest.mark.parametrize("plural", RESOURCES)


@DEFINITIONS
def test_names_group_and_version_are_the_ones_in_the_code(plural: str) -> None:
    made, resource = definition(plural), RESOURCES[plural]
    assert made["apiVersion"] == "apiextensions.k8s.io/v1"
    assert made["metadata"]["name"] == f"{plural}.{GROUP}"
    spec = made["spec"]
    assert (spec["group"], spec["scope"], spec["names"]["plural"]) == (GROUP, "Namespaced", resource.plural)
    assert spec["names"]["kind"] == resource.kind
    assert spec["names"]["listKind"] == f"{resource.kind}List"
    assert spec["names"]["categories"] == ["claude"]
    assert "cs" not in spec["names"]["shortNames"], "taken by componentstatuses"
    assert resource.api_version == API_VERSION
    assert (version(plural)["name"], version(plural)["served"], version(plural)["storage"]) == (VERSION, True, True)
    assert version(plural)["subresources"]["status"] == {}


def test_a_pool_can_be_scaled() -> None:
    scale = version("claudepools")["subresources"]["scale"]
    assert scale == {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.live"}


@DEFINITIONS
def test_the_chart_has_it_and_the_job_that_upgrades_it_may(plural: str) -> None:
    chart = CRDS.parent / "charts/claude-code-api"
    assert (chart / f"crds/{plural}.yaml").resolve() == CRDS / f"{plural}.yaml"
    assert f"- {plural}.{GROUP}\n" in (chart / "templates/crds-job.yaml").read_text()


@DEFINITIONS
def test_every_schema_is_structural(plural: str) -> None:
    for path, node in nodes(schema(plural)):
        assert node["type"] in TYPES, path
        assert ("items" in node) == (node["type"] == "array"), path
        assert not ("properties" in node and "additionalProperties" in node), path
        if "properties" in node or "additionalProperties" in node:
            assert node["type"] == "object", path
        assert set(node.get("required", ())) <= set(node.get("properties", {})), path
        if node["type"] == "array":
            assert node["x-kubernetes-list-type"] in ("map", "set"), path
        if node.get("x-kubernetes-list-type") == "map":
            assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), path


@DEFINITIONS
def test_every_field_is_explained(plural: str) -> None:
    for path, node in fields(plural):
        if not path.endswith("{}"):
            assert re.fullmatch(r"[A-Z0-9][^\n]{8,}[.…]", node["description"]), path


@DEFINITIONS
def test_rules_say_what_is_allowed_and_what_they_look_at_is_bounded(plural: str) -> None:
    for path, node in fields(plural):
        for rule in node.get("x-kubernetes-validations", ()):
            assert len(rule["message"]) > 20, path
            assert ("oldSelf" in rule["rule"]) == ("cannot be" in rule["message"]), path
        if path.startswith(".spec") and node["type"] == "string" and "podTemplate" not in path:
            assert "maxLength" in node or "enum" in node, f"no unbounded text from people: {path}"


@pytest.mark.parametrize("field", ["conversationID", "tenant", "team", "poolRef", "workspaceClaimName"])
def test_what_a_conversation_is_cannot_be_changed(field: str) -> None:
    assert [r["rule"] for r in at("claudesessions", f".spec.{field}")["x-kubernetes-validations"]] == [
        "self == oldSelf"
    ]


@pytest.mark.parametrize(
    ("plural", "names", "wide"),
    [
        (
            "claudesessions",
            ["Conversation", "Pool", "Phase", "Pod", "Last-Active", "Turns", "Cost", "Age"],
            ["Tenant", "Team", "Input", "Output", "Desired", "Volume", "Restarts", "Message"],
        ),
        (
            "claudepools",
            ["Size", "Live", "Busy", "Warm", "Suspended", "Queued", "Ready", "Age"],
            ["Idle-Timeout", "Image", "Message"],
        ),
        (
            "claudeteams",
            ["Sessions", "Live", "Turns", "Cost", "Budget", "Age"],
            ["Pool", "Period", "Max-Live", "Exceeded", "Key-Expiring", "Key-Expired", "Message"],
        ),
    ],
)
def test_kubectl_get_shows_what_the_design_says(plural: str, names: list[str], wide: list[str]) -> None:
    columns = version(plural)["additionalPrinterColumns"]
    assert [c["name"] for c in columns if not c.get("priority")] == names
    assert [c["name"] for c in columns if c.get("priority")] == wide
    for column in columns:
        path = re.sub(r"\[\?\(.*\)\]", "[]", column["jsonPath"])
        if path != ".metadata.creationTimestamp":
            node = at(plural, path)
            expected = "date" if node.get("format") == "date-time" else node["type"]
            assert column["type"] == expected, column["name"]
        assert column["description"].endswith(".")


@DEFINITIONS
def test_the_views_have_the_definitions_fields_and_defaults(plural: str) -> None:
    """A field of the definition that no view has is forgotten; one of a view that no definition has does not exist."""
    compare(schema(plural), RESOURCES[plural].view)


def compare(node: Json, view: type[Any]) -> None:
    for info in msgspec.structs.fields(view):
        if info.encode_name == "metadata":
            continue
        child = node["properties"][info.encode_name]
        if info.required:
            assert info.encode_name in node["required"]
        inner = nested(info.type)
        if inner:
            compare(child.get("items", child), inner)
        elif "default" in child:
            default = info.default if info.default is not msgspec.NODEFAULT else info.default_factory()
            assert child["default"] == (list(default) if isinstance(default, tuple) else default), info.encode_name
    declared = set(node.get("properties", {})) - {"apiVersion", "kind", "metadata"}
    read = {info.encode_name for info in msgspec.structs.fields(view)}
    assert declared - read <= {"observedGeneration"}, view


def nested(annotation: Any) -> type[Any] | None:
    """The Struct in `X`, `X | None` or `tuple[X, ...]`."""
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, msgspec.Struct)), None)


def test_choices_and_limits_are_the_ones_that_the_parts_know() -> None:
    assert at("claudesessions", ".status.phase")["enum"] == [str(p) for p in Phase]
    assert at("claudesessions", ".spec.desiredState")["enum"] == [str(d) for d in Desired]
    assert at("claudesessions", ".spec.conversationID")["maxLength"] == CONVERSATION_ID_MAX
    assert at("claudesessions", ".spec.tenant")["default"] == LOCAL_TENANT
    assert at("claudeteams", ".spec.budget.period")["enum"] == [str(p) for p in Period]
    assert at("claudesessions", ".spec.team")["maxLength"] == TEAM_NAME_MAX
    for plural in RESOURCES:
        assert schema(plural)["properties"]["metadata"]["properties"]["name"]["maxLength"] == TEAM_NAME_MAX
    assert at("claudepools", ".spec.permissionMode")["enum"] == list(PERMISSION_MODES)
    assert set(at("claudepools", ".spec.systemPrompt")["enum"]) == set(SYSTEM_PROMPT_MODES)
    assert set(at("claudepools", ".spec.toolActivity")["enum"]) == set(TOOL_ACTIVITY)
    assert at("claudepools", ".spec.tools")["enum"] == list(TOOLS)
    named = at("claudeteams", ".status.conditions")["description"]
    assert [aspect for aspect in Aspect if aspect not in named] == []
    (rule,) = at("claudepools", ".spec.models")["x-kubernetes-validations"]
    assert {name for name in RESERVED if f"name != '{name}'" in rule["rule"]} == RESERVED


def test_a_teams_own_address_needs_a_credential_of_its_own() -> None:
    (rule,) = at("claudeteams", ".spec.anthropic")["x-kubernetes-validations"]
    assert rule["rule"] == "!has(self.baseURL) || has(self.secretRef)"


def test_a_limit_of_a_team_is_none_unless_it_is_set() -> None:
    for field in ("maxSessions", "maxLive", "maxConcurrentTurns", "requestsPerMinute"):
        node = at("claudeteams", f".spec.{field}")
        assert (node["minimum"], "default" in node) == (1, False)
    assert schema("claudeteams")["properties"]["spec"].get("required", []) == []


def test_a_pools_defaults_are_those_of_one_machine() -> None:
    local = RouterSettings()

    def default(field: str) -> Any:
        return at("claudepools", f".spec.{field}")["default"]

    assert (default("size"), default("warm")) == (local.pool_size, local.warm_workers)
    assert duration(default("idleTimeout")) == local.idle_timeout
    assert duration(default("queueTimeout")) == local.queue_timeout
    assert duration(default("turnTimeout")) == local.turn_timeout
    assert default("permissionMode") == local.permission_mode
    assert default("systemPrompt") == local.system_prompt_mode
    assert default("toolActivity") == local.tool_activity
    assert default("tools") == local.tools
    assert duration(default("parkTimeout")) == local.park_timeout
    assert default("remoteImages") == local.allow_remote_images
    assert at("claudepools", ".spec.claude.slashCommands")["default"] == local.slash_commands
    assert default("models") == dict(local.models) == dict(DEFAULT_MODELS)


DURATIONS = ("idleTimeout", "queueTimeout", "turnTimeout", "parkTimeout", "retention")


def pattern(field: str) -> re.Pattern[str]:
    (rule,) = at("claudepools", f".spec.{field}")["x-kubernetes-validations"]
    found = re.search(r"matches\('\^(.*?)\$'\)", rule["rule"])
    assert found
    return re.compile(found[1])


@given(st.one_of(st.from_regex(pattern("idleTimeout"), fullmatch=True), st.text("0159hms.-d ", max_size=8)))
def test_code_and_definition_agree_on_what_a_duration_is(text: str) -> None:
    allowed = {bool(text) and bool(pattern(field).fullmatch(text)) for field in DURATIONS}
    assert len(allowed) == 1
    try:
        seconds = duration(text)
    except ValueError:
        assert allowed == {False}
    else:
        assert allowed == {True}
        assert seconds >= 0
