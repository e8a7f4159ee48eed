"""What it costs on Kubernetes: `make bench-cluster`, on the cluster that is up, in a namespace of its own.

`pods` makes the floors (bare pods of the worker's image; `in_pod` drives a bare CLI in one of them), `starts`, `turns`
and `held` measure, `timeline` says where a start's time goes, `telling` what the API server and the operator count.
"""
