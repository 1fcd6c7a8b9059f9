"""What the operator can set: read once from the environment or `.env`, handed in from there."""

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from webapp.errors import StartError

# SQLAlchemy's own default for postgresql:// is another driver.
DRIVERS = {
    "postgres": "postgresql+psycopg2",
    "postgresql": "postgresql+psycopg2",
    "postgresql+psycopg2": "postgresql+psycopg2",
    "sqlite": "sqlite",
}


def available_cpus(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many CPUs this process may use.

    cpu_max: where a container's quota stands, as `QUOTA PERIOD` in microseconds or `max PERIOD`
    (the kernel's documentation of control groups, version 2).
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of plain digits that raises ValueError out of range."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return parse


def _one_of(values: Mapping[str, Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if text.lower() not in values:
            raise ValueError
        return values[text.lower()]

    return parse


def _database_url(text: str) -> str:
    try:
        url = make_url(text)
        url = url.set(drivername=DRIVERS[url.drivername])
    except (ArgumentError, KeyError) as exc:
        raise ValueError from exc
    if url.database in (None, "", ":memory:"):
        raise ValueError
    return url.render_as_string(hide_password=False)


def _rate_limit(text: str) -> str:
    from limits import parse  # only who sets a limit pays for its import

    parse(text)
    return text


def _rate_limit_store(text: str) -> str:
    if not text.startswith(("memory://", "memcached://")):
        raise ValueError
    return text


LOG_LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")}
SWITCH = dict.fromkeys(("on", "true", "yes", "1"), True) | dict.fromkeys(
    ("off", "false", "no", "0"), False
)


def _setting(name: str, default: Any, parse: Callable[[str], Any], expected: str) -> Any:
    how = {"name": name, "parse": parse, "expected": expected}
    kind = "default_factory" if callable(default) else "default"
    return field(metadata=how, **{kind: default})


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, with its default."""

    host: str = _setting("HOST", "127.0.0.1", str, "an address to listen on")
    port: int = _setting("PORT", 8000, whole_number(1, 65535), "a port from 1 to 65535")
    data_dir: Path = _setting("DATA_DIR", Path("instance"), Path, "a folder")
    database_url: str = _setting(
        "DATABASE_URL",
        "",
        _database_url,
        "postgresql://USER:PASSWORD@HOST/NAME or sqlite:///FILE",
    )
    model_dir: Path = _setting("MODEL_DIR", Path("artifacts"), Path, "a folder")
    workers: int = _setting(
        "WEB_CONCURRENCY", available_cpus, whole_number(1, 256), "a whole number from 1 to 256"
    )
    secret_key: str = _setting("SECRET_KEY", "", str, "a long random text")
    rate_limit: str = _setting("RATE_LIMIT", "", _rate_limit, "a limit such as '120 per minute'")
    rate_limit_store: str = _setting(
        "RATE_LIMIT_STORE", "memory://", _rate_limit_store, "memory:// or memcached://HOST:PORT"
    )
    trusted_proxies: int = _setting(
        "TRUSTED_PROXIES", 0, whole_number(0, 9), "how many proxies stand in front, 0 to 9"
    )
    operator_token: str = _setting("OPERATOR_TOKEN", "", str, "a long random text")
    log_level: str = _setting(
        "LOG_LEVEL", "info", _one_of(LOG_LEVELS), f"one of {', '.join(LOG_LEVELS)}"
    )
    debug: bool = _setting("DEBUG", False, _one_of(SWITCH), "on or off")

    def __post_init__(self) -> None:
        if not self.database_url:
            url = f"sqlite:///{self.data_dir.absolute() / 'predictions.db'}"
            object.__setattr__(self, "database_url", url)


SECRETS = ("DATABASE_URL", "SECRET_KEY", "OPERATOR_TOKEN")


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; an empty value counts as none.

    environ: in place of the environment, which wins over `.env`.
    Raises StartError with the name, what was expected and what was found.
    """
    if environ is None:
        sources: list[Mapping[str, str | None]] = [dotenv_values(".env"), os.environ]
        environ = {name: text for source in sources for name, text in source.items() if text}
    values = {}
    for setting in fields(Settings):
        name = setting.metadata["name"]
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            values[setting.name] = setting.metadata["parse"](text)
        except ValueError as exc:
            found = "something else" if name in SECRETS else repr(text)
            raise StartError(
                f"{name} should be {setting.metadata['expected']}, but is {found}."
            ) from exc
    return Settings(**values)


def secret_key(settings: Settings) -> str:
    """Return the key that signs cookies, made once and kept in `data_dir` where none is set.

    Raises StartError.
    """
    if settings.secret_key:
        return settings.secret_key
    path = settings.data_dir / "secret_key"
    try:
        # Whoever creates the file fills it before it has its name, so nobody reads half a key.
        draft = path.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
        return path.read_text()
    except OSError as exc:
        raise StartError(f"{settings.data_dir} cannot be written ({exc.strerror}).") from exc
