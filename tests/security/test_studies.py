"""Cross-validations and comparisons in hostile folders, and with difficult names."""

import csv
import errno
import html.parser
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lit_cv import SupervisedModule
from lit_cv.atomic_files import write_text
from lit_cv.cli import main
from lit_cv.csv_tables import csv_text, read_csv
from lit_cv.studies.comparison_files import read_comparison
from lit_cv.studies.comparison_plan import ApproachStage
from lit_cv.studies.comparison_report import write_report
from lit_cv.studies.comparison_results import judge, measure
from lit_cv.studies.folds import Fold, groups_from_table
from lit_cv.studies.kfold import _read_predictions, fold_table, not_finite
from lit_cv.studies.markdown import escape_markdown
from lit_cv.studies.progress_line import ProgressLine
from lit_cv.studies.study import PlannedRun, Study
from lit_cv.studies.study_files import Row, read_study_table, write_study_table
from tests.marks import first_quick
from tests.security.hostile import EVIL, MARKER, error_line

pytestmark = pytest.mark.slow

RUNS = [PlannedRun(f"r{k}", f"run {k} \x1b[2J\udcff", "plain", 10) for k in range(3)]


def study(folder: Path, **options: Any) -> Study:
    return Study(folder, {"what": "a"}, RUNS, "table.csv", "lit-cv again", **options)


