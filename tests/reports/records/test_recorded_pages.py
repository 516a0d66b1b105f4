"""Numbers on pages that are written by hand, against the records that they name."""

from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[3]
METHODS = {
    "Fast-CAM": "fastcam",
    "SMOE Scale, linear weights": "smoe-linear",
    "Grad-CAM": "gradcam",
    "LaFAM": "lafam",
    "Centre disk": "centre",
    "Random": "random",
}


@pytest.mark.parametrize("title", METHODS)
def test_the_sums_of_imagenette(title):
    page = (ROOT / "docs" / "results" / "imagenette.md").read_text(encoding="utf-8")
    (line,) = [one for one in page.splitlines() if one.startswith(f"| {title} |")]
    cells = [cell.strip().partition(" ")[0] for cell in line.strip("| ").split("|")]
    _, kar, roar, total, seeds, mask = cells
    records = pd.read_parquet(ROOT / "reports/runs/imagenette-retraining/records.parquet")
    own = records[(records["method"] == METHODS[title]) & records["seed"].isin((0, 1))]
    accuracy = own[own["metric"] == "accuracy"]
    assert len(accuracy) == 2 * 2 * 3
    sums = accuracy.groupby("mode")["value"].sum() / 2
    assert (float(kar), float(roar)) == (round(sums["kar"], 3), -round(sums["roar"], 3))
    assert float(total) == pytest.approx(sums["kar"] - sums["roar"], abs=6e-4)
    assert int(seeds) == accuracy["seed"].nunique()
    alone = own.loc[own["metric"] == "mask_only_accuracy", "value"]
    assert float(mask) == pytest.approx(100 * alone.iloc[0], abs=0.051)
