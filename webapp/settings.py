"""The operator's settings, read once from the environment or `.env` and passed to components."""

import io
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from webapp.errors import StartupError
from webapp.parsing import parse_choice, parse_integer, parse_rate_limit


def available_cpus(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many CPUs this process may use.

    cpu_max: the file with a container's quota, as `QUOTA PERIOD` in microseconds or `max PERIOD`
    (Linux kernel documentation, control groups version 2).
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))


def _host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise ValueError from error
    return host


def parse_database_url(text: str) -> str | Path:
    """Return a libpq URL, or the path of a SQLite file. Raises ValueError."""
    scheme, separator, rest = text.partition("://")
    if scheme == "sqlite":
        return _sqlite_path(text)
    if scheme not in ("postgres", "postgresql", "postgresql+psycopg2") or not separator:
        raise ValueError
    # libpq mistakes part of a password with an unescaped / or @ for a host or name, and prints it.
    credentials, at, _ = rest.partition("?")[0].rpartition("@")
    if "/" in credentials or rest.count("@") > at.count("@"):
        raise ValueError
    from psycopg2 import ProgrammingError  # only needed for Postgres
    from psycopg2.extensions import parse_dsn

    url = f"postgresql://{rest}"
    try:
        ports = parse_dsn(url).get("port", "")
    except ProgrammingError:
        raise ValueError from None  # the message may contain part of the password
    for port in filter(None, ports.split(",")):
        parse_integer(1, 65535)(port)
    return url


def _sqlite_path(text: str) -> Path:
    path, query, _ = text.removeprefix("sqlite:///").partition("?")
    name = unquote(path)
    if path == text or name in ("", ":memory:") or query or "\0" in name:
        raise ValueError
    return Path(name)


def _rate_limit(text: str) -> str:
    parse_rate_limit(text)
    return text


def _rate_limit_store(text: str) -> str:
    url = urlsplit(text)
    is_memcached = url.scheme == "memcached" and url.hostname and text.endswith(url.netloc)
    if text != "memory://" and not is_memcached:
        raise ValueError
    if url.port is not None:  # raises ValueError if the port is invalid
        parse_integer(1, 65535)(str(url.port))
    return text


SECRETS = ("DATABASE_URL", "SECRET_KEY", "OPERATOR_TOKEN")
HISTORIES = {name: name for name in ("everyone", "own", "nobody")}
LOG_LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")}
SWITCH = dict.fromkeys(("on", "true", "yes", "1"), True) | dict.fromkeys(
    ("off", "false", "no", "0"), False
)


def _setting(name: str, default: Any, parse: Callable[[str], Any], expected: str) -> Any:
    metadata = {"name": name, "parse": parse, "expected": expected}
    is_shown = name not in SECRETS
    if callable(default):
        return field(default_factory=default, metadata=metadata, repr=is_shown)
    return field(default=default, metadata=metadata, repr=is_shown)


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, with its default."""

    host: str = _setting("HOST", "127.0.0.1", _host, "an address such as 127.0.0.1, 0.0.0.0 or ::")
    port: int = _setting("PORT", 8000, parse_integer(1, 65535), "a port from 1 to 65535")
    data_dir: Path = _setting("DATA_DIR", Path("instance"), Path, "a directory")
    database: str | Path = _setting(
        "DATABASE_URL",
        "",
        parse_database_url,
        "postgresql://USER:PASSWORD@HOST/NAME or sqlite:///FILE, with special characters "
        "percent-encoded",
    )
    model_dir: Path = _setting("MODEL_DIR", Path("artifacts"), Path, "a directory")
    workers: int = _setting(
        "WEB_CONCURRENCY", available_cpus, parse_integer(1, 256), "a number from 1 to 256"
    )
    secret_key: str = _setting("SECRET_KEY", "", str, "a long random string")
    rate_limit: str = _setting("RATE_LIMIT", "", _rate_limit, "a limit such as '120 per minute'")
    rate_limit_store: str = _setting(
        "RATE_LIMIT_STORE", "memory://", _rate_limit_store, "memory:// or memcached://HOST:PORT"
    )
    trusted_proxies: int = _setting(
        "TRUSTED_PROXIES", 0, parse_integer(0, 9), "the number of reverse proxies, 0 to 9"
    )
    operator_token: str = _setting("OPERATOR_TOKEN", "", str, "a long random string")
    history: str = _setting(
        "HISTORY", "everyone", parse_choice(HISTORIES), f"one of {', '.join(HISTORIES)}"
    )
    retention_days: int | None = _setting(
        "RETENTION_DAYS", None, parse_integer(1, 36_500), "a number of days from 1 to 36500"
    )
    log_level: str = _setting(
        "LOG_LEVEL", "info", parse_choice(LOG_LEVELS), f"one of {', '.join(LOG_LEVELS)}"
    )
    debug: bool = _setting("DEBUG", False, parse_choice(SWITCH), "on or off")

    def __post_init__(self) -> None:
        if not self.database:
            object.__setattr__(self, "database", self.data_dir.absolute() / "predictions.db")


def _read_env_file() -> Mapping[str, str | None]:
    try:
        text = Path(".env").read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f".env cannot be read as UTF-8 text: {error}.") from error
    for statement in parse_stream(io.StringIO(text)):
        if statement.error:
            raise StartupError(f"Line {statement.original.line} of .env should be NAME=VALUE.")
    return dotenv_values(stream=io.StringIO(text))


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; an empty value means the default.

    environ: replaces the environment, which takes precedence over `.env`.
    Raises StartupError with the setting's name, the expected format and the value.
    """
    if environ is None:
        sources: list[Mapping[str, str | None]] = [_read_env_file(), os.environ]
        environ = {name: text for source in sources for name, text in source.items() if text}
    values = {}
    for setting in fields(Settings):
        name = setting.metadata["name"]
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            values[setting.name] = setting.metadata["parse"](text)
        except ValueError as error:
            found = "something else" if name in SECRETS else repr(text)
            raise StartupError(
                f"{name} should be {setting.metadata['expected']}, but is {found}."
            ) from error
    return Settings(**values)
