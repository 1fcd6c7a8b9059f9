"""Files that are replaced as a whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield the path of a draft, which replaces a file unless there is an error.

    Raises OSError.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no directory {path.parent}.")
    with TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        yield draft
        draft.replace(path)
