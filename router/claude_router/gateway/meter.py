"""One request's way into the ledger: begun, scanned, priced, ended once."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable

from claude_router.gateway import errors
from claude_router.gateway.callers import Caller
from claude_router.gateway.flags import ESTIMATED, UNKNOWN_MODEL, UNMETERED
from claude_router.gateway.ledger import MOST_WAITING, Begun, Ended, Ledger
from claude_router.gateway.metrics import GatewayMetrics
from claude_router.gateway.prices import Prices
from claude_router.gateway.scan import Counted, Scanner
from claude_router.gateway.spending import Spending

OTHER = "other"
_BYTES_A_TOKEN = 4
_MOST_GUESSED = 200_000
SETTLE_SECONDS = 1.0
"""The longest that an answer waits for its row: a disk that hangs must not keep turns from going on."""

Heard = Callable[[Caller, Counted, float], None]
"""Called with what each request used, and its cost in USD."""


class Metered:
    """A request that has begun. `end` may be called again: the first call counts."""

    __slots__ = ("_body_bytes", "_meter", "_over", "_written", "began", "caller", "id", "model", "unsent")

    def __init__(
        self, meter: Meter, caller: Caller, model: str, body_bytes: int, written: asyncio.Future[None]
    ) -> None:
        """`written` is set when it has a row."""
        self._meter = meter
        self._body_bytes = body_bytes
        self._over = False
        self._written = written
        self.id = f"gw_{secrets.token_hex(12)}"
        self.began = meter.clock()
        self.caller = caller
        self.model = model
        self.unsent = False
        """Whether the model cannot have got it."""

    def end(self, status: int, scanner: Scanner | None, *, whole: bool = True) -> None:
        """It was answered, `whole` or not, with this status (0: not at all); the scanner has seen what has passed."""
        if self._over:
            return
        self._over = True
        flags: list[str] = []
        counted = scanner.counted if scanner else None
        if counted is None and status == 200 and whole:
            flags.append(UNMETERED)
        elif counted is None and status in (0, 200) and not self.unsent:  # it broke off before the API said anything
            prompt = min(_MOST_GUESSED, self._body_bytes // _BYTES_A_TOKEN)
            counted = Counted(input=prompt, output=min(_MOST_GUESSED, scanner.passed if scanner else 0))
            flags.append(ESTIMATED)
        elif counted is not None and scanner is not None and not scanner.complete:
            flags.append(ESTIMATED)
        self._written = asyncio.get_running_loop().create_future()
        self._meter.price(self, status, scanner, counted or Counted(), flags, self._written)

    @property
    def unsettled(self) -> bool:
        """Whether there is something to wait for."""
        return not self._written.done()

    async def settled(self) -> None:
        """Return when what has been said of it, its beginning or its end, survives whatever ends this process."""
        if self.unsettled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._written  # which is given up when the time is over: no later piece waits again


class Meter:
    """Belongs to the event loop. `clock` is Unix time; that of budgets is `clock_offset` seconds ahead of it."""

    def __init__(
        self,
        ledger: Ledger,
        prices: Prices,
        spending: Spending,
        metrics: GatewayMetrics,
        known_team: Callable[[str], bool],
        *,
        clock: Callable[[], float] = time.time,
        clock_offset: float = 0.0,
        heard: Heard = lambda *_: None,
    ) -> None:
        self.clock = clock
        self._offset = clock_offset
        self._heard = heard
        self.spending = spending
        self._ledger = ledger
        self._prices = prices
        self._metrics = metrics
        self._known_team = known_team

    def begin(self, caller: Caller, model: str, body_bytes: int) -> Metered:
        """Note it. Raises ApiError (503) while the ledger cannot keep up: nothing is spent that is not written."""
        if self._ledger.waiting > MOST_WAITING:
            raise errors.not_ready("the ledger of requests cannot be written")
        written = asyncio.get_running_loop().create_future()
        request = Metered(self, caller, model, body_bytes, written)
        begun = Begun(request.id, request.began, caller.team, caller.session, caller.pool, model)
        self._ledger.begin(begun, _teller(written))
        return request

    def budget_time(self) -> float:
        """The time by the clock of budgets."""
        return self.clock() + self._offset

    def price(
        self,
        request: Metered,
        status: int,
        scanner: Scanner | None,
        counted: Counted,
        flags: list[str],
        written: asyncio.Future[None],
    ) -> None:
        """Write down what became of it; see `Metered.end`."""
        model = (scanner.model if scanner else "") or request.model
        cost, known = self._prices.cost(model, counted) if any(counted) else (0.0, True)
        if not known:
            flags.append(UNKNOWN_MODEL)
        message = scanner.message if scanner else ""
        ended = Ended(request.id, self.clock(), model[:200], message[:200], status, counted, cost, ",".join(flags))
        self._ledger.end(ended, _teller(written))
        team = request.caller.team
        self.spending.add(team, request.began + self._offset, counted, cost)
        self._heard(request.caller, counted, cost)
        shown = team if self._known_team(team) else OTHER
        self._metrics.metered(shown, self._prices.name_of(model) or OTHER, counted, cost)
        for flag in flags:
            self._metrics.flagged(flag)


def _teller(written: asyncio.Future[None]) -> Callable[[], None]:
    """For the ledger's thread: has the future set on its own loop."""
    loop = written.get_loop()

    def set_result() -> None:
        if not written.done():
            written.set_result(None)

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(set_result)

    return tell
