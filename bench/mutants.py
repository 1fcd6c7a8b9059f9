"""Change the code in one place at a time, and count the changes that the tests notice.

    $ make mutants                                            # of the files that differ from HEAD
    $ make mutants ARGS="webapp/auth.py webapp/limits.py"
    $ make mutants ARGS="--sample 400 webapp export train"
    $ make mutants ARGS=--resume                              # a run that was interrupted

Works in a copy of the working tree, .mutants/. First, all tests run once, to record which of them
execute which line. Each mutant is then tested by those that execute its line. The tests of the page
count only for code that their own process executes: all of them take minutes for each mutant.
"""

import argparse
import ast
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult
from coverage import CoverageData

from webapp.stats import wilson

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".mutants"
COPY, SESSION, COVERAGE = WORK / "code", WORK / "session.sqlite", WORK / "coverage"
PYTHON = [sys.executable, "-m"]
PYTEST = ["pytest", "-q", "-p", "no:cacheprovider"]
# The first only draws the report; the second is Alembic's configuration.
NOT_MUTATED = {"train/plots.py", "webapp/migrations/env.py"}
# `is` for `==`, which is the same for small numbers, operators that hardly any type has, and
# the | of annotations, which fails at once.
POINTLESS = re.compile(
    r"core/(ReplaceComparisonOperator_(Eq|NotEq)_Is(Not)?"
    r"|ReplaceBinaryOperator_(BitOr_\w+|\w+_(Pow|LShift|RShift)))"
)
TIMEOUT_S = 900


def main() -> None:
    """Test the remaining mutants of a run, and list those that survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="files and folders")
    parser.add_argument("--sample", type=int, metavar="N", help="test N mutants, chosen at random")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    options = parser.parse_args()
    for name in ("MNIST_DIR", "DRAWINGS_DIR"):
        os.environ[name] = os.path.abspath(os.environ.get(name) or "data")
    os.chdir(ROOT)
    if options.resume:
        if not SESSION.exists():
            sys.exit("There is no run to resume.")
        os.chdir(COPY)
        _git("checkout", "--quiet", ".")  # a mutant may be left
    else:
        _start(_modules(options.paths or map(Path, _changed())), options.sample)
    with use_db(SESSION) as session:
        _test(session)
        _report(session)


def _start(modules: set[Path], sample: int | None) -> None:
    """Copy the working tree, run all tests, and choose mutants."""
    if not modules:
        sys.exit("There are no modules to change: name files or folders.")
    shutil.rmtree(WORK, ignore_errors=True)
    copy_tree(COPY)
    os.chdir(COPY)
    _measure_coverage()
    draft = SESSION.with_suffix(".draft")
    with use_db(draft) as session:
        init(sorted(modules), session, {})
        items = sorted(session.work_items, key=lambda item: repr(item.mutations))
        useful = [
            item for item in items if not POINTLESS.fullmatch(item.mutations[0].operator_name)
        ]
        random.Random(0).shuffle(useful)
        chosen = {item.job_id for item in useful[:sample]}
        left_out = [item.job_id for item in items if item.job_id not in chosen]
        session.set_multiple_results(left_out, WorkResult(WorkerOutcome.SKIPPED))
    draft.rename(SESSION)


def _git(*arguments: str) -> list[str]:
    return subprocess.check_output(["git", *arguments], text=True).splitlines()


def _changed() -> list[str]:
    untracked = _git("ls-files", "--others", "--exclude-standard")
    return _git("diff", "--name-only", "--diff-filter=d", "HEAD") + untracked


def _modules(paths: Iterable[Path]) -> set[Path]:
    """Return the modules in paths that are mutated."""
    found = {each for path in paths for each in (path.rglob("*.py") if path.is_dir() else [path])}
    return {
        path
        for path in found
        if path.parts[0] in ("train", "export", "webapp")
        and path.suffix == ".py"
        and str(path) not in NOT_MUTATED
    }


def copy_tree(folder: Path) -> None:
    """Replace a folder by a copy of the working tree, without what git ignores, and commit it."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in _git("ls-files", "--cached", "--others", "--exclude-standard"):
        if Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)
    git = [
        "git",
        "-C",
        f"{folder}",
        "-c",
        "user.name=mutants",
        "-c",
        "user.email=mutants@localhost",
    ]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=Copy"]):
        subprocess.run([*git, *command], check=True)


