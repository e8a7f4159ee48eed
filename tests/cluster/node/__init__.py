"""A Kubernetes cluster for the tests, wherever they run: `python -m cluster.node --help`, and README.md here."""
