"""The contract between router, operator and worker: names, settings, and (beside it) the resource definitions."""

__version__ = "0.1.0"
