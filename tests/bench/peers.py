"""What others made: a process a turn (claude-max-api-proxy), and a proxy in front of a model's API (LiteLLM)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.processes import Service, environment, service
from claude_worker import cli
from claude_worker.settings import WorkerSettings
from local.harness import ROOT, Model

_TOOLS = ROOT / ".tools"
_NPM = _TOOLS / "npm" / "node_modules"
_MAX_API = _NPM / ".bin" / "claude-max-api"
_LITELLM = _TOOLS / "litellm" / "bin" / "litellm"
_LITELLM_CONFIG = """\
model_list:
  - model_name: claude-code
    litellm_params: {{model: openai/x, api_base: "{url}/v1", api_key: none}}
"""
MAX_API_MODEL = "claude-sonnet-4"


def max_api_version() -> str:
    """Version of claude-max-api-proxy as `make bench` installs it; "" when it is not there."""
    package = _NPM / "claude-max-api-proxy" / "package.json"
    return str(json.loads(package.read_text())["version"]) if package.exists() else ""


def litellm_version() -> str:
    """The same of LiteLLM."""
    found = next(_TOOLS.glob("litellm/lib/python*/site-packages/litellm-[0-9]*.dist-info"), None)
    return found.name.removesuffix(".dist-info").removeprefix("litellm-") if found else ""


@contextmanager
def max_api(model: Model, folder: Path) -> Iterator[Service]:
    """claude-max-api-proxy, which starts the `claude` on its PATH for every turn: the same one that the workers use."""
    path = folder / "peer-path"
    path.mkdir()
    (path / "claude").symlink_to(cli.find_cli())
    config = folder / "peer-config"
    env = cli.environment(WorkerSettings(), environment(model.environment()), config)
    env["PATH"] = f"{path}:{env['PATH']}"
    with service("peer", folder, [str(_MAX_API), "{port}"], env=env) as running:
        yield running


@contextmanager
def litellm(upstream: Service, folder: Path, key: str) -> Iterator[Service]:
    """LiteLLM's proxy in front of the upstream. It does not start without a `key` that its clients must send."""
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM_CONFIG.format(url=upstream.url))
    env = environment({"LITELLM_LOCAL_MODEL_COST_MAP": "true", "LITELLM_TELEMETRY": "False", "LITELLM_MASTER_KEY": key})
    del env["PYTHONPATH"]
    command = [str(_LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", "{port}"]
    with service("litellm", folder, command, env=env) as running:
        yield running
