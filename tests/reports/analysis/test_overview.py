"""What a recorded run says of itself in its first sentences."""

from pathlib import Path

import pytest

from reports.analysis.overview import summary
from reports.records.reading import read_run

RUNS = Path(__file__).parents[3] / "reports" / "runs"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("volumes", "(5 classes, 600 training and 200 test volumes of 20×20×20 voxels)"),
        ("signals", "(4 classes, 1,500 training and 300 test signals of 256 values)"),
        ("shapes-tracks", "(8 classes, 1,200 training and 800 test images of 32×32 pixels)"),
    ],
)
def test_samples_have_the_name_of_their_grid(run: str, words: str) -> None:
    assert words in summary(read_run(RUNS / run))[0]
