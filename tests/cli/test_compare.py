"""`compare`: table and report of a tiny comparison, and failed runs."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import DigitsDataModule
from lit_cv import FineTuneModule
from lit_cv.cli import main
from lit_cv.modules.loading import load_module
from lit_cv.studies.comparison import ComparisonRun
from lit_cv.studies.comparison_files import read_comparison
from lit_cv.studies.comparison_plan import Budget

TINY = """
data: DigitsDataModule
labels: [1, all]
seeds: [1]
steps: 3
approaches:
  scratch:
    title: from scratch
    stages: [{config: supervised, model: {backbone: conv4}, batch_size: 32}]
  centroid:
    stages:
      - &simclr {config: simclr, shared: true, steps: 4, batch_size: 64, warmup: 0.5, model: {backbone: conv4}}
      - {classifier: nearest_centroid}
  tuned:
    stages: [*simclr, {config: fine_tune, batch_size: 16}]
  transfer:
    stages: [{config: fine_tune, weights: given}]
"""
UNLABELED = """
data: DigitsDataModule
labels: [2, all]
seeds: [1]
approaches:
  propagation:
    stages:
      - {config: simclr, shared: true, steps: 2, batch_size: 64, warmup: 0.5, model: {backbone: conv4}}
      - {classifier: label_propagation}
  semi: # has no run with all labels
    stages: [{config: semi_supervised, unlabeled: true, batch_size: 2, steps: 2, model: {backbone: conv4}}]
"""
DOMAINS = """
data:
  class_path: DomainAdaptationDataModule
  init_args:
    source: {class_path: ShapesDataModule, init_args: {image_size: 32, num_images: 200, domain: filled}}
    target: {class_path: ShapesDataModule, init_args: {image_size: 32, num_images: 200, domain: outlined, seed: 1}}
seeds: [0]
steps: 2
metric: test_target_acc
choose_by: val_reverse_score
approaches:
  source_only:
    stages:
      - &source {config: adversarial, batch_size: 16, model: {source_only: true}}
  self_training:
    stages: [{config: self_training, batch_size: 16, model: {backbone: conv4}}]
  source_free:
    stages: [*source, {config: source_free, batch_size: 16}]
