"""The router on a cluster: conversations are ClaudeSessions, and an operator gives them workers.

It keeps nothing of its own: any number of routers may run, and each may end at any time.
"""
