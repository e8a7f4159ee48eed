"""The copy behind a reflector, and its news of our own writes: never behind them, never back to what was before."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from claude_crds.cache import Cache, Change
from claude_crds.views import Metadata, Object

NAMES = ("a", "b")


def thing(name: str, version: int, uid: str = "u1") -> Object:
    return Object(metadata=Metadata(name=name, uid=uid, resource_version=str(version)))


def versions(cache: Cache[Object]) -> dict[str, str]:
    return {o.name: o.metadata.resource_version for o in cache.items()}


def synced(*listed: Object, at: int) -> Cache[Object]:
    cache: Cache[Object] = Cache({})
    cache.replace(listed, str(at))
    return cache


def test_a_write_is_seen_before_the_watch_brings_it_and_once() -> None:
    cache = synced(at=10)
    heard: list[Change] = []
    cache.listen(lambda change, *_: heard.append(change))
    cache.learn(thing("a", 12))
    assert versions(cache) == {"a": "12"}
    cache.apply(thing("a", 12))
    assert heard == ["added"]


def test_the_watch_does_not_lead_back_behind_a_write() -> None:
    cache = synced(thing("a", 5), at=10)
    cache.learn(thing("a", 14))
    cache.apply(thing("a", 12))
    assert versions(cache) == {"a": "14"}
    cache.apply(thing("a", 14))
    cache.apply(thing("a", 15))
    assert versions(cache) == {"a": "15"}


def test_a_late_answer_does_not_bring_back_what_is_deleted() -> None:
    cache = synced(at=10)
    cache.apply(thing("a", 11))
    cache.remove(thing("a", 12))
    cache.learn(thing("a", 11))
    assert versions(cache) == {}


def test_a_list_from_before_the_write_does_not_drop_it_and_one_from_after_does() -> None:
    cache = synced(at=10)
    cache.learn(thing("a", 12))
    cache.replace([], "11")
    assert versions(cache) == {"a": "12"}
    cache.replace([], "13")
    assert versions(cache) == {}


def test_an_older_answer_does_not_undo_a_newer_one() -> None:
    cache = synced(at=10)
    cache.learn(thing("a", 14))
    cache.learn(thing("a", 12))
    assert versions(cache) == {"a": "14"}


def test_versions_that_are_no_numbers_and_times_before_the_first_list_teach_nothing() -> None:
    cache: Cache[Object] = Cache({})
    cache.learn(thing("a", 5))
    assert versions(cache) == {}
    cache.replace([], "x10")
    cache.learn(Object(metadata=Metadata(name="a", uid="u", resource_version="x11")))
    assert versions(cache) == {}


def test_an_object_made_again_is_told_as_deleted_and_added() -> None:
    cache = synced(thing("a", 5), at=10)
    heard: list[Change] = []
    cache.listen(lambda change, *_: heard.append(change))
    cache.learn(thing("a", 14, uid="u2"))
    assert heard == ["deleted", "added"]
    cache.remove(thing("a", 13, uid="u1"))
    assert versions(cache) == {"a": "14"}


@dataclass
class World:
    """A server, its history, and a cache that hears of it late: by watch, by lists of any age, by answers to writes."""

    cache: Cache[Object] = field(default_factory=lambda: Cache({}))
    version: int = 1
    live: dict[str, Object] = field(default_factory=dict)
    log: list[tuple[str, Object]] = field(default_factory=list)
    snapshots: list[tuple[int, dict[str, Object]]] = field(default_factory=lambda: [(1, {})])
    answers: list[Object] = field(default_factory=list)
    watched: int = 0
    """How many entries of the log the watch has brought, or a list made needless."""

    def write(self, name: str) -> None:
        self.version += 1
        uid = self.live[name].metadata.uid if name in self.live else f"u{self.version}"
        self.live[name] = thing(name, self.version, uid)
        self.answers.append(self.live[name])
        self._log("put", self.live[name])

    def delete(self, name: str) -> None:
        if name in self.live:
            self.version += 1
            gone = self.live.pop(name)
            self._log("delete", thing(name, self.version, gone.metadata.uid))

    def _log(self, what: str, body: Object) -> None:
        self.log.append((what, body))
        self.snapshots.append((self.version, dict(self.live)))

    def watch(self) -> None:
        """The next event."""
        if self.watched < len(self.log) and self.cache.position:
            what, body = self.log[self.watched]
            self.watched += 1
            if what == "put":
                self.cache.apply(body)
            else:
                self.cache.remove(body)

    def relist(self, age: int) -> None:
        """A LIST that was answered some events ago; never from before what the watch has brought, as on the server."""
        index = max(self.watched, len(self.log) - age)
        version, objects = self.snapshots[index]
        self.watched = index
        self.cache.replace(objects.values(), str(version))

    def learn(self, which: int) -> None:
        if self.answers:
            answer = self.answers[which % len(self.answers)]
            before = self.cache.get(answer.name)
            self.cache.learn(answer)
            after = self.cache.get(answer.name)
            if after is None or int(after.metadata.resource_version) < int(answer.metadata.resource_version):
                # Only when the watch or a list has already told what came later: that it is gone.
                assert before is None
                assert not self.cache.position or int(self.cache.position) >= int(answer.metadata.resource_version)


happenings = st.one_of(
    st.tuples(st.sampled_from(["write", "delete"]), st.sampled_from(NAMES)),
    st.tuples(st.just("watch"), st.none()),
    st.tuples(st.sampled_from(["relist", "learn"]), st.integers(0, 6)),
)


@settings(max_examples=300)
@given(st.lists(happenings, max_size=40))
def test_it_never_goes_back_and_ends_where_the_server_is(history: list[tuple[str, str | int | None]]) -> None:
    world = World()
    seen: dict[tuple[str, str], int] = {}
    gone: set[tuple[str, str]] = set()
    # A listener's errors are caught, so they are looked at afterwards.
    wrong: list[str] = []

    def listen(change: Change, old: Object | None, new: Object | None) -> None:
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            gone.add((old.name, old.metadata.uid))
        if new is not None:
            identity, version = (new.name, new.metadata.uid), int(new.metadata.resource_version)
            if identity in gone:
                wrong.append(f"{identity} was deleted and came back")
            if version <= seen.get(identity, 0):
                wrong.append(f"{identity} went back to {version}")
            seen[identity] = version

    world.cache.listen(listen)
    for what, argument in history:
        getattr(world, what)(*([] if argument is None else [argument]))
    if not world.cache.position:
        world.relist(0)
    while world.watched < len(world.log):
        world.watch()
    assert wrong == []
    assert {o.name: o for o in world.cache.items()} == world.live
    assert world.cache._ahead == {}
