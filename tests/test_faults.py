"""Faults of a running service: outages, full disks, ended connections."""

import json
import logging
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg2
import pytest
from flask.testing import FlaskClient

from tests.clients import PREVIEW
from tests.conftest import TIMEOUT_S, Server, free_port, new_database, wait_until
from tests.proxy import Proxy, fatal
from tests.test_database import made
from webapp import logs
from webapp.app import create_app
from webapp.background import Background
from webapp.database import Database
from webapp.engines import AGGREGATE_TIMEOUT_S, Target
from webapp.prediction import Deletion, first_id
from webapp.services import open_outbox, services
from webapp.settings import Settings
from webapp.startup import check_and_migrate
from webapp.store import PredictionStore

OPERATOR = {"Authorization": "Bearer of-the=operator"}
LIST = "/api/predictions"
POST = PREVIEW | {"path": LIST}


@pytest.fixture(scope="module")
def module_proxy(postgres: Callable[[str], str]) -> Iterator[Proxy]:
    """Return the way to a database in Postgres, which the tests of this module share."""
    proxy = Proxy(new_database(postgres))
    Database(proxy.url).migrate()
    yield proxy
    proxy.stop()


@pytest.fixture
def proxy(module_proxy: Proxy) -> Proxy:
    """Return the way to a database without rows."""
    module_proxy.open()
    with closing(psycopg2.connect(module_proxy.url)) as connection, connection:
        connection.cursor().execute("TRUNCATE predictions, tombstones")
    return module_proxy


@pytest.fixture
def workers(settings: Settings, proxy: Proxy) -> tuple[FlaskClient, FlaskClient]:
    """Return one browser of two workers on Postgres, which share DATA_DIR."""
    settings = replace(settings, database=proxy.url)
    check_and_migrate(settings)
    one, other = (create_app(settings).test_client() for _ in range(2))
    visitor = one.post(**POST).headers["Set-Cookie"].partition(";")[0].partition("=")[2]
    other.set_cookie("visitor", visitor)
    assert delete_all(one) == 200
    return one, other


@pytest.fixture
def worker(workers: tuple[FlaskClient, FlaskClient]) -> FlaskClient:
    """Return a browser of a worker on Postgres."""
    return workers[0]


def store_of(client: FlaskClient) -> PredictionStore:
    """Return the store of a worker."""
    return services(client.application).store


def post(client: FlaskClient) -> str:
    """Post a 7; return the path of the prediction."""
    response = client.post(**POST)
    assert response.status_code == 201
    return str(response.location)


def listed(client: FlaskClient) -> list[str]:
    """Return the paths of all predictions, by way of the list's pages."""
    paths, following = [], f"{LIST}?limit=500"
    while following:
        page = client.get(following)
        assert page.status_code == 200
        paths += [f"{LIST}/{row['id']}" for row in page.json["predictions"]]
        following = page.json["next"] and f"{LIST}?limit=500&before={page.json['next']}"
    return paths


def delete_all(client: FlaskClient) -> int:
    """Delete all predictions as the operator; return the status."""
    now = quote((datetime.now(UTC)).isoformat())
    return client.delete(f"{LIST}?to={now}", headers=OPERATOR).status_code


def label(client: FlaskClient, path: str, digit: int | None) -> int:
    """Label a prediction; return the status."""
    return client.patch(path, json={"true_digit": digit}).status_code


def recover(client: FlaskClient) -> None:
    """Do what a worker's background thread does once the database is back."""
    store_of(client).probe()
    store_of(client).flush()


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no write of this process to a file succeed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---- deletions and labels --------------------------------------------------------------------


def test_label_during_an_outage_does_not_bring_a_deleted_prediction_back(
    workers: tuple[FlaskClient, FlaskClient], proxy: Proxy
) -> None:
    one, other = workers
    path = post(one)
    assert one.delete(path, headers=OPERATOR).status_code == 204
    proxy.close()
    assert label(other, path, 3) == 503
    proxy.open()
    for worker in workers:
        recover(worker)
        assert worker.get(path).status_code == 404
        assert listed(worker) == []


def test_deletion_on_a_full_disk_covers_what_waits(worker: FlaskClient, proxy: Proxy) -> None:
    proxy.close()
    paths = [post(worker) for _ in range(3)]
    proxy.open()
    store_of(worker).probe()
    assert listed(worker) == paths[::-1]
    with full_disk():
        assert delete_all(worker) == 200
        assert listed(worker) == []
    assert store_of(worker).outbox.count() == 3
    recover(worker)
    assert listed(worker) == []
    assert store_of(worker).outbox.count() == 0


