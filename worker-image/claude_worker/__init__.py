"""The worker: an OpenAI-compatible HTTP server around one Claude Code process. It never talks to Kubernetes."""
