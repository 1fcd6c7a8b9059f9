"""Faults at start: databases that are down, locked or corrupt, and several starts at once."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg2
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from tests.clients import PREVIEW
from tests.conftest import ROOT, Server, environment, new_database, wait_until
from tests.proxy import Proxy, fatal
from tests.test_database import made
from webapp.app import create_app
from webapp.background import Background
from webapp.database import Database
from webapp.engines import describe
from webapp.errors import StartupError
from webapp.services import open_outbox, services
from webapp.settings import Settings, read_settings
from webapp.startup import check_and_migrate

POST = PREVIEW | {"path": "/api/predictions"}


@pytest.fixture
def proxy(postgres: Callable[[str], str]) -> Iterator[Proxy]:
    """Return the way to an empty database in Postgres."""
    proxy = Proxy(new_database(postgres))
    yield proxy
    proxy.stop()


# ---- databases that are down ------------------------------------------------------------------


def test_unknown_database_server_aborts_startup(settings: Settings, proxy: Proxy) -> None:
    proxy.close()
    with pytest.raises(StartupError, match=f"on 127.0.0.1:{proxy.port} cannot be used: .*closed"):
        check_and_migrate(replace(settings, database=proxy.url))
    assert not (settings.data_dir / "database_seen").exists()


@pytest.mark.parametrize("refusal", [b"", fatal("fährt herunter".encode("latin-1"))])
def test_known_database_server_may_be_down_at_start(
    settings: Settings, proxy: Proxy, refusal: bytes
) -> None:
    settings = replace(settings, database=proxy.url)
    check_and_migrate(settings)
    proxy.close(refusal)
    check_and_migrate(settings)
    client = create_app(settings).test_client()
    assert client.post(**POST).status_code == 201
    proxy.open()
    store = services(client.application).store
    store.probe()
    store.flush()
    assert store.database.count() == 1


def test_database_that_was_down_is_migrated_when_it_returns(
    settings: Settings, proxy: Proxy, postgres: Callable[[str], str]
) -> None:
    settings = replace(settings, database=proxy.url)
    check_and_migrate(settings)
    with closing(psycopg2.connect(proxy.url)) as connection, connection:
        connection.cursor().execute("DROP TABLE predictions, tombstones, alembic_version")
    proxy.close()
    check_and_migrate(settings)
    store = services(create_app(settings)).store
    store.insert(made())
    proxy.open()
    store.probe()
    store.flush()
    assert store.database.count() == 1


def test_other_database_has_to_answer_at_start(settings: Settings, proxy: Proxy) -> None:
    check_and_migrate(replace(settings, database=proxy.url))
    proxy.close()
    other = proxy.url.replace("/test_", "/other_")
    with pytest.raises(StartupError, match=r"other_.* cannot be used"):
        check_and_migrate(replace(settings, database=other))


def test_unknown_database_aborts_startup_even_if_it_was_seen(
    settings: Settings, proxy: Proxy, postgres: Callable[[str], str]
) -> None:
    settings = replace(settings, database=proxy.url)
    check_and_migrate(settings)
    name = parse_dsn(proxy.url)["dbname"]
    with closing(psycopg2.connect(postgres("postgres"))) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"ALTER DATABASE {name} RENAME TO {name}_old")
    with pytest.raises(StartupError, match=f'"{name}" does not exist. Correct DATABASE_URL'):
        check_and_migrate(settings)


def test_wrong_password_aborts_startup_and_is_not_printed(
    settings: Settings, proxy: Proxy, postgres: Callable[[str], str]
) -> None:
    with closing(psycopg2.connect(postgres("postgres"))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'of-guarded'")
        cursor.execute("SHOW hba_file")
        hba = Path(cursor.fetchone()[0])
        hba.write_text("local all guarded scram-sha-256\n" + hba.read_text())
    url = proxy.url.replace("postgres@", "guarded:{}@")
    check_and_migrate(replace(settings, database=url.format("of-guarded")))

    def is_refused() -> bool:
        with closing(psycopg2.connect(postgres("postgres"))) as connection:
            connection.cursor().execute("SELECT pg_reload_conf()")
        try:
            check_and_migrate(replace(settings, database=url.format("mistaken")))
        except StartupError as error:
            return "authentication failed" in str(error) and "mistaken" not in str(error)
        return False

    wait_until(is_refused)  # Postgres reads its configuration again


# ---- files -----------------------------------------------------------------------------------


def test_lock_of_another_process_is_waited_for(settings: Settings) -> None:
    database = settings.data_dir / "predictions.db"
    other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE other (id)")
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(1, other.close).start()
    check_and_migrate(settings)
    assert Database(database).is_migrated()


@pytest.mark.parametrize("name", ["q?1", "a%20b", "#", "ä b"])
def test_name_of_the_data_directory_is_taken_literally(settings: Settings, name: str) -> None:
    settings = Settings(data_dir=settings.data_dir / name, model_dir=settings.model_dir)
    check_and_migrate(settings)
    client = create_app(settings).test_client()
    assert client.post(**POST).status_code == 201
    services(client.application).store.available = False
    assert client.post(**POST).status_code == 201
    assert [path.name for path in settings.data_dir.parent.iterdir()] == [name]
    assert {"outbox.db", "predictions.db"} <= {path.name for path in settings.data_dir.iterdir()}


@pytest.mark.parametrize("name", ["outbox.db", "journal.db"])
@pytest.mark.parametrize("is_damaged_inside", [False, True])
def test_corrupt_outbox_is_set_aside(
    settings: Settings, name: str, is_damaged_inside: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = settings.data_dir / name
    if is_damaged_inside:
        fill(path)
        damage(path)
    else:
        path.write_bytes(b"garbage" * 1_000)
    content = path.read_bytes()
    check_and_migrate(settings)
    assert open_outbox(settings.data_dir).insert(made())
    (aside,) = settings.data_dir.glob(f"{path.stem}.corrupt-*.db")
    assert aside.read_bytes() == content
    assert aside.name in caplog.text
    assert not (settings.data_dir / "journal.db").exists()


def fill(path: Path) -> None:
    """Create an outbox that takes more than the pages of its schema."""
    outbox = Database(path)
    outbox.migrate()
    outbox.merge([made() for _ in range(99)])
    outbox.dispose()


def damage(path: Path) -> None:
    """Overwrite all pages of a SQLite file but those with its schema."""
    content = path.read_bytes()
    path.write_bytes(content[: 12 * 4096] + b"x" * (len(content) - 12 * 4096))


@pytest.mark.parametrize("change", [damage, Path.unlink])
def test_outbox_is_replaced_while_the_service_runs(
    settings: Settings, change: Callable[[Path], None]
) -> None:
    check_and_migrate(settings)
    client = create_app(settings).test_client()
    background = Background(services(client.application))
    path = settings.data_dir / "outbox.db"
    fill(path)
    services(client.application).store.outbox.count()  # opens the file
    change(path)
    inode = path.exists() and path.stat().st_ino
    background.start()
    wait_until(lambda: path.exists() and path.stat().st_ino != inode)
    wait_until(lambda: client.get("/readyz").json["outbox"] == "answers")
    background.stop()
    assert Database(path).insert(made())


def test_outbox_of_the_previous_release_is_imported_once(settings: Settings) -> None:
    path = settings.data_dir / "journal.db"
    rows = [made() for _ in range(3)]
    journal = Database(path)
    journal.migrate()
    journal.merge(rows)
    with closing(sqlite3.connect(path)) as file, file:  # to the schema of that release
        for index in ("idempotency_key", "visitor"):
            file.execute(f"DROP INDEX {index}")
        for column in ("doubt", "review", "idempotency_key", "label_revision"):
            file.execute(f"ALTER TABLE predictions DROP COLUMN {column}")
        file.execute("DROP TABLE tombstones")
        file.execute("UPDATE alembic_version SET version_num = '0002'")
    for _ in range(2):
        check_and_migrate(settings)
        assert open_outbox(settings.data_dir).oldest(9) == rows
    assert not path.exists()
    assert len([*settings.data_dir.glob("journal.imported-*.db")]) == 1


# ---- processes -------------------------------------------------------------------------------

START_TOGETHER = """
import sys
import alembic.command  # once, not in each process
from multiprocessing import get_context
from webapp.settings import read_settings
from webapp.startup import check_and_migrate

