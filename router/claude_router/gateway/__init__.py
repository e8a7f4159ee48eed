"""The credential gateway between workers and the model: workers hold no key of the organisation's.

A worker calls it as if it were the Messages API, with a credential of its own pod. The gateway checks that, puts the
real key in, relays bytes as they come, and notes what the API says each request has used. `python -m
claude_router.gateway` is the process; docs/gateway.md tells how it is run.
"""
