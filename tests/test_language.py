"""Names that have been replaced by standard terms."""

import subprocess

from tests.conftest import ROOT

REPLACED = r"""
    draw_otherwise no_digits other_no_digits NO_DIGIT Lessons MAY_DOUBT over_seeds
    LOOKS _Served _prove AGREEMENT train/doubt\.py train\.doubt train/study\.py train\.study
    _unfit _doubt_below WATCH_S StorageAway NotYours NoInk NotOperator NoSuchDigit StartError
    open_journal _asking _told _patience _look_forever _catch_up
    WAIT_S PATIENT_S COUNTING_S QUICK_S FRESH_S AT_ONCE TURN_S _places moment_of yes_or_no new_name
    _under _shares READ_S TAKE_S OTHERS_FIRST_S JOURNAL
    bring\.js PATIENCE_MS PACE_MS \.unseen class=.unseen complain\(
    webapp/(record|storage|admission|arguments|classifier|visitors)\.py
"""


def test_replaced_names_are_not_used() -> None:
    pattern = "|".join(REPLACED.split())
    command = ["git", "grep", "-nIwE", pattern, "--", ":!CHANGELOG.md", ":!tests/test_language.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")
