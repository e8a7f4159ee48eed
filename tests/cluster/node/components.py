"""The parts of a node and their command lines.

All paths are the node's own (see init.py): its binaries are in /run/node/bin, its configuration in /run/node/etc.
"""

from __future__ import annotations

from cluster.node.network import NODE_ADDRESS, SERVICES

RUN = "/run/node"
ENVIRONMENT = {"PATH": f"{RUN}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/var/lib"}

_ETCD = "http://127.0.0.1:2379"
_SERVER = {
    "--etcd-servers": _ETCD,
    "--secure-port": "6443",
    "--advertise-address": NODE_ADDRESS,
    "--endpoint-reconciler-type": "master-count",
    "--service-cluster-ip-range": SERVICES,
    "--tls-cert-file": f"{RUN}/keys/server.crt",
    "--tls-private-key-file": f"{RUN}/keys/server.key",
    "--client-ca-file": f"{RUN}/keys/ca.crt",
    "--token-auth-file": f"{RUN}/tokens.csv",
    "--service-account-issuer": "https://kubernetes.default.svc.cluster.local",
    "--service-account-key-file": f"{RUN}/keys/accounts.pub",
    "--service-account-signing-key-file": f"{RUN}/keys/accounts.key",
    "--kubelet-client-certificate": f"{RUN}/keys/server.crt",
    "--kubelet-client-key": f"{RUN}/keys/server.key",
    # The node's name is nobody's DNS name: without this `kubectl exec` fails.
    "--kubelet-preferred-address-types": "InternalIP",
    "--authorization-mode": "Node,RBAC",
    # Beside the default ones, which have ResourceQuota, LimitRanger, PodSecurity and DefaultStorageClass.
    "--enable-admission-plugins": "NodeRestriction",
    "--allow-privileged": "true",
}
_CONTROLLERS = {
    "--kubeconfig": f"{RUN}/kubeconfigs/kube-controller-manager",
    "--service-account-private-key-file": f"{RUN}/keys/accounts.key",
    "--root-ca-file": f"{RUN}/keys/ca.crt",
    "--use-service-account-credentials": "true",
    "--kube-api-qps": "500",  # with the default, 20, the controllers take 5 s to get their credentials
    "--kube-api-burst": "1000",
    "--flex-volume-plugin-dir": "/var/lib/kubelet/volume-plugins",  # its default would be made on the host
    "--leader-elect": "false",
    "--bind-address": "127.0.0.1",
}
_SCHEDULER = {
    "--kubeconfig": f"{RUN}/kubeconfigs/kube-scheduler",
    "--leader-elect": "false",
    "--bind-address": "127.0.0.1",
}
_KUBELET = {
    "--config": f"{RUN}/etc/kubelet.yaml",
    "--kubeconfig": f"{RUN}/kubeconfigs/kubelet",
    "--hostname-override": "node1",
    "--node-ip": NODE_ADDRESS,
}
_STORE = {
    "--data-dir": "/var/lib/etcd",
    "--listen-client-urls": _ETCD,
    "--advertise-client-urls": _ETCD,
    "--listen-peer-urls": "http://127.0.0.1:2380",
    "--unsafe-no-fsync": "true",  # nothing of a node is to outlive it
    "--log-level": "warn",
}


def _command(program: str, options: dict[str, str]) -> tuple[str, ...]:
    return (f"{RUN}/bin/{program}", *(f"{key}={value}" for key, value in options.items()))


COMPONENTS = {
    "etcd": _command("etcd", _STORE),
    "containerd": _command("containerd", {"--config": f"{RUN}/etc/containerd.toml"}),
    "kube-apiserver": _command("kube-apiserver", _SERVER),
    "kube-controller-manager": _command("kube-controller-manager", _CONTROLLERS),
    "kube-scheduler": _command("kube-scheduler", _SCHEDULER),
    "kubelet": _command("kubelet", _KUBELET),
    "kube-proxy": _command("kube-proxy", {"--config": f"{RUN}/etc/kube-proxy.yaml"}),
}
FIRST = ("etcd", "containerd", "kube-apiserver")
"""These need no API server; the others start once it is ready, since they would back off for seconds."""