"""
CPU = ["--trainer.accelerator", "cpu"]


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tiny(in_tmp: Path) -> list[str]:
    (in_tmp / "tiny.yaml").write_text(TINY)
    return ["compare", "--comparison", "tiny.yaml", *CPU]


@pytest.mark.slow
def test_compare_writes_table_and_report(tiny: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*tiny, "--cost_per_label", "0.5"])
    output = capsys.readouterr().out
    assert "run 7 of 7" in output  # 3 approaches x 2 label budgets, and one pretraining
    folder = in_tmp / "lightning_logs" / "compare"
    rows = table(folder / "compare.csv")
    assert len(rows) == 6
    assert not any(row["error"] for row in rows)
    assert {(row["budget"], row["labels"]) for row in rows} == {("1", "10"), ("all", "1438")}
    for row in rows:
        pretrained = row["approach"] != "scratch"
        assert row["pretraining_steps"] == ("4" if pretrained else "0")
        assert row["images"] == ("1438" if pretrained else row["labels"])
        assert row["steps"] == ("0" if row["approach"] == "centroid" else "3")
        total = float(row["pretraining_seconds"]) + float(row["seconds"])
        assert float(row["total_seconds"]) == pytest.approx(total, abs=2e-3)
    assert {path.name for path in folder.iterdir()} >= {
        "compare.md", "compare.html", "compare_overview.png", "compare_labels.png", "compare_compute.png",
        "compare_cost.png",
    }  # fmt: skip
    assert "Which to choose" in output

    # The last weights reproduce the accuracy in the table, and each seed chooses other labels.
    module = load_module(folder / "runs" / "tuned-1-seed1" / "checkpoints" / "last.ckpt")
    assert isinstance(module, FineTuneModule)
    data = DigitsDataModule(val_fraction=0.0, labels_per_class=1, label_seed=1)
    data.setup()
    batch = data.test_dataset.__getitems__(range(len(data.test_dataset)))  # type: ignore[union-attr]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as in the recipe
        accuracy = float((module(batch["image"]).argmax(1) == batch["label"]).float().mean())
    tabled = next(row for row in rows if (row["approach"], row["budget"], row["seed"]) == ("tuned", "1", "1"))
    assert accuracy == pytest.approx(float(tabled["test_acc"]), abs=1e-6)
    other = DigitsDataModule(val_fraction=0.0, labels_per_class=1)
    other.setup()
    assert data.train_dataset.rows.tolist() != other.train_dataset.rows.tolist()
    assert data.test_dataset.rows.tolist() == other.test_dataset.rows.tolist()  # type: ignore[union-attr]

    # The report can be rebuilt from the table alone, and a second start has nothing to do.
    moved = in_tmp / "moved"
    moved.mkdir()
    (folder / "compare.csv").rename(moved / "compare.csv")
    main(["compare", "--redraw", "--output", "moved", "--cost_per_label", "0.5"])
    assert (moved / "compare.md").read_text() == (folder / "compare.md").read_text()
    capsys.readouterr()
    main(tiny)
    assert "run 1 " not in capsys.readouterr().out


@pytest.mark.slow
def test_approaches_that_learn_from_images_without_labels(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_tmp / "few.yaml").write_text(UNLABELED)
    monkeypatch.setattr("lit_cv.studies.comparison_report.write_report", lambda *args: "")
    main(["compare", "--comparison", "few.yaml", *CPU])
    rows = table(in_tmp / "lightning_logs" / "compare" / "compare.csv")
    assert not any(row["error"] for row in rows)
    found = {(row["approach"], row["budget"]): (row["images"], row["steps"]) for row in rows}
    assert found == {
        ("propagation", "2"): ("1438", "0"),
        ("semi", "2"): ("1438", "2"),
        ("propagation", "all"): ("1438", "0"),
    }
    assert all(0 < float(row["test_acc"]) <= 1 for row in rows)
    with pytest.raises(ValueError, match="semi: needs images without labels, but here all have one"):
        main(
            ["compare", "--comparison", "few.yaml", "--approaches", "semi", "--labels", "all", "--output", "all", *CPU]
        )
    (in_tmp / "wrong.yaml").write_text(UNLABELED.replace("label_propagation", "label_spreading"))
    with pytest.raises(ValueError, match="classifier: must be nearest_centroid or label_propagation"):
        main(["compare", "--comparison", "wrong.yaml"])


@pytest.mark.slow
def test_compare_adaptation_chosen_without_target_labels(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (in_tmp / "domains.yaml").write_text(DOMAINS)
    main(["compare", "--comparison", "domains.yaml", *CPU])
    rows = table(in_tmp / "lightning_logs" / "compare" / "compare.csv")
    assert [row["approach"] for row in rows] == ["source_only", "self_training", "source_free"]
    assert not any(row["error"] for row in rows)
    runs = {path.name for path in (in_tmp / "lightning_logs" / "compare" / "runs").iterdir()}
    assert runs == {f"{row['approach']}-all-seed0" for row in rows}  # the source is trained once
    assert [float(row["pretraining_seconds"]) for row in rows] == [0, 0, float(rows[0]["seconds"])]
    assert [int(row["images"]) - int(row["labels"]) for row in rows] == [0, 162, 162]  # of the target
    assert {(row["metric"], row["choose_by"], row["budget"]) for row in rows} == {
        ("test_target_acc", "val_reverse_score", "all")
    }
    chosen = max(rows, key=lambda row: float(row["val_reverse_score"]))
    cost = max(float(row["test_target_acc"]) for row in rows) - float(chosen["test_target_acc"])
    output = capsys.readouterr().out
    title = chosen["title"]
    assert f"chosen without labels of the test images: {title}, which has the highest val_reverse_score" in output
    assert f"this choice costs {100 * cost:.1f} points of target accuracy" in output
    with pytest.raises(ValueError, match=r"only \[all\] is possible"):
        main(["compare", "--comparison", "domains.yaml", "--labels", "10", "all", "--output", "few", *CPU])
    (in_tmp / "wrong.yaml").write_text(DOMAINS.replace("val_reverse", "test"))
    with pytest.raises(ValueError, match="choose_by: 'test_score' is invalid: give a validation metric"):
        main(["compare", "--comparison", "wrong.yaml"])
    (in_tmp / "unknown.yaml").write_text(DOMAINS.replace("val_reverse_score", "val_scores"))
    with pytest.raises(ValueError, match=r"choose_by: DomainAdversarialModule logs no val_scores, but .*val_score"):
        main(["compare", "--comparison", "unknown.yaml", "--output", "unknown", *CPU])
    assert not (in_tmp / "unknown" / "runs").exists()  # nothing is trained


@pytest.mark.slow
@pytest.mark.parametrize(("supported", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_of_a_stage_suits_the_device(
    supported: bool, precision: str, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_cv.studies.comparison_tasks.has_bfloat16", lambda accelerator: supported)
    stage = "[{config: supervised, model: {backbone: conv4}, batch_size: 32, trainer: {precision: bf16-mixed}}]"
    (in_tmp / "half.yaml").write_text(f"data: DigitsDataModule\nsteps: 1\napproaches: {{scratch: {{stages: {stage}}}}}")
    for options, expected in (([], precision), (["--trainer.precision", "bf16-mixed"], "bf16-mixed")):
        folder = f"out{len(options)}"
        main(["compare", "--comparison", "half.yaml", "--output", folder, *CPU, *options])
        config = (in_tmp / folder / "runs" / "scratch-all-seed0" / "config.yaml").read_text()
        assert f"precision: {expected}" in config


@pytest.mark.slow
def test_failed_run_is_recorded_and_repeated(tiny: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [*tiny, "--approaches", "scratch", "tuned", "--labels", "1"]
    step = FineTuneModule.step

    def broken(self: Any, batch: Any, stage: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FineTuneModule, "step", broken)
    main(few)
    path = in_tmp / "lightning_logs" / "compare" / "compare.csv"
    errors = {row["approach"]: row["error"] for row in table(path)}
    assert errors == {"scratch": "", "tuned": "RuntimeError: out of memory"}
    assert "out of memory" in (path.parent / "compare.md").read_text()
    monkeypatch.setattr(FineTuneModule, "step", step)
    main(few)
    assert not any(row["error"] for row in table(path))


@pytest.mark.slow
def test_minutes_are_converted_to_steps_once(
    tiny: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_cv.studies.comparison_report.write_report", lambda *args: "")  # figures take long
    few = [*tiny, "--approaches", "scratch", "--labels", "1", "--minutes", "0.005"]
    main(few)
    folder = in_tmp / "lightning_logs" / "compare"
    lengths = json.loads((folder / "lengths.json").read_text())
    assert [int(row["steps"]) for row in table(folder / "compare.csv")] == list(lengths.values())
    capsys.readouterr()
    main([*few, "--dry_run"])
    assert "1 runs, 0 to do" in capsys.readouterr().out


def test_minutes_are_shared_between_stages(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(run: ComparisonRun, kind: str, work: Any) -> None:
        run.seconds_a_step[kind] = 1.0, 0.0

    monkeypatch.setattr(ComparisonRun, "_time", second)
    (in_tmp / "domains.yaml").write_text(DOMAINS.replace("steps: 2", "minutes: 1"))
    run = ComparisonRun(read_comparison("domains.yaml"), in_tmp / "out", "lit-cv compare")
    steps = {planned.key: planned.steps for planned in run.study.runs}
    assert steps["source_only-all-seed0"] == 60
    stages = steps["source_free-all-seed0-stage1"], steps["source_free-all-seed0"]
    assert min(stages) > 1
    assert sum(stages) == 60


def test_compare_rejects_invalid_options(tiny: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown comparison 'digit': did you mean 'digits'"):
        main(["compare", "--comparison", "digit"])
    with pytest.raises(ValueError, match="unknown approach 'tunde': did you mean 'tuned'"):
        main([*tiny, "--approaches", "tunde"])
    with pytest.raises(ValueError, match=r"transfer needs initial weights: set --weights"):
        main([*tiny, "--approaches", "transfer"])
    with pytest.raises(ValueError, match="labels='many': must be a number per class"):
        main([*tiny, "--labels", "many"])
    with pytest.raises(ValueError, match=r"--data\.labels_per_class is varied by the comparison"):
        main([*tiny, "--data.labels_per_class", "3"])
    with pytest.raises(SystemExit, match=r"compare takes no --model\.lr"):
        main([*tiny, "--model.lr", "3"])
    with pytest.raises(FileNotFoundError, match=r"compare\.csv does not exist"):
        main(["compare", "--redraw"])
    monkeypatch.setattr("lit_cv.studies.comparison_report.write_report", lambda *args: "")
    (in_tmp / "shared.yaml").write_text(TINY.replace("config: simclr", "config: supervised"))
    main(["compare", "--comparison", "shared.yaml", "--approaches", "tuned", "--labels", "1", *CPU])
    rows = table(in_tmp / "lightning_logs" / "compare" / "runs.csv")
    errors = {row["key"].partition("-")[0]: row["error"] for row in rows}
    assert "SupervisedModule learns from labels, so label budgets cannot share it" in errors["pretraining"]
    assert "which failed" in errors["tuned"]
    (in_tmp / "wrong.yaml").write_text(TINY.replace("shared: true", "sharde: true"))
    with pytest.raises(ValueError, match="approach centroid: unknown key 'sharde': did you mean 'share' or 'shared'"):
        main(["compare", "--comparison", "wrong.yaml"])


def test_shipped_comparisons_parse() -> None:
    for name in ("digits", "fashion_mnist"):
        comparison = read_comparison(name, weights="DEFAULT")
        assert [a.name for a in comparison.approaches] == [
            "supervised", "simclr_centroid", "simclr_propagation", "simclr_probe", "simclr_finetune", "semi_supervised",
            "mae_finetune", "transfer",
        ]  # fmt: skip
    adaptation, self_supervised = (read_comparison(name) for name in ("adaptation", "self_supervised"))
    assert "self_training" in [a.name for a in adaptation.approaches]
    assert [a.stages[0].config for a in self_supervised.approaches] == [a.name for a in self_supervised.approaches]
    assert [str(Budget.parse(text)) for text in (10, "0.01", "all")] == ["10", "0.01", "all"]


def test_weights_path_becomes_absolute(in_tmp: Path) -> None:
    (in_tmp / "last.ckpt").touch()
    for given in ("last.ckpt", "last.ckpt:teacher"):
        assert read_comparison("digits", weights=given).weights == str(in_tmp / given)
    assert read_comparison("digits", weights="DEFAULT").weights == "DEFAULT"
