"""One turn: from the prompt on the CLI's input to the end of its answer, and the clients that read it.

The turn belongs to the prompt's uuid: frames before the CLI says that it has started that prompt belong to work the CLI
took up by itself (a finished background task) and are not shown. Its events are kept, so that a client that comes back
gets the same answer from its start.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable

from claude_worker.events import Arguments, End, Event, Reasoning, Text, Writer
from claude_worker.frames import Frame
from claude_worker.openai.chunks import Head
from claude_worker.openai.errors import ApiError, model_failure
from claude_worker.outbox import Outbox
from claude_worker.translate import Translator

_HOPELESS = (401, 403)
MOST_KEPT = 8 * 1024 * 1024
"""Characters of an answer that are kept for a client that comes back."""


class Reader:
    """One client's view of a turn, in the form it asked for; which turn that is can still change before its start."""

    def __init__(self, turn: Turn, writer: Callable[[Head], Writer], keepalive: float | None) -> None:
        """Without `keepalive` (seconds) the client wants the answer as a whole."""
        self._make = writer
        self.whole = keepalive is None
        self.turn = turn
        self.writer = writer(turn.head)
        self.outbox = Outbox(keepalive, self.writer.keepalive)
        turn.readers.add(self)

    def show(self, events: Iterable[Event]) -> None:
        """More of the answer."""
        if self.whole:
            return
        feed = self.writer.feed
        self.outbox.put(b"".join([feed(event) for event in events]))

    def follow(self, turn: Turn) -> None:
        """Read `turn` from its start instead. Raises ApiError (409) when its start is not kept any more."""
        if turn.kept_from:
            raise ApiError(409, "The answer that is being given is too long to be given again from its start.",
                           code="turn_not_replayable", retry=False)  # fmt: skip
        self.turn.readers.discard(self)
        self.turn = turn
        self.writer = self._make(turn.head)
        turn.join(self)

    def leave(self) -> None:
        """The client is gone, or has read all."""
        self.outbox.close()
        self.turn.left(self)


class Turn:
    """Feeds its readers from the CLI's frames.

    It closes when the clients have all they will get; `over` is set when the CLI itself is through with it, or waits
    for results of the client's tools.
    """

    def __init__(self, translator: Translator, model: str, created: int, conversation: str = "") -> None:
        self.uuid = str(uuid.uuid4())
        self.prompt = self.uuid
        """Id of the prompt that it answers: another turn's, when that one was parked and this one goes on."""
        self.head = Head(self.uuid.replace("-", ""), created, model, conversation)
        self.translator = translator
        self.events: list[Event] = []
        self.kept_from = 0
        self.readers: set[Reader] = set()
        self.history = ""
        """What the request was to the history, for the header `X-Claude-History`."""
        self.ignored: list[str] = []
        self.started = False
        self.begun = False
        """Its prompt has been sent."""
        self.over = asyncio.Event()
        self.closed = False
        self.error: ApiError | None = None
        self.delivered = False
        self.unread = False
        """Nobody read it when it ended: a client that left before may have seen less of it."""
        self.unwatched: Callable[[], None] | None = None
        self.tip_of: Callable[[], str] | None = None
        self.credential_accepted: bool | None = None
        """What the turn showed about the credential for the model's API; None: nothing."""
        self.size = 0
        self._when_closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    def ended(cls, translator: Translator, model: str, created: int, conversation: str, uuid: str) -> Turn:
        """A turn of before, whose answer is known; its events are to be set."""
        turn = cls(translator, model, created, conversation)
        turn.uuid = uuid
        turn.head = Head(uuid.replace("-", ""), created, model, conversation)
        turn.over.set()
        turn.close()
        return turn

    # -- frames --------------------------------------------------------------------------------------------------

    def feed(self, frame: Frame) -> None:
        """Take a frame of the CLI."""
        if frame.type == "command_lifecycle" and frame.command_uuid == self.prompt:
            self._lifecycle(frame.state)
        elif self.started and not self.over.is_set():
            if frame.subtype == "api_retry" and frame.error_status in _HOPELESS:
                # The CLI would repeat a refused key for minutes.
                self.credential_accepted = False
                self.close(model_failure(frame.error_status, "The model's API refused the credentials."))
            self.put(self.translator.feed(frame))
            self.judge()

    def judge(self) -> None:
        """End the turn when the translator has seen its end."""
        if self.over.is_set():
            return
        if self.translator.finished:
            self._judge_credential(self.translator.error)
            self.end(self.translator.error)
        elif self.translator.parked:
            self.end(None)

    def _judge_credential(self, error: ApiError | None) -> None:
        if error is not None and error.status in _HOPELESS:
            self.credential_accepted = False
        elif error is None and not self.translator.aborted:
            self.credential_accepted = True

    def _lifecycle(self, state: str | None) -> None:
        if state == "started":
            self.started = True
        elif state in ("cancelled", "completed") and not self.over.is_set():
            # A result comes before this; without one the prompt was dropped before it began.
            self.translator.aborted = True
            self.end(None)

    def put(self, events: list[Event]) -> None:
        """More of the answer; dropped once it is closed."""
        if not events or self.closed:
            return
        if type(events[-1]) is End and self.tip_of is not None:
            end = events[-1]
            events[-1] = End(end.reason, end.usage, end.cost_usd, end.claude_session_id, self.tip_of())
        self.events += events
        for event in events:
            if isinstance(event, Text | Reasoning):
                self.size += len(event.text)
            elif isinstance(event, Arguments):
                self.size += len(event.fragment)
        for reader in self.readers:
            reader.show(events)
        if self.size > MOST_KEPT and not any(r.whole for r in self.readers):
            self.kept_from += len(self.events)
            self.events.clear()

    def abandon(self) -> None:
        """Nobody waits for it any more: it is to be interrupted."""
        self.close(ApiError(499, "The client left; the turn was interrupted.", code="client_left", retry=False))

    def end(self, error: ApiError | None) -> None:
        """The CLI is through with this prompt, or gone."""
        if self.translator.aborted and error is None:
            error = ApiError(499, "The turn was interrupted.", code="turn_interrupted", retry=False)
        self.over.set()
        self.unread = not self.readers
        self.close(error)

    def close(self, error: ApiError | None = None) -> None:
        """The answer has ended. Only the first call counts."""
        if self.closed:
            return
        self.closed = True
        self.error = error
        for reader in self.readers:
            reader.outbox.close(error)
        if not self._when_closed.done():
            self._when_closed.set_result(None)

    async def when_closed(self) -> None:
        """Until the answer has ended."""
        await asyncio.shield(self._when_closed)

    # -- readers -------------------------------------------------------------------------------------------------

    def join(self, reader: Reader) -> None:
        """A client reads from the start."""
        self.readers.add(reader)
        reader.show(self.events)
        if self.closed:
            reader.outbox.close(self.error)

    def left(self, reader: Reader) -> None:
        """A client reads no more."""
        self.readers.discard(reader)
        if not self.readers:
            self.left_unread()

    def left_unread(self) -> None:
        """Nobody reads it."""
        if self.unwatched is not None:
            self.unwatched()

    def on_emptied(self, tell: Callable[[], None]) -> None:
        """`tell` whenever a client has caught up."""
        for reader in self.readers:
            reader.outbox.on_emptied = tell

    @property
    def full(self) -> bool:
        """A slow client has so much waiting that the CLI should pause."""
        return any(r.outbox.full for r in self.readers)
