"""Files that are replaced as a whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft that replaces a file at the end; after an error, the old file stays.

    Raises OSError.
    """
    descriptor, name = mkstemp(dir=path.parent, suffix=path.suffix)
    os.close(descriptor)
    draft = Path(name)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
