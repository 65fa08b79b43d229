"""A few cases of what fuzz.py does at length: damaged inputs come to a UserError or a right result."""

from pathlib import Path

import pytest

from tests.faults.fuzz import PARTS, fuzz, long_lines


@pytest.mark.parametrize("part", PARTS)
def test_a_few_cases(part: str, tmp_path: Path) -> None:
    counts = fuzz(part, 50, 1, tmp_path)
    assert counts.total() >= 50
    assert len(counts) > 1, f"all {counts.total()} cases came to the same: {counts}"


def test_long_lines_without_a_break(tmp_path: Path) -> None:
    assert long_lines(tmp_path, 200_000) == {"accepted, right": 3}
