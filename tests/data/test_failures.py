"""What a job is told whose items all failed: the most frequent cause decides."""

import re

import pytest

from rlaif_pl.data.failures import advice


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ({"timeout": 3, "malformed": 1}, "the server.*same command"),
        ({"http_400": 2}, "the server.*same command"),
        ({"too_long": 5, "timeout": 1}, "shorter texts"),
        ({"unclosed_thought": 2}, "limit of thoughts"),
        ({"malformed": 2, "refused": 1}, "another labeler or prompt"),
        ({}, "another labeler or prompt"),
    ],
)
def test_the_most_frequent_failure_decides_the_advice(failures, said):
    assert re.search(said, advice(failures))
