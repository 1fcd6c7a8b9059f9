"""What the operator can set, and how it is told when it is wrong."""

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.conftest import ROOT
from webapp.errors import StartError
from webapp.settings import Settings, read_settings, secret_key

NAMES = [setting.metadata["name"] for setting in fields(Settings)]


def test_defaults_are_those_of_the_class() -> None:
    settings = read_settings({})
    assert settings == Settings()
    assert (settings.port, settings.host) == (8000, "127.0.0.1")
    assert settings.database_url.endswith("/instance/predictions.db")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "80a"),
        ("PORT", "70000"),
        ("WEB_CONCURRENCY", "0"),
        ("DATABASE_URL", "mysql://db/digits"),
        ("DATABASE_URL", "sqlite:digits.db"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "postgresql://me@db:port/digits"),
        ("WEB_CONCURRENCY", "1_0"),
        ("RATE_LIMIT", "often"),
        ("LOG_LEVEL", "loud"),
        ("DEBUG", "perhaps"),
    ],
)
def test_unknown_value_is_named_with_what_was_expected(name: str, text: str) -> None:
    with pytest.raises(StartError, match=f"^{name} should be .+, but is .+"):
        read_settings({name: text})


def test_password_is_not_repeated() -> None:
    with pytest.raises(StartError) as error:
        read_settings({"DATABASE_URL": "mysql://me:secret@db/digits"})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_postgres_is_understood(scheme: str) -> None:
    settings = read_settings({"DATABASE_URL": f"{scheme}://me:secret@db/digits"})
    assert settings.database_url == "postgresql+psycopg2://me:secret@db/digits"


def test_environment_wins_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "8001")
    monkeypatch.setenv("HOST", "")
    Path(".env").write_text("PORT=8002\nHOST=0.0.0.0\n")
    assert (read_settings().port, read_settings().host) == (8001, "0.0.0.0")


def test_secret_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert secret_key(settings) == secret_key(settings)
    assert len(secret_key(settings)) == 64
    assert [oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == ["0o600"]


def test_example_and_readme_name_every_setting() -> None:
    example = re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    compose = ["POSTGRES_PASSWORD", "DOMAIN", "HOST_USER", "WEB_MEMORY"]
    extra = ["MNIST_DIR", "DRAWINGS_FILE", *compose]
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
