"""The report of a comparison follows from its table."""

import math
from pathlib import Path

import pytest
import torch

from lit_cv.figures.comparison import labels_needed
from lit_cv.metrics.centroid import centroid_predictions
from lit_cv.studies.comparison_report import write_report
from lit_cv.studies.comparison_results import judge, measure
from lit_cv.studies.study_files import Row, write_study_table

pytestmark = pytest.mark.draws


def row(approach: str, labels: int, seed: int, value: float, pretraining: float = 0.0, error: str = "") -> Row:
    return {
        "approach": approach, "title": approach.title(), "data": "Some", "budget": str(labels // 10), "labels": labels,
        "images": 1000 if pretraining else labels, "seed": seed, "metric": "test_acc", "test_acc": value,
        "pretraining_steps": 5, "pretraining_seconds": pretraining, "pretraining_seeds": "one" if pretraining else "",
        "steps": 3, "seconds": 2.0, "total_seconds": 2.0 + pretraining, "error": error,
    }  # fmt: skip


ROWS = [
    *(row("plain", 100, s, v) for s, v in enumerate((0.50, 0.60))),
    *(row("plain", 1000, s, v) for s, v in enumerate((0.90, 0.92))),
    *(row("learned", 100, s, v, 30.0) for s, v in enumerate((0.80, 0.82))),
    *(row("learned", 1000, s, v, 30.0) for s, v in enumerate((0.89, 0.92))),
]


def test_judge_compares_difference_with_spread() -> None:
    few, many = judge(measure(ROWS))
    assert (few.budget, few.best, few.second) == ("10", "learned", "plain")
    assert few.difference == pytest.approx(0.26)
    assert few.spread == pytest.approx(math.hypot(0.1, 0.02) / math.sqrt(2))
    assert few.exceeds
    assert (many.best, many.exceeds) == ("plain", False)
    assert many.difference == pytest.approx(0.005)


def test_labels_needed_are_interpolated() -> None:
    plain, learned = measure(ROWS)
    assert labels_needed(plain, 0.73) == pytest.approx(100 * 10**0.5)
    assert labels_needed(learned, 0.8) == 100
    assert labels_needed(learned, 0.95) == math.inf


@pytest.mark.slow
def test_report_content(tmp_path: Path) -> None:
    write_study_table(
        tmp_path / "compare.csv", [*ROWS, row("broken", 100, 0, math.nan, error="RuntimeError: no <memory>")]
    )
    report = write_report(tmp_path, cost_per_label=0.1)
    assert "- 10 labels per class: Learned, 26.0 points of accuracy ahead of Plain, more than the spread" in report
    assert "- 100 labels per class: Plain, 0.5 points of accuracy ahead of Learned, not more than the spread" in report
    assert "| Learned | **81.0 ± 1.4** | 90.5 ± 2.1 |" in report
    assert "| Learned | 30.0 | 2.0 | 32.0 |" in report
    assert "RuntimeError: no <memory>" in report
    page = (tmp_path / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "<b>81.0 ± 1.4</b>" in page
    assert "no &lt;memory&gt;" in page


def test_report_without_successful_run(tmp_path: Path) -> None:
    write_study_table(tmp_path / "compare.csv", [row("broken", 100, 0, math.nan, error="x")])
    with pytest.raises(ValueError, match="no run of the comparison has succeeded"):
        write_report(tmp_path)


def test_centroid_predictions_match_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(30, 5, generator=generator), torch.randn(20, 5, generator=generator)
    labels = torch.arange(30) % 4  # the last of five classes has no image
    expected = []
    for query in queries:
        query = query / query.norm()
        means = [torch.stack([b / b.norm() for b in bank[labels == k]]).mean(0) for k in range(4)]
        expected.append(min(range(4), key=lambda k: float((query - means[k]).norm())))
    assert centroid_predictions(queries, bank, labels, 5).tolist() == expected
    with pytest.raises(ValueError, match="3 embeddings with 2 labels"):
        centroid_predictions(queries, bank[:3], labels[:2], 4)
