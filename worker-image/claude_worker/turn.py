"""One turn: from the prompt on the CLI's input to the result on its output.

The turn belongs to the prompt's uuid: frames before the CLI says that it has started that prompt belong to work the CLI
took up by itself (a finished background task) and are not shown.
"""

from __future__ import annotations

import asyncio
import uuid

from claude_worker.frames import Frame
from claude_worker.openai.errors import ApiError, model_failure
from claude_worker.outbox import Outbox
from claude_worker.translate import Translator

_HOPELESS = (401, 403)


class Turn:
    """Feeds one request's outbox from the CLI's frames.

    The outbox closes when the client has all it will get; `over` is set when the CLI itself is through with the prompt.
    """

    def __init__(self, translator: Translator, outbox: Outbox) -> None:
        self.uuid = str(uuid.uuid4())
        self.translator = translator
        self.outbox = outbox
        self.started = False
        self.over = asyncio.Event()
        self.credential_accepted: bool | None = None
        """What the turn showed about the credential for the model's API; None: nothing."""

    def feed(self, frame: Frame) -> None:
        """Take a frame of the CLI."""
        if frame.type == "command_lifecycle" and frame.command_uuid == self.uuid:
            self._lifecycle(frame.state)
        elif self.started and not self.over.is_set():
            if frame.subtype == "api_retry" and frame.error_status in _HOPELESS:
                # The CLI would repeat a refused key for minutes.
                self.credential_accepted = False
                self.outbox.close(model_failure(frame.error_status, "The model's API refused the credentials."))
            self.outbox.put(self.translator.feed(frame))
            if self.translator.finished:
                self._judge(self.translator.error)
                self.end(self.translator.error)

    def _judge(self, error: ApiError | None) -> None:
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

    def end(self, error: ApiError | None) -> None:
        """The CLI is through with this prompt, or gone."""
        if self.translator.aborted and error is None:
            error = ApiError(499, "The turn was interrupted.", code="turn_interrupted", retry=False)
        self.over.set()
        self.outbox.close(error)
