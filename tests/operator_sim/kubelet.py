"""A kubelet: pods get an address and a worker, their containers a status; deleted ones end, and then they are gone."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any

from claude_crds.resources import SESSION_UID_LABEL
from crds.fake_api import Json
from operator_sim.api import CLAIM, POD, SESSION, SimApi, claims_of
from operator_sim.worker import Volume, Worker

_ADDRESSES = itertools.count(os.getpid() * 500)
"""Of 127.0.0.0/8; two test processes hardly meet, and nobody else listens there."""


def address() -> str:
    number = next(_ADDRESSES) % (200 * 250 * 250)
    return f"127.{number // 62500 + 10}.{number // 250 % 250 + 1}.{number % 250 + 1}"


def container(*, ready: bool = False, restarts: int = 0, state: Json | None = None, last: Json | None = None) -> Json:
    """The status of the worker's container, as a kubelet writes it."""
    return {
        "name": "worker", "ready": ready, "started": ready, "restartCount": restarts, "image": "img", "imageID": "",
        "state": state or {"running": {"startedAt": "2030-01-31T12:00:00Z"}}, "lastState": last or {},
    }  # fmt: skip


class Kubelet:
    """`boot`: seconds from a pod to its worker; `stop`: from its deletion to its end, drained or not."""

    def __init__(self, api: SimApi) -> None:
        self.api = api
        self.boot = 0.0
        self.stop_seconds = 0.0
        self.lag: Callable[[], float] = lambda: 0.0
        """Seconds that a request to drain is on its way."""
        self.image_fails: Callable[[Json], bool] = lambda pod: False
        self.workers: dict[str, Worker] = {}
        """By pod name: those that run."""
        self.volumes: dict[str, Volume] = {}
        """By the claim's uid."""
        self.every: list[Worker] = []
        self.killed_busy: list[str] = []
        """Pods that were ended while a turn ran, though nobody has deleted their session."""
        self.by_hand: set[str] = set()
        """Pods that the test ends itself."""
        self._deleted: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._bell = asyncio.Event()
        api.listeners.append(self._heard)

    def _heard(self, change: str, kind: str, body: Json) -> None:
        self._bell.set()
        self._bell = asyncio.Event()
        if kind != POD:
            return
        meta = body["metadata"]
        if change == "ADDED":
            self._deleted[meta["uid"]] = asyncio.Event()
            task = asyncio.get_running_loop().create_task(self._run(body))
            self._tasks[meta["uid"]] = task
            task.add_done_callback(lambda done: self._ended(meta["uid"], done))
        elif (change == "DELETED" or meta.get("deletionTimestamp")) and meta["uid"] in self._deleted:
            self._deleted[meta["uid"]].set()

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(uid, None)
        self._deleted.pop(uid, None)
        if not task.cancelled() and (error := task.exception()):
            self.killed_busy.append(f"the kubelet failed: {error!r}")

    async def close(self) -> None:
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self.every))

    async def _run(self, pod: Json) -> None:
        name, deleted = pod["metadata"]["name"], self._deleted[pod["metadata"]["uid"]]
        starting = asyncio.get_running_loop().create_task(self._start(pod))
        waiting = asyncio.get_running_loop().create_task(deleted.wait())
        try:
            await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            await waiting
        finally:
            starting.cancel()
            waiting.cancel()
            await asyncio.gather(starting, waiting, return_exceptions=True)
        worker = self.workers.get(name)
        if worker is not None:
            if worker.busy and name not in self.by_hand and self._wanted(pod):
                self.killed_busy.append(name)
            if self.stop_seconds:
                await asyncio.sleep(self.stop_seconds)
            del self.workers[name]
            await worker.stop()
        present = self.api.get(POD, name)
        if present and present["metadata"]["uid"] == pod["metadata"]["uid"]:
            self.api.remove(POD, name)

    def _wanted(self, pod: Json) -> bool:
        present = self.api.get(POD, pod["metadata"]["name"]) or pod
        uid = present["metadata"]["labels"].get(SESSION_UID_LABEL)
        return any(s["metadata"]["uid"] == uid for s in self.api.all(SESSION))

    async def _start(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        await asyncio.sleep(self.boot)
        if self.image_fails(pod):
            for reason in ("ErrImagePull", "ImagePullBackOff"):
                state = {"waiting": {"reason": reason, "message": 'Back-off pulling image "img"'}}
                self.status(name, "Pending", container(state=state))
                await asyncio.sleep(0)
            return
        claim = await self._claim(name, claims_of(pod)[0])
        uid = claim["metadata"]["uid"]
        volume = self.volumes.setdefault(uid, Volume(uid))
        token = next(e["value"] for e in pod["spec"]["containers"][0]["env"] if e["name"] == "TOKEN_SHA256")
        worker = Worker(name, address(), token, volume, self.api._ring, lag=self.lag)
        self.every.append(worker)
        starting = asyncio.get_running_loop().create_task(worker.start())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting  # or else its port would stay open, with nobody to close it
            await worker.stop()
            raise
        self.workers[name] = worker
        self.status(name, "Running", container(ready=True), podIP=worker.address)

    async def _claim(self, pod: str, name: str) -> Json:
        """The claim, bound; a pod whose claim is not there, or going, is not scheduled."""
        while True:
            bell = self._bell
            claim = self.api.get(CLAIM, name)
            if claim and not claim["metadata"].get("deletionTimestamp"):
                if claim.get("status", {}).get("phase") != "Bound":
                    self.api.patch(CLAIM, name, status={"phase": "Bound"})
                return claim
            why = f'0/1 nodes are available: persistentvolumeclaim "{name}" not found.'
            self.status(pod, "Pending", None, scheduled=why)
            bell = self._bell
            await bell.wait()

    def status(self, name: str, phase: str, status: Json | None, scheduled: str = "", **more: Any) -> None:
        """Write a pod's status; what it says of the address stays."""
        old = self.api.get(POD, name)
        if old is None:
            return
        condition = {"type": "PodScheduled", "status": "False" if scheduled else "True"}
        if scheduled:
            condition |= {"reason": "Unschedulable", "message": scheduled}
        new = {
            "phase": phase, "conditions": [condition], "containerStatuses": [status] if status else [],
            **{k: v for k, v in old.get("status", {}).items() if k == "podIP"}, **more,
        }  # fmt: skip
        if new != old.get("status"):
            self.api.patch(POD, name, status=new)

    # -- troubles ------------------------------------------------------------------------------------------------

    async def restart(self, name: str, reason: str = "OOMKilled") -> None:
        """Its container ends and is started again in the same pod."""
        worker = self.workers.pop(name)
        await worker.stop()
        worker.busy = 0
        pod = self.api.get(POD, name)
        if pod is None or pod["metadata"].get("deletionTimestamp"):
            return
        restarts = pod["status"]["containerStatuses"][0]["restartCount"] + 1
        last = {"terminated": {"exitCode": 137, "reason": reason}}
        self.status(name, "Running", container(restarts=restarts, state=last, last={}))
        again = Worker(name, worker.address, worker.token_sha, worker.volume, self.api._ring, lag=self.lag)
        self.every.append(again)
        await again.start()
        present = self.api.get(POD, name)
        if present is None or present["metadata"].get("deletionTimestamp"):
            await again.stop()
            return
        self.workers[name] = again
        self.status(name, "Running", container(ready=True, restarts=restarts, last=last))