def perform(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
    return {"score": 0.5}


def row(approach: str = "plain", value: Any = 0.5, seed: int = 0, **more: Any) -> Row:
    return {
        "approach": approach, "title": approach, "data": "Some", "budget": "10", "labels": 100, "images": 100,
        "seed": seed, "metric": "test_acc", "test_acc": value, "pretraining_steps": 0, "pretraining_seconds": 0.0,
        "pretraining_seeds": "", "seconds": 2.0, "error": "", **more,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["runs", "runs/r0", ".lock"])
def test_links_in_study_are_refused(name: str, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(elsewhere if name != ".lock" else tmp_path / "new")
    with pytest.raises(OSError, match=f"{name} is a link"):
        study(folder).execute(perform)
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "new").exists()


def test_links_at_study_files_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    folder = tmp_path / "study"
    for name in (".table.csv.part", ".plan.json.part", "runs/r0/error.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)

    def fail(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        raise RuntimeError("broken")

    study(folder).execute(fail)
    assert target.read_text() == "mine"
    assert "broken" in (folder / "runs" / "r0" / "error.txt").read_text()
    (folder / "table.csv").unlink()
    (folder / "table.csv").symlink_to(target)
    target.write_text((folder / "plan.json").read_text())  # a link to a file that is not a table
    with pytest.raises(ValueError, match=r"table\.csv is damaged"):
        study(folder)


def test_unfinished_study_files_are_removed(tmp_path: Path) -> None:
    unfinished = tmp_path / ".table.csv.0123456789abcdef.part"
    unfinished.write_text("half")
    study(tmp_path).execute(perform)
    assert not unfinished.exists()


def test_study_resumes_after_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    performed: list[str] = []

    def full(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == "table.csv" and performed == ["r0", "r1"]:
            raise OSError(errno.ENOSPC, f"{path} could not be written")
        write_text(path, *args, **kwargs)

    def count(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        performed.append(run.key)
        if performed == ["r0", "r1", "r1"]:
            raise OSError(errno.ENOSPC, "the checkpoint could not be written")
        return {"score": 0.5}

    monkeypatch.setattr("lit_cv.studies.study_files.write_text", full)
    for _ in range(2):
        with pytest.raises(OSError, match="could not be written"):
            study(tmp_path).execute(count)
        assert "Stopped in run 2 of 3" in capsys.readouterr().out
        assert [row["key"] for row in read_study_table(tmp_path / "table.csv")] == ["r0"]
    study(tmp_path).execute(count)
    assert performed == ["r0", "r1", "r1", "r1", "r2"]
    assert [row["error"] for row in read_study_table(tmp_path / "table.csv")] == ["", "", ""]


def test_unwritable_traceback_hides_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        folder.rmdir()
        if run.key == "r1":
            folder.symlink_to(tmp_path)
        raise RuntimeError(f"broken {run.key}")

    found = study(tmp_path / "study")
    found.execute(fail)
    assert [row["error"] for row in found.rows.values()] == [f"RuntimeError: broken r{k}" for k in range(3)]
    assert "broken r0" in (tmp_path / "study" / "runs" / "r0" / "error.txt").read_text()
    assert "r1 is a link" in caplog.text
    assert not (tmp_path / "error.txt").exists()


DAMAGED_PLANS = {
    "list": "[1]", "cut off": '{"what": ', "nested": "[" * 100_000, "nested in a dict":
    '{"what":' * 900 + "1" + "}" * 900,
    "digits": f'{{"what": {"9" * 5000}}}', "bytes": "\udcff\udcfe",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED_PLANS)
def test_damaged_plan_gives_one_line_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(DAMAGED_PLANS[name].encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"plan\.json is damaged: .*Delete it .*`output`") as error:
        study(tmp_path)
    assert "\n" not in str(error.value)


DAMAGED_TABLES = {
    "no columns": ("a,b\n1,2\n", "it has no column key"),
    "pickle": ("\udc80\x04\udc95\n.\n", "line 1: not valid UTF-8"),
    "short row": ("key,steps,wall_seconds,error\nr0,1\n", "line 2 has 2 cells for 4 columns"),
    "text": ("key,score,steps,wall_seconds,error\nr0,x,10,1,\n", "row 1, column score: 'x' is not a number"),
    "no steps": ("key,steps,wall_seconds,error\nr0,0,1,\n", "row 1, column steps: '0' is not an integer"),
    "digits": (f"key,steps,wall_seconds,error\nr0,{'9' * 5000},1,\n", "column steps: '9999"),
    "no time": ("key,steps,wall_seconds,error\nr0,1,nan,\n", "column wall_seconds: nan is not a duration"),
    "huge field": (f"key,steps,wall_seconds,error\n{'r' * 200_000},1,1,\n", "field larger than field limit"),
}


@pytest.mark.parametrize("name", DAMAGED_TABLES)
def test_damaged_table_gives_one_line_error(name: str, tmp_path: Path) -> None:
    text, message = DAMAGED_TABLES[name]
    (tmp_path / "table.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"table\.csv is damaged: .*{message}.*Delete it") as error:
        study(tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(tmp_path))


DAMAGED_REPORTS = {
    "columns": ([{"approach": "a", "error": ""}], "it has no column title"),
    "metric": ([row(metric="test_iou")], "it has no column test_iou"),
    "value": ([row(value="x")], "row 1, column of the metric: 'x' is not a number"),
    "labels": ([row(labels="0")], "row 1, column labels: '0' is not an integer >= 1"),
    "labels of digits": ([row(labels="9" * 5000)], "row 1, column labels: '9999"),
    "budget": ([row(), row(budget="1e999")], "row 2, column budget: '1e999' is invalid"),
    "seconds": ([row(seconds="inf")], "row 1, column seconds: inf is not a duration"),
    "metrics": ([row(), row(metric="seed")], "row 2, column metric: it differs from the first row"),
    "approaches": ([row(f"a{k}") for k in range(300)], "more than 200 different values in the column approach"),
}


@pytest.mark.parametrize("name", DAMAGED_REPORTS)
def test_redraw_of_damaged_table_gives_one_line_error(name: str, in_tmp: Path) -> None:
    rows, message = DAMAGED_REPORTS[name]
    write_study_table(in_tmp / "out" / "compare.csv", rows)
    with pytest.raises(ValueError, match=rf"compare\.csv is damaged: .*{message}") as error:
        main(["compare", "--redraw", "--output", "out"])
    assert "\n" not in str(error.value)


def test_damaged_predictions_give_one_line_error(tmp_path: Path) -> None:
    fold = Fold(1, 1, torch.tensor([2, 5, 7]).numpy())
    positions, good = torch.tensor([5, 2]), torch.rand(2, 3)
    path = tmp_path / "predictions.pt"
    torch.save({"positions": positions, "probabilities": good}, path)
    assert _read_predictions(path, fold, 3)[0] == [5, 2]
    wrong: list[Any] = [
        [1], {"positions": positions}, {"positions": 3, "probabilities": 4}, print,
        {"positions": positions.float(), "probabilities": good},
        {"positions": positions, "probabilities": good[:1]},
        {"positions": positions, "probabilities": good[:, :2]},
        {"positions": torch.tensor([5, 5]), "probabilities": good},
        {"positions": torch.tensor([1, 2]), "probabilities": good},
        {"positions": torch.zeros(1, dtype=torch.int64).expand(10**12), "probabilities": good[:1].expand(10**12, 3)},
        {"positions": positions, "probabilities": good.to_sparse()},
    ]  # fmt: skip
    for content in wrong:
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"predictions\.pt is damaged: it holds .* Delete it"):
            _read_predictions(path, fold, 3)
    path.write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(ValueError, match=r"predictions\.pt is damaged"):
        _read_predictions(path, fold, None)


STAGES = "stages: [{config: supervised}]"
WRONG_COMPARISONS = {
    "approaches: 3": "approaches: 3 is invalid",
    "approaches: {a: 3}": "approach a: 3 is invalid: give a mapping with stages",
    "approaches: {a: {stages: x}}": "approach a, stages: 'x' is invalid: give a list of stages",
    "approaches: {a: {stages: [x]}}": r"approach a, stages: \['x'\] is invalid",
    f"approaches: {{a: {{title: [1], {STAGES}}}}}": r"approach a, title: \[1\] is invalid: give a string",
    "approaches: {a: {stages: [{config: supervised, model: 7}]}}": "approach a, stage 1, model: 7 is invalid",
    "approaches: {a: {stages: [{config: [1]}]}}": r"approach a, stage 1, config: \[1\] is invalid",
    "approaches: {a: {stages: [{config: supervised, steps: 1.5}]}}": "stage 1, steps: 1.5 is invalid: give an integer",
    "approaches: {a: {stages: [{config: supervised, shared: 3}]}}": "stage 1, shared: 3 is invalid: give true or false",
    "approaches: {a: {stages: [{config: supervised, share: .nan}]}}": "stage 1, share: nan is invalid",
    "approaches: {a: {stages: [{config: supervised, batch_size: 0}]}}": "stage 1, batch_size: 0 is invalid",
    f"approaches: {{../../x: {{{STAGES}}}}}": r"name '../../x': use at most 48 letters, digits, \. _ -",
    f"approaches: {{.hidden: {{{STAGES}}}}}": r"name '.hidden'",
    f'approaches: {{"a\\x1b[2J/b": {{{STAGES}}}}}': r"name 'a\\x1b\[2J/b'",
    f"approaches: {{{'a' * 300}: {{{STAGES}}}}}": "name 'aaaa",
    f"approaches: {{a: {{{STAGES}}}, A: {{{STAGES}}}}}": "two approach names differ only in upper and lower case",
    f"seeds: {{}}\napproaches: {{a: {{{STAGES}}}}}": "seeds: {} is invalid: give",
    f"seeds: [-1]\napproaches: {{a: {{{STAGES}}}}}": r"seeds: \[-1\] is invalid: give",
    f"labels: {{a: b}}\napproaches: {{a: {{{STAGES}}}}}": "labels: {'a': 'b'} is invalid: give a list",
    f"labels: [.inf]\napproaches: {{a: {{{STAGES}}}}}": "labels=inf: must be a number",
    f"labels: [1.0e+300]\napproaches: {{a: {{{STAGES}}}}}": r"labels=1e\+300: must be a number",
    f"data: 3\napproaches: {{a: {{{STAGES}}}}}": "data: 3 is invalid",
    f"data: {{class_path: X, init_args: 3}}\napproaches: {{a: {{{STAGES}}}}}": "data: class_path must be a string",
    f"data: {{class_path: X, init_args: {{d: 2001-01-01}}}}\napproaches: {{a: {{{STAGES}}}}}": "holds a date",
    f"metric: [x]\napproaches: {{a: {{{STAGES}}}}}": r"metric: \['x'\] is invalid",
    f"trainer: 1\napproaches: {{a: {{{STAGES}}}}}": "trainer: 1 is invalid",
    f"minutes: x\napproaches: {{a: {{{STAGES}}}}}": "minutes: 'x' is invalid",
    "labels: [all]": "`approaches` is missing",
    "3: x": "unknown key 3",
}


@pytest.mark.parametrize("text", WRONG_COMPARISONS)
def test_wrong_comparison_gives_one_line_error(text: str, in_tmp: Path) -> None:
    (in_tmp / "c.yaml").write_text(text if "data:" in text else f"data: DigitsDataModule\n{text}")
    with pytest.raises(ValueError, match=f"c.yaml.*{WRONG_COMPARISONS[text]}|^{WRONG_COMPARISONS[text]}") as error:
        main(["compare", "--comparison", "c.yaml"])
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert [path.name for path in in_tmp.iterdir()] == ["c.yaml"]


def test_stage_is_named_by_file_stem() -> None:
    for config, name in {
        "a/b/own.yaml": "own",
        "../../x.yml": "x",
        "simclr": "simclr",
        "../..": "_..",
        "/": "_",
    }.items():
        assert ApproachStage(config=config).name == name
    assert len(ApproachStage(config=f"{'a' * 500}.yaml").name) == 48
    assert read_comparison("digits").approaches[1].stages[0].name == "simclr"


@pytest.mark.parametrize("text", first_quick(["[1]", '{"a": "x"}', '{"a": true}', '{"a": 1e999}', '{"a": -1}', "{"], 2))
def test_damaged_lengths_give_one_line_error(text: str, in_tmp: Path) -> None:
    (in_tmp / "out").mkdir()
    (in_tmp / "out" / "lengths.json").write_text(text)
    short = ["--approaches", "supervised", "--labels", "2", "--seeds", "0", "--minutes", "0.001"]
    with pytest.raises(ValueError, match=r"lengths\.json is damaged: .*Delete it"):
        main(["compare", *short, "--trainer.accelerator", "cpu", "--output", "out"])


HARD = [
    "|",
    "<b>x</b>",
    "[x](http://y)",
    "`x`",
    "**x**",
    "_x_",
    "a\\",
    "two\nlines",
    "# x",
    "- x",
    "1. x",
    "&lt;",
    "~~x~~",
    "---",
    "12)",
    "0.5 val_acc",
    "-0.5",
]


def test_markdown_shows_names_literally() -> None:
    escaped = [escape_markdown(name) for name in HARD]
    assert escaped[:7] == [
        "\\|", "\\<b\\>x\\</b\\>", "\\[x\\](http://y)", "\\`x\\`", "\\*\\*x\\*\\*", "\\_x\\_", "a\\\\",
    ]  # fmt: skip
    assert escaped[7:] == [
        "two\\\\nlines",
        "\\# x",
        "\\- x",
        "1\\. x",
        "\\&lt;",
        "\\~\\~x\\~\\~",
        "\\---",
        "12\\)",
        "0.5 val_acc",
        "-0.5",
    ]
    table = fold_table([{"repeat": 1, "fold": 1, "val_a|b": 0.5}])
    assert table.splitlines()[0] == "| fold | val_a\\|b |"


class Page(html.parser.HTMLParser):
    """Collects the tags and the text of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_reports_show_names_literally(tmp_path: Path) -> None:
    title, error = '**<script>alert("x")</script>|`$\\frac{`', "ValueError: <img src=x onerror=y>|[a](b)\x1b[2J"
    rows = [row(title=title, data="<i>D|"), row("other"), row("bad", error=error)]
    write_study_table(tmp_path / "compare.csv", rows)
    printed = write_report(tmp_path)
    assert title in printed
    assert "\x1b" not in printed
    page = Page()
    page.feed((tmp_path / "compare.html").read_text())
    assert page.tags == {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "ul", "li", "table", "tr", "th", "td", "b", "img",
    }  # fmt: skip
    assert title in page.text
    assert "<img src=x onerror=y>" in page.text
    text = (tmp_path / "compare.md").read_text()
    assert "| **50.0** |" in text
    assert escape_markdown(title) in text
    for line in text.splitlines():
        assert "\x1b" not in line
        if line.startswith("|") and "---" not in line:
            assert line.replace("\\|", "").count("|") in (3, 5)


def test_study_output_escapes_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print(study(tmp_path).describe())
    study(tmp_path).execute(perform)
    ProgressLine("a", 1, lambda step: 0.0).finish("bad \x1b[2J\udcff\nline", 1.0, 0.0)
    stdout = capsys.readouterr().out
    assert "\x1b" not in stdout
    assert "run 0 \\x1b[2J\\xff: done" in stdout
    assert "a: bad \\x1b[2J\\xff\\nline" in stdout


def test_tables_keep_all_names(tmp_path: Path) -> None:
    names = ["a\rb", "a\nb", 'a"b', "a,b", "\udcff\udcfe", " a ", "'", "=1", "\r\n"]
    path = tmp_path / "t.csv"
    path.write_bytes(
        csv_text([["image", "group"], *([name, "g"] for name in names)]).encode("utf-8", "surrogateescape")
    )
    assert [cells["image"] for _, cells in read_csv(path, names=("",)).rows] == names
    assert groups_from_table(names, path) == ["g"] * len(names)
    with pytest.raises(ValueError, match=r"t\.csv, line \d+: not valid UTF-8"):
        read_csv(path)
    path.write_bytes(b"image,group\na,\xff\n")
    with pytest.raises(ValueError, match=r"t\.csv, line 2: not valid UTF-8"):
        groups_from_table(["a"], path)


def test_escaped_formulas_are_restored(in_tmp: Path) -> None:
    rows = [row(title="=1+1", value=-0.5), row("other", title="'-x", value=-0.25, error="@x")]
    write_study_table(in_tmp / "out" / "compare.csv", rows, escape_formulas=True)
    text = (in_tmp / "out" / "compare.csv").read_text()
    assert ",'=1+1," in text
    assert ",''-x," in text
    assert ",-0.5," in text
    assert ",'@x," in text
    found = read_study_table(in_tmp / "out" / "compare.csv")
    assert [r["title"] for r in found] == ["=1+1", "'-x"]
    assert found[1]["error"] == "@x"
    assert list(found[0]) == list(rows[0])
    main(["compare", "--redraw", "--output", "out"])
    assert "=1+1" in (in_tmp / "out" / "compare.html").read_text()
    assert "&#x27;=1+1" not in (in_tmp / "out" / "compare.html").read_text()
    write_study_table(in_tmp / "plain.csv", rows)
    assert [r["title"] for r in read_study_table(in_tmp / "plain.csv")] == ["=1+1", "'-x"]


def test_non_finite_values_have_no_mean(tmp_path: Path) -> None:
    rows = [row(value=v, seed=s) for s, v in enumerate((0.9, float("inf")))]
    rows += [row("other", value=v, seed=s) for s, v in enumerate((0.5, 0.6))]
    assert [(v.best, v.second) for v in judge(measure(rows))] == [("other", None)]
    write_study_table(tmp_path / "compare.csv", rows)
    output = write_report(tmp_path)
    assert "plain, 10 labels per class, seed 1: test_acc is inf, so plain has no mean and no rank there." in output
    with pytest.raises(ValueError, match="no run of the comparison has a finite result"):
        measure([row(value=float("nan"))])
    folds = [{"repeat": 1, "fold": k, "val_loss": v, "val_acc": 0.5} for k, v in ((1, "nan"), (2, "0.5"), (3, "-inf"))]
    assert fold_table(folds).splitlines()[-1] == "| mean ± std | not finite | 0.5000 ± 0.0000 |"
    assert not_finite(folds) == ["val_loss is not finite in folds 1, 3: its mean and spread are undefined."]


RUN = [
    "kfold", "--model", "SupervisedModule", "--model.backbone", "conv4", "--folds", "2", "--trainer.max_epochs", "1",
    "--trainer.accelerator", "cpu", "--output", "out",
]  # fmt: skip


@pytest.mark.slow
def test_fold_that_fails_before_first_step(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[int] = []
    begin = SupervisedModule.on_fit_start

    def fail_once(self: Any) -> None:
        started.append(1)
        if len(started) == 1:
            raise ValueError("no <head> for \x1b[2J these classes\nmore")
        begin(self)

    monkeypatch.setattr(SupervisedModule, "on_fit_start", fail_once)
    digits = [*RUN, "--data", "DigitsDataModule", "--data.batch_size", "256"]
    main(digits)
    with open(in_tmp / "out" / "kfold.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["error"] for row in rows] == ["ValueError: no <head> for \\x1b[2J these classes", ""]
    assert "no <head>" in (in_tmp / "out" / "runs" / "repeat_1_fold_1" / "error.txt").read_text()
    stdout = capsys.readouterr().out
    assert "repeat_1_fold_1 failed: ValueError: no <head>" in stdout
    assert "\x1b" not in stdout
    main(digits)
    with open(in_tmp / "out" / "kfold.csv", newline="") as file:
        assert not any(row["error"] for row in csv.DictReader(file))


@pytest.mark.slow
def test_kfold_keeps_names_of_images_and_classes(in_tmp: Path) -> None:
    names = [b"\xff.png", b"two\nlines.png", b'quote",comma.png', b"=1+1.png"]
    for kind in ("=cat|\x1b[2J", "$\\frac{"):
        (in_tmp / "images" / kind).mkdir(parents=True)
        for name in names:
            Image.new("L", (8, 8)).save(in_tmp / "images" / kind / os.fsdecode(name), format="PNG")
    data = ["--data", "ImageFolderDataModule", "--data.root", "images", "--data.image_size", "8", "--data.num_workers",
            "0", "--data.test_fraction", "0", "--data.batch_size", "4"]  # fmt: skip
    main([*RUN, *data, "--escape_formulas"])
    _, rows, _ = read_csv(in_tmp / "out" / "predictions.csv", names=("",))
    found = sorted(os.fsencode(cells["image"].removeprefix("'")) for _, cells in rows)
    kinds = (b"$\\frac{", b"=cat|\x1b[2J")
    assert found == sorted(b"%s/%s" % (kind, name) for kind in kinds for name in names)
    assert {cells["label"] for _, cells in rows} == {"'=cat|\x1b[2J", "$\\frac{"}
    assert (in_tmp / "out" / "kfold.png").is_file()
    plan = json.loads((in_tmp / "out" / "plan.json").read_text())
    assert plan["images"] == 8


PATHS = """
data: DigitsDataModule
labels: [1]
steps: 2
approaches:
  own: {title: "\\x1b[2J=x", stages: [{config: sub/own.yaml, shared: true, steps: 1}, {config: fine_tune}]}
"""


@pytest.mark.slow
def test_stage_from_file_in_folder(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "sub").mkdir()
    own = {"model": {"class_path": "SimCLRModule", "init_args": {"backbone": "conv4"}}}
    (in_tmp / "sub" / "own.yaml").write_text(json.dumps(own))
    (in_tmp / "c.yaml").write_text(PATHS)
    main(["compare", "--comparison", "c.yaml", "--trainer.accelerator", "cpu", "--output", "out"])
    assert "\x1b" not in capsys.readouterr().out
    assert not any(row["error"] for row in read_study_table(in_tmp / "out" / "runs.csv"))
    pretraining, tuned = sorted(path.name for path in (in_tmp / "out" / "runs").iterdir())[::-1]
    assert pretraining.startswith("pretraining-own-")
    assert tuned == "own-1-seed0"


@pytest.mark.parametrize("verb", ["kfold", "compare"])
def test_default_output_link_is_refused(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    (in_tmp / "victim").mkdir()
    (in_tmp / "lightning_logs").mkdir()
    (in_tmp / "lightning_logs" / verb).symlink_to(in_tmp / "victim")
    error = error_line([verb, *(["--config=supervised", "--folds=2"] if verb == "kfold" else [])], monkeypatch)
    assert error is not None
    assert "is a link" in error
    assert list((in_tmp / "victim").iterdir()) == []


@pytest.mark.parametrize(
    "trainer",
    [
        "{default_root_dir: victim}",
        "{logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: victim}}}",
        "{callbacks: [{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: victim}}]}",
        "{profiler: {class_path: SimpleProfiler, init_args: {dirpath: victim}}}",
        "{callbacks: callbacks.yaml}",
    ],
)
@pytest.mark.parametrize("where", ["comparison", "stage", "config", "file"])
def test_comparison_writes_only_to_its_folder(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, trainer: str, where: str
) -> None:
    (in_tmp / "victim").mkdir()
    (in_tmp / "other.yaml").write_text(f"trainer: {trainer}\n")
    config = {"config": f"{{trainer: {trainer}}}", "file": "other.yaml"}.get(where, "supervised")
    stage = f"config: {config}" + (f", trainer: {trainer}" if where == "stage" else "")
    text = f"data: DigitsDataModule\nlabels: [2]\nsteps: 1\napproaches: {{a: {{stages: [{{{stage}}}]}}}}\n"
    (in_tmp / "compared.yaml").write_text(text + (f"trainer: {trainer}\n" if where == "comparison" else ""))
    error = error_line(["compare", "--comparison=compared.yaml"], monkeypatch)
    assert error is not None
    assert "is not allowed: a comparison writes only" in error
    assert list((in_tmp / "victim").iterdir()) == []


def test_file_named_like_option_imports_nothing(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_tmp / "evil.py").write_text(EVIL)
    (in_tmp / "--model=evil.EvilModule").write_text("model: {class_path: evil.EvilModule}\ndata: DigitsDataModule\n")
    (in_tmp / "compared.yaml").write_text(
        "data: DigitsDataModule\nlabels: [2]\nsteps: 1\n"
        "approaches: {a: {stages: [{config: --model=evil.EvilModule}]}}\n"
    )
    error_line(["compare", "--comparison=compared.yaml", "--dry_run"], monkeypatch)
    assert not (in_tmp / MARKER).exists()
