"""From a request's bytes to one of our structs, with errors that say where the body is wrong."""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

import msgspec

from claude_worker.openai.errors import ApiError, bad_request
from claude_worker.openai.messages import missing

_T = TypeVar("_T", bound=msgspec.Struct)
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_UNPRINTABLE = re.compile(r"[^A-Za-z0-9_.-]")
_MOST_UNKNOWN = 16
_names = msgspec.json.Decoder(dict[str, msgspec.Raw])


class BodyDecoder(Generic[_T]):
    """Decodes bodies of one kind; fields that it does not know are accepted and named."""

    def __init__(self, kind: type[_T]) -> None:
        strict: Any = msgspec.defstruct(kind.__name__, [], bases=(kind,), frozen=True, forbid_unknown_fields=True)
        self._known = frozenset(kind.__struct_fields__)
        self._strict: msgspec.json.Decoder[_T] = msgspec.json.Decoder(strict)
        self._lenient = msgspec.json.Decoder(kind)

    def decode(self, body: bytes) -> tuple[_T, tuple[str, ...]]:
        """The body, and the names of its unknown fields, fit for a header.

        Raises ApiError (400): malformed JSON, invalid UTF-8, not an object, wrong or missing fields.
        """
        try:
            try:
                return self._strict.decode(body), ()
            except msgspec.ValidationError as error:
                if "unknown field" not in str(error):
                    raise
            names = [_UNPRINTABLE.sub("?", name[:64]) for name in _names.decode(body) if name not in self._known]
            return self._lenient.decode(body), tuple(names[:_MOST_UNKNOWN])
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from error
        except RecursionError as error:
            raise bad_request("The body is nested too deeply.", code="invalid_json") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise bad_request(f"The body is not valid JSON: {error}.", code="invalid_json") from error


def _invalid(text: str) -> ApiError:
    found = _PATH.search(text)
    path = found[1] if found else None
    message = text[: found.start()] if found else text
    if lacking := _MISSING.search(message):
        return missing(f"{path}.{lacking[1]}" if path else lacking[1])
    if path is None:
        return bad_request(f"The body must be a JSON object. {message}.", code="invalid_body")
    return bad_request(
        f"Invalid value for '{path}': {message[0].lower()}{message[1:]}.", code="invalid_type", param=path
    )
