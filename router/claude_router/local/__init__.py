"""The pool on one machine: the same policy as the operator's, over worker processes instead of pods.

`store` is what outlives the server, `process` is one worker, `pool` decides and applies, `serve` is the command.
"""