def test_deletion_during_a_flush_deletes_everything(
    database_target: Target, tmp_path: Path
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.migrate()
    flushing, deleting = (PredictionStore(Database(database_target), outbox) for _ in range(2))
    flushing.database.migrate()
    duration = 0.0
    for tenth in range(10):
        outbox.merge([made() for _ in range(800)])
        started = time.monotonic()
        flush = threading.Thread(target=flushing.flush)
        flush.start()
        time.sleep(duration * tenth / 10)  # at another moment of the flush each time
        deleting.delete(Deletion(before=made().id))
        flush.join()
        duration = max(duration, time.monotonic() - started)
        assert (deleting.database.count(), outbox.count()) == (0, 0)


def test_label_of_a_stored_prediction_waits_for_the_database(
    workers: tuple[FlaskClient, FlaskClient], proxy: Proxy
) -> None:
    path = post(workers[0])
    proxy.close()
    for worker in workers:
        response = worker.patch(path, json={"true_digit": 3})
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    proxy.open()
    recover(workers[1])
    assert label(workers[1], path, 3) == 200


def test_label_that_was_taken_back_stays_so(
    workers: tuple[FlaskClient, FlaskClient], proxy: Proxy, settings: Settings
) -> None:
    one, other = workers
    proxy.close()
    path = post(one)
    assert label(one, path, 3) == 200
    with closing(sqlite3.connect(settings.data_dir / "outbox.db")) as file, file:
        file.execute("UPDATE predictions SET labelled_at = '2100-01-01'")  # then the clock was set
    waiting = store_of(one).outbox.page(1)
    assert label(other, path, None) == 200
    proxy.open()
    store_of(one).probe()
    store_of(one).database.merge(waiting)  # another process was killed while it flushed
    for worker in workers:
        recover(worker)
        assert worker.get(path).json["true_digit"] is None


def test_locked_table_delays_a_flush(
    settings: Settings, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.database.STATEMENT_TIMEOUT_S", 0.2)
    outbox = open_outbox(settings.data_dir)
    outbox.migrate()
    store = PredictionStore(Database(proxy.url), outbox)
    rows = [replace(made(), idempotency_key=f"{number}") for number in range(3)]
    outbox.merge(rows)
    with closing(psycopg2.connect(proxy.url)) as operator:
        operator.cursor().execute("LOCK TABLE predictions")
        store.flush()
    assert store.available
    store.flush()
    assert store.database.page(9) == rows[::-1]


def test_statistics_do_not_wait_for_a_locked_table(worker: FlaskClient, proxy: Proxy) -> None:
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(worker.get("/api/stats").status_code))
        for _ in range(3)
    ]
    with closing(psycopg2.connect(proxy.url)) as operator:
        operator.cursor().execute("LOCK TABLE predictions")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(AGGREGATE_TIMEOUT_S / 2)
    assert statuses == [503] * 3


# ---- full disks ------------------------------------------------------------------------------


def test_response_says_stored_false_without_any_storage(client: FlaskClient) -> None:
    post(client)
    with full_disk():
        response = client.post(**POST)
        assert (response.status_code, response.json["stored"]) == (200, False)
        assert client.get("/readyz").status_code == 503
    recover(client)
    assert client.get("/readyz").status_code == 200
    post(client)


def test_hanging_database_and_a_full_outbox_are_reported(worker: FlaskClient, proxy: Proxy) -> None:
    post(worker)
    proxy.hang()
    with full_disk():
        response = worker.post(**POST)
        assert (response.status_code, response.json["stored"]) == (200, False)
        assert worker.get("/readyz").status_code == 503
    assert worker.get("/readyz").status_code == 200


def test_service_goes_on_without_an_outbox(tmp_path: Path, proxy: Proxy) -> None:
    (tmp_path / "outbox.db").mkdir()
    server = Server(tmp_path, DATABASE_URL=proxy.url, WEB_CONCURRENCY="2")
    server.wait_until_ready()
    master = psutil.Process(server.process.pid)
    killed = master.children()[0]
    killed.kill()
    wait_until(lambda: killed not in master.children() and len(master.children()) == 2)
    assert {server.post()["predicted_digit"] for _ in range(9)} == {7}
    assert "unavailable" in json.loads(server.get("/readyz"))["outbox"]
    lines = [line for line in server.stop().splitlines() if "outbox" in line]
    assert 1 <= len(lines) <= 4  # not one each time that it is tried


# ---- lists and connections -------------------------------------------------------------------


