"""Export a training run to artifacts/, or restore an earlier version: python -m export --help."""

import argparse
import sys
from pathlib import Path

from export.versions import rollback


def main() -> None:
    """Export one run, or roll back if the first argument is `rollback`."""
    if sys.argv[1:2] == ["rollback"]:
        _rollback(sys.argv[2:])
    else:
        _export(sys.argv[1:])


def _export(arguments: list[str]) -> None:
    parser = _parser(
        "python -m export",
        "Export a run if it is better than the published model. The exit status is 3 if it is "
        "not published. To restore an earlier version: python -m export rollback --help",
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder of a run (default: the newest)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--force", action="store_true", help="publish it even if it is not better")
    options = parser.parse_args(arguments)
    runs = (file.parent for file in options.runs.glob("*/checkpoint.pt"))
    run = options.run or max(runs, default=options.runs)
    if not (run / "checkpoint.pt").is_file():
        sys.exit(f"There is no training run at {run}. Create one with python -m train.")
    from export.run import export_run  # imports PyTorch, which a rollback does not need

    export_run(run, options.artifacts, options.force)


def _rollback(arguments: list[str]) -> None:
    parser = _parser("python -m export rollback", "Restore an earlier version of the model.")
    parser.add_argument("version", nargs="?", help="default: the one that was replaced last")
    options = parser.parse_args(arguments)
    try:
        version = rollback(options.artifacts, options.version)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(f"Restored version {version} in {options.artifacts}")


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="model folder")
    return parser


if __name__ == "__main__":
    main()