def start():
    barrier.wait()
    check_and_migrate(settings)

settings = read_settings()
fork = get_context("fork")
barrier = fork.Barrier(8)
processes = [fork.Process(target=start) for _ in range(8)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(any(process.exitcode for process in processes))
"""


def test_eight_processes_can_start_simultaneously(tmp_path: Path) -> None:
    rows = [made() for _ in range(9)]
    journal = Database(tmp_path / "journal.db")
    journal.migrate()
    journal.merge(rows)
    subprocess.run(
        [sys.executable, "-c", START_TOGETHER], cwd=ROOT, env=environment(tmp_path), check=True
    )
    assert Database(tmp_path / "predictions.db").is_migrated()
    assert open_outbox(tmp_path).oldest(99) == rows
    assert len([*tmp_path.glob("journal.*.db")]) == 1


def test_signal_that_ended_the_preparation_is_reported(tmp_path: Path) -> None:
    database = tmp_path / "predictions.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        server = Server(tmp_path)
        master = psutil.Process(server.process.pid)
        wait_until(lambda: master.children())
        master.children()[0].send_signal(signal.SIGKILL)
        printed = server.printed()
    assert server.process.returncode == 1
    assert "SIGKILL" in printed
    assert "memory" in printed


# ---- addresses of databases ------------------------------------------------------------------


@given(
    text=st.text("aZ09:/?#[]@!$&'()*+,;=%\\ ä\"{}|", min_size=4, max_size=12),
    is_quoted=st.booleans(),
    rest=st.sampled_from(
        [
            "me:PASSWORD@db/digits",
            "me:PASSWORD@db:5433,other:5434/digits",
            "me:PASSWORD@/digits?host=/run/postgresql",
            "me:PASSWORD@[::1]:5432/digits?sslmode=require",
            "me@db/digits?password=PASSWORD",
        ]
    ),
)
@examples(max_examples=200, deadline=None, derandomize=True)
def test_password_is_understood_or_rejected_and_never_printed(
    text: str, is_quoted: bool, rest: str
) -> None:
    password = f"p{text}w"
    written = quote(password, safe="") if is_quoted else password
    try:
        url = read_settings({"DATABASE_URL": f"postgresql://{rest}".replace("PASSWORD", written)})
    except StartupError as error:
        printed, is_right = str(error), not is_quoted
    else:
        printed = describe(url.database)
        is_right = parse_dsn(str(url.database))["password"] == password
    assert is_right
    assert password not in printed


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me:hunter2@db/digits", "digits on db:5432"),
        ("postgresql://me@db:5433", "me on db:5433"),
        ("postgresql://", "of this user on localhost:5432"),
    ],
)
def test_database_is_named_after_what_the_url_has(url: str, name: str) -> None:
    assert describe(url) == name
