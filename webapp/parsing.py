"""Text parsers for settings and query parameters. They raise ValueError."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

T = TypeVar("T")
UNITS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
MAX_WINDOW_S = 30 * 86_400  # memcached reads a longer expiry as a Unix timestamp


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


def parse_rate_limit(text: str) -> tuple[int, int, str]:
    """Return the number of requests, the window in seconds, and a description of both."""
    pattern = rf"(\d{{1,9}}) *(?:per|/) *(?:(\d{{1,9}}) *)?({'|'.join(UNITS_S)})s?"
    match = re.fullmatch(pattern, text.strip().lower(), re.ASCII)
    if not match:
        raise ValueError
    requests, units, unit = int(match[1]), int(match[2] or 1), match[3]
    if not (requests and 1 <= units * UNITS_S[unit] <= MAX_WINDOW_S):
        raise ValueError
    window = unit if units == 1 else f"{units} {unit}s"
    return requests, units * UNITS_S[unit], f"{requests} requests per {window}"