def test_lists_during_a_flush_have_each_prediction_once(worker: FlaskClient, proxy: Proxy) -> None:
    proxy.close()
    post(worker)
    store_of(worker).outbox.merge([made() for _ in range(1_200)])
    proxy.open()
    background = Background(services(worker.application))
    background.start()
    for _ in range(5):
        paths = listed(worker)
        assert (len(paths), len({*paths})) == (1_201, 1_201)
    wait_until(lambda: store_of(worker).outbox.count() == 0)
    background.stop()
    assert len(listed(worker)) == store_of(worker).database.count() == 1_201


def test_ended_connections_are_replaced(
    workers: tuple[FlaskClient, FlaskClient], proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    for worker in workers:
        listed(worker)
    proxy.end_connections()
    for number, worker in enumerate(workers):
        assert post(worker)
        assert len(listed(worker)) == number + 1
        assert worker.get("/readyz").json["database"] == "answers"
    assert "unavailable" not in caplog.text


def test_slow_list_holds_up_nobody(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    post(client)
    fill(settings.data_dir / "predictions.db", 6_000)
    # As if the table were as much larger as the limits are smaller.
    monkeypatch.setattr("webapp.engines.SQLITE_STEPS", 20_000)
    monkeypatch.setattr("webapp.database.SCAN_LIMIT", 6_000)
    monkeypatch.setattr("webapp.database.STATEMENT_TIMEOUT_S", 0)
    hurried = create_app(settings).test_client()
    assert hurried.get(f"{LIST}?model_version=abc").status_code == 503
    assert hurried.get(LIST).status_code == 200
    assert hurried.get("/readyz").json["database"] == "answers"
    post(hurried)


def fill(path: Path, count: int) -> None:
    """Multiply the first row of a SQLite file."""
    columns = ", ".join(name for name in vars(made()) if name not in ("id", "idempotency_key"))
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
    copies = f"{numbers} SELECT printf('%036d', i), {columns} FROM n, predictions"
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(f"INSERT INTO predictions (id, {columns}) {copies}", [count])


def test_refusal_in_another_encoding_is_an_outage(worker: FlaskClient, proxy: Proxy) -> None:
    proxy.close(fatal("Das Datenbanksystem fährt herunter".encode("latin-1")))
    path = post(worker)
    assert worker.get(LIST).json["partial"]
    assert worker.get("/readyz").status_code == 200
    proxy.open()
    recover(worker)
    assert listed(worker) == [path]


def test_second_host_is_used_if_the_first_does_not_answer(settings: Settings, proxy: Proxy) -> None:
    at = f"127.0.0.1:{free_port()},127.0.0.1:{proxy.port}"
    settings = replace(settings, database=proxy.url.replace(f"127.0.0.1:{proxy.port}", at))
    check_and_migrate(settings)
    client = create_app(settings).test_client()
    post(client)
    assert client.get("/readyz").json["database"] == "answers"


def test_pgbouncer_in_transaction_mode_may_stand_between(
    settings: Settings, proxy: Proxy, pgbouncer: str
) -> None:
    settings = replace(settings, database=pgbouncer)
    check_and_migrate(settings)
    one, other = (create_app(settings).test_client() for _ in range(2))
    path = post(one)
    assert label(one, path, 3) == 200
    assert other.get("/api/stats").json["labelled"] == 1
    assert one.delete(path, headers=OPERATOR).status_code == 204
    assert listed(other) == []
    assert other.get("/readyz").json["database"] == "answers"


@pytest.fixture
def pgbouncer(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a database behind PgBouncer in transaction mode."""
    if not shutil.which("pgbouncer"):
        pytest.skip("no PgBouncer on the PATH")
    port = free_port()
    config = tmp_path_factory.mktemp("pgbouncer") / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host=127.0.0.1 port={proxy.port} user=postgres pool_size=2\n"
        f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\n"
        "auth_type=any\npool_mode=transaction\n"
    )
    as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []  # it does not run as root
    with subprocess.Popen(["pgbouncer", "-q", *as_nobody, config]) as process:
        url = proxy.url.replace(f":{proxy.port}", f":{port}")
        wait_until(lambda: is_listening(port))
        yield url
        process.terminate()


def is_listening(port: int) -> bool:
    """Return whether a port accepts connections."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


# ---- logs ------------------------------------------------------------------------------------


def test_log_lines_are_dropped_while_nobody_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.logs.WRITE_TIMEOUT_S", 0)
    monkeypatch.setattr("webapp.logs.RETRY_INTERVAL_S", 0)
    reader, writer = os.pipe()
    handler = logs.NonBlockingHandler()
    with open(writer, "w") as stream, open(reader, "rb", buffering=0) as collector:
        handler.setStream(stream)
        thread = threading.Thread(target=log_lines, args=(handler, 99 * "x", 2_000), daemon=True)
        thread.start()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
        assert set(collector.read(200_000)) == set(b"x\n")
        log_lines(handler, "read again", 1)
        assert collector.read(200_000) == b"read again\n"


def test_blocked_log_is_not_retried_before_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.logs.WRITE_TIMEOUT_S", 0)
    monkeypatch.setattr("webapp.logs.RETRY_INTERVAL_S", 1_000)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    handler = logs.NonBlockingHandler()
    with open(writer, "w") as stream, open(reader, "rb", buffering=0) as collector:
        handler.setStream(stream)
        log_lines(handler, 99 * "x", 2_000)
        assert collector.read(200_000)
        log_lines(handler, "too early", 1)
        assert collector.read(200_000) is None


def log_lines(handler: logging.Handler, message: str, count: int) -> None:
    """Log a message several times."""
    for _ in range(count):
        handler.handle(logging.makeLogRecord({"msg": message}))


# ---- idempotency keys ------------------------------------------------------------------------


def test_repeated_key_returns_the_prediction_and_a_cookie(client: FlaskClient) -> None:
    keyed = POST | {"headers": {"Idempotency-Key": "of-one-prediction"}}
    first = client.post(**keyed)
    browser = client.application.test_client()  # the first answer, and its cookie, were lost
    again = browser.post(**keyed)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json == first.json
    assert label(browser, str(first.location), 3) == 200


def test_idempotency_key_is_not_stored_in_clear(client: FlaskClient, settings: Settings) -> None:
    key = "secret-of-the-client"
    assert client.post(**POST, headers={"Idempotency-Key": key}).status_code == 201
    files = [*settings.data_dir.glob("*.db*")]
    assert files
    assert not [file for file in files if key.encode() in file.read_bytes()]


def test_concurrent_posts_with_one_key_store_one_row(
    workers: tuple[FlaskClient, FlaskClient],
) -> None:
    answers = []

    def post_keyed(worker: FlaskClient, key: str) -> None:
        response = worker.post(**POST, headers={"Idempotency-Key": key})
        answers.append((key, response.json["id"]))

    for number in range(10):
        key = f"number-{number:09}"
        threads = [threading.Thread(target=post_keyed, args=(each, key)) for each in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({*answers}) == len(listed(workers[0])) == 10


# ---- what the background does ----------------------------------------------------------------


def test_old_predictions_are_deleted(client: FlaskClient, settings: Settings) -> None:
    store, deleted = store_of(client), made()
    store.delete(Deletion(deleted.id))
    old = replace(made(), id=first_id(datetime.now(UTC) - timedelta(days=8)))
    young = replace(made(), id=first_id(datetime.now(UTC) - timedelta(days=6)))
    for row in (old, young):
        store.database.insert(row)
        store.outbox.insert(replace(row, idempotency_key=None))
    app = create_app(replace(settings, retention_days=7))
    background = Background(services(app))
    background.start()
    wait_until(lambda: store.outbox.count() == 0 and not store.database.get(old.id))
    background.stop()
    assert listed(client) == [f"{LIST}/{young.id}"]
    assert store.database.deleted([deleted])  # another outbox may still have it


def test_outbox_that_fills_up_is_reported_once(
    worker: FlaskClient,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    proxy.close()
    outbox, empty = store_of(worker).outbox, store_of(worker).outbox.used_pages()
    monkeypatch.setattr("webapp.background.OUTBOX_PAGES", 2 * empty)
    background = Background(services(worker.application))
    background.start()
    wait_until(lambda: "digits_outbox_usage_ratio 0.5\n" in worker.get("/metrics").text)
    outbox.merge([made() for _ in range(4 * empty)])
    wait_until(lambda: "full" in caplog.text)
    wait_until(lambda: f"digits_waiting_rows {4.0 * empty}\n" in worker.get("/metrics").text)
    background.stop()
    assert caplog.text.count("full") == 1


def test_prediction_that_outlived_the_tombstones_is_not_stored(
    worker: FlaskClient, proxy: Proxy
) -> None:
    proxy.close()
    store = store_of(worker)
    old = replace(made(), id=first_id(datetime.now(UTC) - timedelta(days=31)))
    store.outbox.insert(old)
    proxy.open()
    background = Background(services(worker.application))
    background.start()
    wait_until(lambda: store.available)
    path = post(worker)
    background.stop()
    assert store.database.page(9)[0].id in path
    assert store.database.count() == 1
    assert store.outbox.get(old.id) == old


# ---- the command line ------------------------------------------------------------------------


def flask(client: FlaskClient, *arguments: str | Path) -> tuple[int, str]:
    """Run a command; return its exit status and what it printed."""
    result = client.application.test_cli_runner().invoke(args=[*map(str, arguments)])
    return result.exit_code, result.output


def test_failed_export_leaves_the_old_file(
    worker: FlaskClient, proxy: Proxy, tmp_path: Path
) -> None:
    table = tmp_path / "old.csv"
    table.write_text("old")
    proxy.close()
    status, printed = flask(worker, "predictions", "export", table)
    assert status == 1
    assert printed.startswith("Error: The database test_")
    assert table.read_text() == "old"
    assert [*tmp_path.glob("*.csv")] == [table]
    proxy.open()
    assert flask(worker, "predictions", "export", table)[0] == 0
    assert table.read_text().startswith("id,created_at")


def test_outbox_can_be_inspected(worker: FlaskClient, proxy: Proxy, tmp_path: Path) -> None:
    assert json.loads(flask(worker, "outbox", "status")[1])["waiting"] == 0
    proxy.close()
    path = post(worker)
    status = json.loads(flask(worker, "outbox", "status")[1])
    assert status["waiting"] == 1
    assert 0 < status["usage"] < 0.01
    assert flask(worker, "outbox", "export", tmp_path / "outbox.csv")[0] == 0
    header, row = (tmp_path / "outbox.csv").read_text().splitlines()
    assert header.startswith("id,")
    assert f"{LIST}/{row.split(',')[0]}" == path


def test_backup_is_restored_while_the_service_runs(client: FlaskClient, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    path = post(client)
    stopping = threading.Event()

    def post_forever() -> None:
        while not stopping.is_set():
            post(client.application.test_client())

    thread = threading.Thread(target=post_forever)
    thread.start()
    assert flask(client, "predictions", "backup", backup)[0] == 0
    stopping.set()
    thread.join()
    assert path in (kept := listed_in(backup))
    assert client.delete(path, headers=OPERATOR).status_code == 204
    assert flask(client, "predictions", "restore", backup)[0] == 0
    assert listed(client) == kept


def test_backup_is_one_file_that_a_new_machine_can_restore(
    client: FlaskClient, settings: Settings, tmp_path: Path
) -> None:
    path, backup = post(client), tmp_path / "backups" / "backup.db"
    backup.parent.mkdir()
    flask(client, "predictions", "backup", backup)
    other = create_app(replace(settings, data_dir=tmp_path / "new" / "data", database=""))
    other_client = other.test_client()
    status, printed = flask(other_client, "outbox", "status")
    assert (status, "no outbox" in printed) == (1, True)
    status, printed = flask(other_client, "predictions", "stats")
    assert (status, "there is no directory" in printed) == (1, True)
    assert flask(other_client, "predictions", "restore", backup)[0] == 0
    assert listed(other_client) == [path]
    assert [*backup.parent.iterdir()] == [backup]


@pytest.mark.parametrize("command", ["backup", "export"])
def test_missing_directory_is_named(client: FlaskClient, tmp_path: Path, command: str) -> None:
    status, printed = flask(client, "predictions", command, tmp_path / "none" / "a.csv")
    assert (status, printed) == (1, f"Error: There is no directory {tmp_path / 'none'}.\n")


def listed_in(backup: Path) -> list[str]:
    """Return the paths of the predictions in a backup, newest first."""
    with closing(sqlite3.connect(backup)) as file:
        return [
            f"{LIST}/{id_}"
            for (id_,) in file.execute("SELECT id FROM predictions ORDER BY id DESC")
        ]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "newer release"),
        ("DROP TABLE predictions", "no such table"),
    ],
)
def test_restore_leaves_the_database_if_the_backup_is_not_usable(
    client: FlaskClient, tmp_path: Path, change: str, error: str
) -> None:
    backup = tmp_path / "backup.db"
    flask(client, "predictions", "backup", backup)
    with closing(sqlite3.connect(backup)) as file, file:
        file.execute(change)
    path = post(client)
    status, printed = flask(client, "predictions", "restore", backup)
    assert status == 1
    assert error in printed
    assert listed(client) == [path]


def test_deletion_by_command_needs_no_outbox(worker: FlaskClient, settings: Settings) -> None:
    path = post(worker)
    for file in settings.data_dir.glob("outbox.db*"):
        file.unlink()
    (settings.data_dir / "outbox.db").mkdir()
    assert flask(worker, "predictions", "delete", "--id", path.split("/")[-1]) == (0, "1 deleted\n")
