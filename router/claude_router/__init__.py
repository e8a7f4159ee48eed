"""The router: who asks (API key, conversation) and where to (the worker's endpoint). It never parses a stream."""
