"""Typed views of the objects that router and operator read: only the fields that they use.

msgspec skips every other field, which is what makes thousands of objects cheap to hold (docs/performance.md) and keeps
a new field, phase or condition from breaking an older reader. Views are frozen; writing goes through merge patches
(`claude_crds.api`), which touch only the fields they name. Defaults are those of the definitions beside this package.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from claude_crds.objects import TIPS as TIPS
from claude_crds.objects import Annotations as Annotations
from claude_crds.objects import Condition as Condition
from claude_crds.objects import Frozen as Frozen
from claude_crds.objects import Metadata as Metadata
from claude_crds.objects import Object as Object
from claude_crds.objects import OwnerReference as OwnerReference
from claude_crds.objects import condition as condition


class PoolRef(Frozen, frozen=True):
    name: str = "default"


class Usage(Frozen, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = msgspec.field(default=0.0, name="costUSD")


class SecretName(Frozen, frozen=True):
    name: str


class Git(Frozen, frozen=True):
    """What a workspace is cloned from; `depth` 0: all of its history."""

    url: str
    ref: str = ""
    depth: int = 0
    secret_ref: SecretName | None = None


class Beginning(Frozen, frozen=True):
    """How a session's workspace begins, if not as its pool says."""

    git: Git | None = None
    empty: bool = False


class SessionSpec(Frozen, frozen=True):
    conversation_id: str = msgspec.field(name="conversationID")
    tenant: str = "default"
    team: str = ""
    pool_ref: PoolRef = PoolRef()
    desired_state: str = "Running"
    last_request_time: datetime | None = None
    workspace_claim_name: str = ""
    workspace: Beginning = Beginning()


class SessionStatus(Frozen, frozen=True):
    phase: str = ""
    observed_generation: int = 0
    waiting_since: datetime | None = None
    pod_name: str = ""
    endpoint: str = ""
    volume_claim_name: str = ""
    claude_session_id: str = msgspec.field(default="", name="claudeSessionID")
    last_active_time: datetime | None = None
    turns: int = 0
    usage: Usage = Usage()
    restarts: int = 0
    message: str = ""
    conditions: tuple[Condition, ...] = ()


class ClaudeSession(Object, frozen=True):
    spec: SessionSpec
    status: SessionStatus = SessionStatus()

    @property
    def pool(self) -> str:
        return self.spec.pool_ref.name

    @property
    def tips(self) -> str:
        """See `claude_router.tips`."""
        return self.metadata.annotations.tips


class Workspace(Frozen, frozen=True):
    storage_class_name: str = ""
    size: str = "10Gi"
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)
    git: Git | None = None
    git_hosts: tuple[str, ...] = ()


class SecretRef(Frozen, frozen=True):
    name: str
    key: str = "ANTHROPIC_API_KEY"


class Anthropic(Frozen, frozen=True):
    secret_ref: SecretRef | None = None
    base_url: str = msgspec.field(default="", name="baseURL")


class Egress(Frozen, frozen=True):
    allow: tuple[str, ...] = ()


class ConfigMapRef(Frozen, frozen=True):
    name: str


class ClaudeConfiguration(Frozen, frozen=True):
    """What Claude Code is configured by; `${NAME}` in it is a variable of the worker."""

    mcp_servers: dict[str, Any] = msgspec.field(default_factory=dict)
    memory: str = ""
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    commands: dict[str, str] = msgspec.field(default_factory=dict)
    agents: dict[str, str] = msgspec.field(default_factory=dict)
    config_map_ref: ConfigMapRef | None = None
    slash_commands: bool = False


def _models() -> dict[str, str]:
    return {"claude-code-opus": "opus", "claude-code-sonnet": "sonnet", "claude-code-haiku": "haiku"}


class PoolSpec(Frozen, frozen=True):
    """Durations are as people write them; `duration` reads them."""

    size: int = 5
    warm: int = 1
    idle_timeout: str = "5m"
    queue_timeout: str = "30s"
    turn_timeout: str = "1h"
    retention: str = "0"
    image: str = ""
    workspace: Workspace = Workspace()
    pod_template: dict[str, Any] = msgspec.field(default_factory=dict)
    model: str = ""
    models: dict[str, str] = msgspec.field(default_factory=_models)
    permission_mode: str = "bypassPermissions"
    system_prompt: str = "append"
    tool_activity: str = "reasoning"
    tools: str = "own"
    park_timeout: str = "15m"
    remote_images: bool = False
    claude: ClaudeConfiguration = ClaudeConfiguration()
    anthropic: Anthropic = Anthropic()
    egress: Egress = Egress()


class PoolStatus(Frozen, frozen=True):
    observed_generation: int = 0
    live: int = 0
    busy: int = 0
    warm: int = 0
    suspended: int = 0
    queued: int = 0
    conditions: tuple[Condition, ...] = ()


class ClaudePool(Object, frozen=True):
    spec: PoolSpec
    status: PoolStatus = PoolStatus()


class Budget(Frozen, frozen=True):
    """What a team may spend in a period (`teams.Period`)."""

    usd: float
    period: str = "month"
    warn_percent: int = 80


class TeamAnthropic(Frozen, frozen=True):
    secret_ref: SecretName | None = None
    base_url: str = msgspec.field(default="", name="baseURL")


class TeamSpec(Frozen, frozen=True):
    """A limit that is None is none."""

    pool_ref: PoolRef = PoolRef()
    models: tuple[str, ...] = ()
    max_sessions: int | None = None
    max_live: int | None = None
    max_concurrent_turns: int | None = None
    requests_per_minute: int | None = None
    budget: Budget | None = None
    anthropic: TeamAnthropic = TeamAnthropic()
    admin: bool = False


class TeamStatus(Frozen, frozen=True):
    observed_generation: int = 0
    sessions: int = 0
    live: int = 0
    turns: int = 0
    usage: Usage = Usage()
    period_start: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class ClaudeTeam(Object, frozen=True):
    spec: TeamSpec
    status: TeamStatus = TeamStatus()

    @property
    def pool(self) -> str:
        return self.spec.pool_ref.name


class Secret(Object, frozen=True):
    data: dict[str, bytes] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Secret(name={self.name!r})"  # whatever prints it, prints no secret


class Waiting(Frozen, frozen=True):
    """Why a container does not run yet, such as ImagePullBackOff."""

    reason: str = ""
    message: str = ""


class Terminated(Frozen, frozen=True):
    """How a container ended, such as OOMKilled."""

    reason: str = ""
    message: str = ""
    exit_code: int = 0


class ContainerState(Frozen, frozen=True):
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(Frozen, frozen=True):
    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class ClaimSource(Frozen, frozen=True):
    claim_name: str


class Volume(Frozen, frozen=True):
    persistent_volume_claim: ClaimSource | None = None


class PodSpec(Frozen, frozen=True):
    node_name: str = ""
    volumes: tuple[Volume, ...] = ()


class PodStatus(Frozen, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Object, frozen=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ClaimStatus(Frozen, frozen=True):
    phase: str = ""
    conditions: tuple[Condition, ...] = ()


class PersistentVolumeClaim(Object, frozen=True):
    status: ClaimStatus = ClaimStatus()
