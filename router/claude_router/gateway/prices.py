"""List prices of models, from a dated file; by default the one beside this module.

The file: `date`, `source`, `webSearch` (USD a search), `usFactor` (for inference in the US only) and `models`: a name →
USD per million tokens (`input`, `output`, `cacheWrite5m`, `cacheWrite1h`, `cacheRead`), with `longPrompt` (the same,
for prompts of more than `above` tokens) and `fast` (the same, for fast mode) where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from claude_crds.settings import SettingsError
from claude_router.gateway.models import is_version, plain
from claude_router.gateway.scan import Counted

DEFAULT = Path(__file__).with_name("prices.json")
_MILLION = 1_000_000


class Rates(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """USD per million tokens."""

    input: float
    output: float
    cache_write_5m: float = msgspec.field(name="cacheWrite5m")
    cache_write_1h: float = msgspec.field(name="cacheWrite1h")
    cache_read: float

    def of(self, counted: Counted) -> float:
        """USD for these tokens."""
        return (
            counted.input * self.input
            + counted.output * self.output
            + counted.cache_read * self.cache_read
            + counted.cache_write_5m * self.cache_write_5m
            + counted.cache_write_1h * self.cache_write_1h
        ) / _MILLION


class LongPrompt(Rates, frozen=True, rename="camel", kw_only=True):
    """Rates of prompts of more than `above` tokens, cached ones included."""

    above: int


class ModelPrices(Rates, frozen=True, rename="camel", kw_only=True):
    """One model's."""

    long_prompt: LongPrompt | None = None
    fast: Rates | None = None


class Prices(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """See the module."""

    date: str
    models: Mapping[str, ModelPrices]
    source: str = ""
    web_search: float = 0.0
    us_factor: float = 1.0

    def name_of(self, model: str) -> str:
        """The entry that the model is priced by; empty: there is none."""
        asked = plain(model)
        return max((name for name in self.models if is_version(name, asked)), key=len, default="")

    def cost(self, model: str, counted: Counted) -> tuple[float, bool]:
        """USD, and whether the model was known. One that is not is as dear as the dearest."""
        name = self.name_of(model)
        entry = self.models[name] if name else max(self.models.values(), key=lambda known: known.output)
        rates: Rates = entry
        if counted.fast and entry.fast is not None:
            rates = entry.fast
        elif entry.long_prompt is not None and counted.prompt > entry.long_prompt.above:
            rates = entry.long_prompt
        usd = rates.of(counted) * (self.us_factor if counted.us else 1.0)
        return usd + counted.searches * self.web_search, bool(name)


def read(path: Path | None = None) -> Prices:
    """Raises SettingsError. Blocks."""
    try:
        prices = msgspec.json.decode((path or DEFAULT).read_bytes(), type=Prices)
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(f"PRICES_FILE: cannot be used: {error}") from error
    values = [v for m in prices.models.values() for v in msgspec.structs.astuple(m) if isinstance(v, int | float)]
    if not prices.models or min(values) < 0:
        raise SettingsError("PRICES_FILE: must name at least one model, and no price below 0")
    return prices
