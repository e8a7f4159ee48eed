"""`claude-code-api keys create|list|revoke`: the API keys of teams, on a cluster or in a file.

`command` reads the arguments and prints, `cluster` and `file` keep the records.
"""
