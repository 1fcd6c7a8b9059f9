"""What the operator can set, and how it is told when it is wrong."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from webapp.app import create_app
from webapp.auth import read_secret_key
from webapp.errors import StartupError
from webapp.settings import Settings, available_cpus, read_settings
from webapp.startup import create_secret_key

NAMES = [setting.metadata["name"] for setting in fields(Settings)]
START_TOGETHER = """
import sys
from multiprocessing import get_context
from pathlib import Path
from webapp.auth import read_secret_key
from webapp.settings import Settings
from webapp.startup import create_secret_key

def work(number):
    try:
        for round_ in range(20):
            barrier.wait()
            settings = Settings(data_dir=Path(sys.argv[1], str(round_)))
            create_secret_key(settings)
            Path(sys.argv[1], f"{round_}-{number}").write_text(read_secret_key(settings))
    except BaseException:
        barrier.abort()  # or the others would wait for ever
        raise

fork = get_context("fork")
barrier = fork.Barrier(8)
workers = [fork.Process(target=work, args=(number,)) for number in range(8)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
    assert worker.exitcode == 0
"""


def test_defaults_are_those_of_the_class() -> None:
    settings = read_settings({})
    assert settings == Settings()
    assert (settings.port, settings.host) == (8000, "127.0.0.1")
    assert settings.database == Path("instance/predictions.db").absolute()
    assert settings.secret_key == settings.operator_token == settings.rate_limit == ""
    assert (settings.trusted_proxies, settings.debug, settings.log_level) == (0, False, "info")
    assert settings.workers == available_cpus()


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_empty_value_counts_as_none(text: str) -> None:
    assert read_settings(dict.fromkeys(NAMES, text)) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        *[("HOST", text, "host", "::1") for text in ("::1", "[::1]")],
        ("PORT", "1", "port", 1),
        ("PORT", " 65535 ", "port", 65535),
        ("DATA_DIR", "/data", "data_dir", Path("/data")),
        ("DATA_DIR", "/data", "database", Path("/data/predictions.db")),
        ("DATABASE_URL", "sqlite:///digits.db", "database", Path("digits.db")),
        ("MODEL_DIR", "models", "model_dir", Path("models")),
        ("WEB_CONCURRENCY", "1", "workers", 1),
        ("WEB_CONCURRENCY", "256", "workers", 256),
        ("SECRET_KEY", "k=", "secret_key", "k="),
        *[("RATE_LIMIT", limit, "rate_limit", limit) for limit in ("120 per minute", "9/2 Days")],
        (
            "RATE_LIMIT_STORE",
            "memcached://cache:11211",
            "rate_limit_store",
            "memcached://cache:11211",
        ),
        ("TRUSTED_PROXIES", "9", "trusted_proxies", 9),
        ("OPERATOR_TOKEN", "t=", "operator_token", "t="),
        *[("HISTORY", text, "history", text.lower()) for text in ("everyone", "Own", "nobody")],
        ("LOG_LEVEL", "Warning", "log_level", "warning"),
        *[("DEBUG", text, "debug", True) for text in ("on", "TRUE", "Yes", "1")],
        *[("DEBUG", text, "debug", False) for text in ("off", "False", "NO", "0")],
    ],
)
def test_value_is_read(name: str, text: str, field: str, value: Any) -> None:
    assert getattr(read_settings({name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("HOST", ["x86_64-conda-linux-gnu", "[::1", "999.0.0.1"]),
        ("PORT", ["80a", "0", "65536", "-1", "8_000", "٣", "80.0"]),
        ("WEB_CONCURRENCY", ["0", "257", "1_0", "auto"]),
        ("TRUSTED_PROXIES", ["10", "-1", "on"]),
        ("DATABASE_URL", ["mysql://db/digits", "digits.db", "postgresql+asyncpg://me@db/digits"]),
        ("DATABASE_URL", ["sqlite:digits.db", "sqlite://", "sqlite:///", "sqlite:///:memory:"]),
        ("DATABASE_URL", ["postgresql://me@db:port/digits", "postgresql://me:se@cret@db/digits"]),
        ("DATABASE_URL", ["postgresql://me:1/secret@db/digits"]),
        (
            "RATE_LIMIT",
            ["often", "120", "per minute", "0 per minute", "1 per 31 days", "1 per year"],
        ),
        ("RATE_LIMIT_STORE", ["redis://cache", "memory", "memcached", "memcached://"]),
        ("RATE_LIMIT_STORE", ["memcached://cache:port", "memcached://cache:0", "memcached:///a"]),
        ("HISTORY", ["all", "no"]),
        ("LOG_LEVEL", ["loud", "10"]),
        ("DEBUG", ["perhaps", "2"]),
    ],
)
def test_unknown_value_is_named_with_what_was_expected(name: str, texts: list[str]) -> None:
    for text in texts:
        found = "something else" if name == "DATABASE_URL" else repr(text)
        with pytest.raises(
            StartupError, match=f"^{name} should be .+, but is {re.escape(found)}.$"
        ):
            read_settings({name: text})


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_postgres_is_understood(scheme: str) -> None:
    settings = read_settings({"DATABASE_URL": f"{scheme}://me:secret@db/digits"})
    assert settings.database == "postgresql://me:secret@db/digits"


def test_environment_wins_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "8001")
    monkeypatch.setenv("HOST", "")
    Path(".env").write_text("PORT=8002\nHOST=0.0.0.0\nDEBUG=\n")
    settings = read_settings()
    assert (settings.port, settings.host, settings.debug) == (8001, "0.0.0.0", False)
    assert read_settings({}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PORT=1\nPORT: 8001\n", "Line 2 of .env should be NAME=VALUE"), (b"\xff\xfe", "UTF-8")],
)
def test_unreadable_file_is_not_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(content)
    with pytest.raises(StartupError, match=message):
        read_settings()


def test_command_exits_with_a_sentence_if_a_setting_is_invalid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "much")
    with pytest.raises(SystemExit, match=r"^PORT should be"):
        create_app()


CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("50000 100000", 1),
        ("199999 100000", 1),
        ("10000 5000", min(2, CPUS)),
        ("99900000 100000", CPUS),
        ("max 100000", CPUS),
        ("quota", CPUS),
        ("", CPUS),
    ],
)
def test_quota_of_a_container_limits_the_cpus(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert available_cpus(tmp_path / "cpu.max") == cpus
    assert available_cpus(tmp_path / "absent") == CPUS


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has CPU affinity")
def test_affinity_limits_the_cpus(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_cpus(tmp_path / "absent") == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_secret_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    for _ in range(2):
        create_secret_key(settings)
    key = read_secret_key(settings)
    create_secret_key(settings)
    assert read_secret_key(settings) == key
    assert len(key) == 64
    assert [oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == ["0o600"]


def test_secret_key_of_the_operator_is_not_stored(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, secret_key="mine")
    create_secret_key(settings)
    assert read_secret_key(settings) == "mine"
    assert [*tmp_path.iterdir()] == []


def test_secret_key_that_cannot_be_kept_stops_the_start(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "absent")
    with pytest.raises(StartupError, match=r"secret_key cannot be written: No such file"):
        create_secret_key(settings)
    with pytest.raises(StartupError, match=r"secret_key cannot be read: No such file"):
        read_secret_key(settings)


def test_processes_that_start_together_share_one_secret_key(tmp_path: Path) -> None:
    folders = [tmp_path / str(round_) for round_ in range(20)]
    for folder in folders:
        folder.mkdir()
    subprocess.run([sys.executable, "-c", START_TOGETHER, tmp_path], cwd=ROOT, check=True)
    for folder in folders:
        keys = {(tmp_path / f"{folder.name}-{number}").read_text() for number in range(8)}
        assert keys == {(folder / "secret_key").read_text()}
        assert len(keys.pop()) == 64
        assert [oct(file.stat().st_mode & 0o777) for file in folder.iterdir()] == ["0o600"]


def test_example_and_readme_name_every_setting() -> None:
    example = re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    images = ["PYTHON_IMAGE", "POSTGRES_IMAGE", "CADDY_IMAGE"]
    compose = ["POSTGRES_PASSWORD", "DOMAIN", "HOST_USER", "WEB_MEMORY", *images]
    extra = ["MNIST_DIR", "DRAWINGS_DIR", *compose]
    assert sorted(example) == sorted(NAMES + extra)
    readme = (ROOT / "README.md").read_text()
    assert [name for name in example if f"`{name}`" not in readme] == []


def test_example_as_it_is_means_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    os.symlink(ROOT / ".env.example", tmp_path / ".env")
    monkeypatch.chdir(tmp_path)
    assert read_settings() == Settings()


def test_settings_show_no_secrets() -> None:
    shown = repr(
        Settings(
            database="postgresql://me:secret@db/digits",
            secret_key="secret",
            operator_token="secret",
        )
    )
    assert "rate_limit" in shown
    assert "secret" not in shown
