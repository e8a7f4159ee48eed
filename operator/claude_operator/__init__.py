"""The operator: when a session is claimed, started, suspended, resumed, evicted. It never sees a message."""
