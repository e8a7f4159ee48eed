# The whole endpoint in one container: router, local pool, workers and the Claude Code CLI. See compose.yaml.
#
#   docker build -t claude-code-api .
#
# PIP_CERT: path, inside the build, of a CA bundle that is mounted for it, on networks that inspect TLS.
FROM debian:trixie-slim

# git, ripgrep and curl are what Claude Code's own tools expect to find.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl git procps python3 python3-venv ripgrep \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /home/claude claude \
    && install --directory --owner=claude --group=claude /data

# The dependencies (with the 381 MB CLI) are a layer of their own, which a change of our sources does not touch.
ARG PIP_CERT
COPY requirements-local.lock /tmp/
RUN python3 -m venv /opt/claude-code-api \
    && /opt/claude-code-api/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /tmp/requirements-local.lock \
    && rm /tmp/requirements-local.lock

COPY crds /opt/src/crds
COPY operator /opt/src/operator
COPY router /opt/src/router
COPY worker-image /opt/src/worker-image
# Found through the environment's own path file: a PYTHONPATH, or this environment on the PATH, would reach the commands
# that Claude Code runs. Compiled here, since the root file system is read-only later.
RUN printf '%s\n' /opt/src/crds /opt/src/operator /opt/src/router /opt/src/worker-image \
        > "$(/opt/claude-code-api/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/claude-code-api.pth" \
    && /opt/claude-code-api/bin/python3 -m compileall -q /opt/src

# IS_SANDBOX: this container is the sandbox that the CLI's bypassPermissions mode asks for.
ENV HOST=0.0.0.0 \
    PORT=3000 \
    SESSIONS_DIR=/data/sessions \
    IS_SANDBOX=1 \
    HOME=/home/claude \
    LANG=C.UTF-8
USER 10001
WORKDIR /home/claude
VOLUME /data
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=6s --start-period=15s CMD ["/opt/claude-code-api/bin/python3", "-m", "claude_router", "--check-health"]
CMD ["/opt/claude-code-api/bin/python3", "-m", "claude_router"]
