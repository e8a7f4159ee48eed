"""The node's addresses: all of 198.18.0.0/15, the range for benchmarks, so that nothing resembles a real network.

The files under etc/, addons/ and kind.yaml repeat those of pods and services.
"""

from __future__ import annotations

ALL = "198.18.0.0/15"
PODS = "198.18.0.0/17"
SERVICES = "198.19.0.0/20"
API_SERVICE = "198.19.0.1"
DNS_SERVICE = "198.19.0.10"
NODE_ADDRESS = "198.18.255.1"
HOST_ADDRESS = "198.18.255.2"
"""The other end of the wire: pods reach what listens there on the host."""
LINK_BITS = 30
HOST_LINK = "kube0"
NODE_LINK = "eth0"
