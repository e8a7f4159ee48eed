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

# IS_SANDBOX: this container is the sandbox that the CLI's bypassPermissions mode asks for.
ENV PATH=/opt/claude-code-api/bin:$PATH \
    PYTHONPATH=/opt/src/crds:/opt/src/operator:/opt/src/router:/opt/src/worker-image \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=3000 \
    SESSIONS_DIR=/data/sessions \
    IS_SANDBOX=1 \
    HOME=/home/claude
USER 10001
WORKDIR /home/claude
VOLUME /data
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s CMD ["python3", "-m", "claude_router", "--check-health", "http://127.0.0.1:3000/health"]
CMD ["python3", "-m", "claude_router"]