def _measure_coverage() -> None:
    """Record which test, or at least which file of tests, executes which line."""
    config = WORK / "coverage.ini"
    config.write_text(
        "[run]\nsource = train,export,webapp\nparallel = true\npatch = subprocess,fork,execv\n"
        f"dynamic_context = test_function\ndata_file = {COVERAGE}\n"
    )

    def run(tests: Path) -> None:
        command = ["coverage", "run", f"--rcfile={config}", f"--context={tests}", "-m"]
        subprocess.run([*PYTHON, *command, *PYTEST, tests], check=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, sorted(Path("tests").glob("test_*.py"))))
    subprocess.run([*PYTHON, "coverage", "combine", "--quiet", f"--rcfile={config}"], check=True)


def _test(session: WorkDB) -> None:
    """Test the mutants that have no result yet."""
    data = CoverageData(f"{COVERAGE}")
    data.read()
    for item in list(session.pending_work_items):
        (mutation,) = item.mutations
        tests = _tests_of(mutation, data)
        if tests:
            command = shlex.join([*PYTHON, *PYTEST, "-x", *tests])
            result = mutate_and_test(item.mutations, command, TIMEOUT_S)
        else:
            result = WorkResult(WorkerOutcome.NO_TEST, test_outcome=TestOutcome.SURVIVED)
        output = result.output or ""
        if result.worker_outcome == WorkerOutcome.EXCEPTION or "ERROR: not found" in output:
            sys.exit(output)
        session.set_result(item.job_id, result)
        print(result.test_outcome.value, mutation.module_path, *mutation.start_pos, flush=True)


def _tests_of(mutation: MutationSpec, data: CoverageData) -> list[str]:
    """Return the tests that execute a mutation's line.

    For a line outside functions, which is executed by an import, these are all tests of the module.
    For a line in a function that other processes or threads execute, whole files of tests follow.
    """
    by_line = data.contexts_by_lineno(os.path.abspath(mutation.module_path))
    line = max((line for line in by_line if line <= mutation.start_pos[0]), default=0)
    in_function = any(
        isinstance(node, ast.FunctionDef) and node.body[0].lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(ast.parse(mutation.module_path.read_text()))
    )
    lines = [line] if in_function else by_line
    contexts = {context for each in lines for context in by_line.get(each, [])}
    parts = [context.partition("|") for context in contexts]
    tests = {
        f"{file}::{test.rpartition('.')[2]}"
        for file, _, test in parts
        if test.startswith("tests.test_")
    }
    files = {file for file, _, test in parts if not test} - {"tests/test_browser.py"}
    return sorted(tests) + sorted(files if in_function or not tests else ())


def _report(session: WorkDB) -> None:
    """Print the mutants that survived, and the share that was killed with its 95 % interval."""
    results = dict(session.results)
    tested = [item for item in session.work_items if results[item.job_id].test_outcome]
    survived = [item for item in tested if not results[item.job_id].is_killed]
    for item in survived:
        print(item.mutations[0].operator_name, results[item.job_id].diff or item.mutations[0])
    timed_out = sum(results[item.job_id].output == "timeout" for item in tested)
    n = len(tested)
    killed = n - len(survived)
    low, high = wilson(killed, n)
    print(f"killed: {killed / n:.1%} of {n} ({low:.1%} to {high:.1%}), {timed_out} by timeout")


if __name__ == "__main__":
    main()
