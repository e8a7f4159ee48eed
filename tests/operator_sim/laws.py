"""What must hold at every single change of the cluster, whatever happens to operators, workers and pods."""

from __future__ import annotations

import asyncio

from claude_crds.resources import POOL_LABEL, SESSION_LABEL, SESSION_UID_LABEL
from crds.fake_api import Json
from operator_sim.api import CLAIM, POD, POOL, SESSION, SimApi, claims_of

_LATE_SECONDS = 0.5
_UP = ("turns", "restarts", "observedGeneration")


class Laws:
    """Collects what is broken in `broken`."""

    def __init__(self, api: SimApi) -> None:
        self.broken: list[str] = []
        self._api = api
        self._claims: dict[str, str] = {}
        """Session uid → the claim that a pod of it was on."""
        self._sizes: list[tuple[float, str, int]] = []
        self._last: dict[str, Json] = {}
        self.may_lose_claims: set[str] = set()
        """Sessions whose claim the test itself deletes."""
        api.listeners.append(self._check)

    def _check(self, change: str, kind: str, body: Json) -> None:
        if kind == POOL and change != "DELETED":
            self._sizes.append((self._now(), body["metadata"]["name"], body["spec"]["size"]))
        elif kind == POD:
            self._pods(change, body)
        elif kind == SESSION and change != "DELETED":
            self._status(body)
        elif kind == CLAIM:
            self._claim(change, body)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _size(self, pool: str) -> int:
        """The pool's present size, or the largest that an operator who has just not heard of it may go by."""
        sizes = [(moment, size) for moment, name, size in self._sizes if name == pool]
        if not sizes:
            return 0
        until = [moment for moment, _ in sizes[1:]] + [float("inf")]
        return max(s for (_, s), end in zip(sizes, until, strict=True) if end > self._now() - _LATE_SECONDS)

    def _pods(self, change: str, pod: Json) -> None:
        name = pod["metadata"]["name"]
        pods = self._api.all(POD)
        labels = pod["metadata"]["labels"]
        if change == "ADDED":
            pool = labels[POOL_LABEL]
            count = sum(p["metadata"]["labels"].get(POOL_LABEL) == pool for p in pods)
            if count > (size := self._size(pool)):
                self.broken.append(f"{name} is pod number {count} of a pool of {size}")
            if any(set(claims_of(p)) & set(claims_of(pod)) for p in pods if p["metadata"]["name"] != name):
                self.broken.append(f"{name} is a second pod on {claims_of(pod)}")
        uid = labels.get(SESSION_UID_LABEL)
        if uid and change != "DELETED":
            if sum(p["metadata"]["labels"].get(SESSION_UID_LABEL) == uid for p in pods) > 1:
                self.broken.append(f"{name} is a second pod of {labels[SESSION_LABEL]}")
            [claim] = claims_of(pod)
            known = self._claims.setdefault(uid, claim)
            # A spare that was claimed, and gone before anybody was told of it, has left nothing on its volume.
            session = self._api.get(SESSION, labels[SESSION_LABEL])
            used = session and session.get("status", {}).get("turns", 0)
            if known != claim and used and labels[SESSION_LABEL] not in self.may_lose_claims:
                self.broken.append(f"{labels[SESSION_LABEL]} was on {known}, and is on {claim}")
            self._claims[uid] = claim

    def _status(self, session: Json) -> None:
        meta, status = session["metadata"], session.get("status", {})
        before = self._last.get(meta["uid"], {})
        self._last[meta["uid"]] = status
        name = meta["name"]
        for counter in _UP:
            if status.get(counter, 0) < before.get(counter, 0):
                self.broken.append(f"{counter} of {name} went back: {before[counter]} -> {status.get(counter)}")
        if status.get("observedGeneration", 0) > meta["generation"]:
            self.broken.append(f"{name} answers generation {status['observedGeneration']} of {meta['generation']}")
        ready = status.get("phase") == "Ready"
        if ready != bool(status.get("endpoint")) or (ready and not status.get("podName")):
            self.broken.append(f"{name}: {status.get('phase')} with endpoint {status.get('endpoint')}")
        old, new = before.get("volumeClaimName"), status.get("volumeClaimName")
        if old and old != new and before.get("turns"):
            self.broken.append(f"the claim of {name} changed: {old} -> {new}")

    def _claim(self, change: str, claim: Json) -> None:
        meta = claim["metadata"]
        uid = meta.get("labels", {}).get(SESSION_UID_LABEL)
        going = change == "DELETED" or meta.get("deletionTimestamp")
        if not uid or not going or meta["labels"][SESSION_LABEL] in self.may_lose_claims:
            return
        if any(s["metadata"]["uid"] == uid for s in self._api.all(SESSION)):
            self.broken.append(f"the claim {meta['name']} of a living session is deleted")
