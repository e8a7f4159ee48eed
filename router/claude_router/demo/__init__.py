"""A scripted stand-in for the Messages API, so that the real CLI runs without a key.

`make run` puts it behind the CLI when no credentials are set; the tests drive every case through it. The script of an
answer is read from the prompt itself (see `script`), so the server keeps no conversation state and may restart at will.
"""
