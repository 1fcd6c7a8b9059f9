"""Parsers of text that settings and query parameters share. They raise ValueError."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

T = TypeVar("T")


def parse_integer(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of decimal digits that accepts `low` to `high`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return parse


def parse_choice(values: Mapping[str, T]) -> Callable[[str], T]:
    """Return a parser that looks a word up, ignoring case."""

    def parse(text: str) -> T:
        if text.lower() not in values:
            raise ValueError
        return values[text.lower()]

    return parse


def parse_bool(text: str) -> bool:
    """Return True for yes and False for no."""
    if text not in ("yes", "no"):
        raise ValueError
    return text == "yes"


def parse_datetime(text: str) -> datetime:
    """Return an ISO 8601 date or time; it is in UTC unless it names another time zone."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
