"""Change the page in one place at a time, and count the changes that the tests notice.

    $ make page-mutants

The changes were chosen by hand. Each is tested in a copy of the working tree, .mutants/page/.
"""

import os
import subprocess
import tomllib

from bench.mutants import PYTEST, PYTHON, ROOT, WORK, copy_tree

LIST = ROOT / "bench" / "page_mutants.toml"
COPY = WORK / "page"


def main() -> None:
    """Test each mutant, and print those that survived."""
    mutants = tomllib.loads(LIST.read_text())["mutant"]
    os.chdir(ROOT)
    copy_tree(COPY)
    survived = 0
    for mutant in mutants:
        file = COPY / "webapp" / mutant["file"]
        before = file.read_text()
        file.write_text(before.replace(mutant["old"], mutant["new"]))
        if _passes(mutant["test"]):
            survived += 1
            print(f"survived: {mutant['effect']}", flush=True)
        file.write_text(before)
    print(f"{survived} of {len(mutants)} survived")


def _passes(test: str) -> bool:
    command = [*PYTHON, *PYTEST, "-x", "tests/test_browser.py", "-k", test]
    code = subprocess.run(command, cwd=COPY, capture_output=True).returncode
    if code not in (0, 1):
        raise RuntimeError(f"pytest -k {test} exited with {code}.")
    return code == 0


if __name__ == "__main__":
    main()
