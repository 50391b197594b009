"""Every command and every program in the README and in docs runs."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import save_image

from lit_cv.callbacks import DomainEmbedding, EmbeddingEvaluation
from lit_cv.cli import main
from tests.datamodules.saved_sets import save_splits
from tests.datamodules.test_annotated import save_voc
from tests.nn.detection.reference import smallest
from tests.running.test_export import detection_module, save_checkpoint

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
SEVERAL_RANKS = "docs/multi_node.md"  # whose blocks start torchrun and SLURM: the commands in them are run on one rank
TEXT = "\n".join(PAGES.values())
BLOCKS = [
    block
    for name, page in PAGES.items()
    for block in re.findall(r"```(bash|python|yaml)\n(.*?)```", page, re.DOTALL)
    if name != SEVERAL_RANKS
]
SHELLS = [[line for line in text.splitlines() if line.strip()] for language, text in BLOCKS if language == "bash"]
SETUP = [line for shell in SHELLS for line in shell if line.startswith("pip install")]
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
CONFIGURATIONS = [text for language, text in BLOCKS if language == "yaml"]
# Commands of a block run in one folder, since a command may need the results of earlier ones; then those of tables.
SESSIONS = [list(shell) for shell in dict.fromkeys(tuple(shell) for shell in SHELLS if not set(shell) & set(SETUP))]
INLINE = re.findall(r"`(lit-cv fit --config [^`]+)`", TEXT.replace("\n", " "))
SESSIONS += [[command] for command in dict.fromkeys(INLINE) if [command] not in SESSIONS]
LINES = "".join(re.findall(r"```bash\n(.*?)```", PAGES[SEVERAL_RANKS], re.DOTALL)).replace("\\\n", " ").splitlines()
RANKED = [found[1] for line in LINES if (found := re.search(r"(?:lit-cv|-m lit_cv) ([^&#]+)", line))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
CUSTOM_FILES = {
    "focal": "FocalModule",
    "mine": "TinyNet",
}
SHORT = [
    "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2",
    "--trainer.accelerator", "cpu", "--data.batch_size", "8",
]  # fmt: skip
SHORTER = {  # options of verbs that do several fits or none
    "kfold": [*SHORT, "--folds", "2", "--trainer.max_epochs", "1"],
    "compare": ["--labels", "2", "--seeds", "0", "--steps", "2", "--pretraining_steps", "2", *SHORT[4:6]],
    "curves": [],
    "export": [],
    "push": [],
}


def small(args: list[str]) -> list[str]:
    """Return options that shorten a recipe for photographs: small batches, and a small network unless one is named."""
    if not any("imagefolder" in arg for arg in args):
        return []
    return ["--data.batch_size", "2", *([] if "--model.backbone" in args else ["--model.backbone", "conv4"])]


def test_setup_commands_match_ci() -> None:
    first, second = SETUP
    assert first == "pip install . && lit-cv fit --config supervised"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert first in script
    assert second in script
    foreign = next(line for line in script[script.index(second) :] if "pytest -n 2 -m learns" in line)
    assert foreign.startswith("ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default pytest")


def test_readme_fits_on_few_screens() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        target, _, anchor = link.partition("#")
        if target.startswith("https:"):
            continue
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings], link


def test_every_block_of_commands_is_run() -> None:
    assert all(command.startswith("lit-cv ") for session in SESSIONS for command in session)


@pytest.fixture
def photos(in_tmp: Path) -> Path:
    """A working directory with the images, annotations and Python files that the pages mention."""
    for name in ("cat", "dog"):
        (in_tmp / "photos" / name).mkdir(parents=True)
        for index in range(20):
            save_image(torch.rand(3, 40, 50), in_tmp / "photos" / name / f"{index}.png")
    for file, name in CUSTOM_FILES.items():
        (in_tmp / f"{file}.py").write_text(next(text for text in PROGRAMS if f"class {name}" in text))
    for path in EXAMPLES:
        (in_tmp / path.name).write_bytes(path.read_bytes())
    (in_tmp / "lines" / "photos").mkdir(parents=True)
    for index in range(12):
        save_image(torch.rand(3, 40, 50), in_tmp / "lines" / "photos" / f"{index}.png")
    lines = [f"{index}.png 4 4 20 20 {('red', 'white')[index % 2]}" for index in range(12)]
    (in_tmp / "lines" / "boxes.txt").write_text("\n".join(lines))
    save_voc(in_tmp / "cells", [(80, 96)] * 20, [[("red", 5, 5, 40, 50), ("white", 50, 20, 90, 70)]] * 20)
    (in_tmp / "cells_masks" / "instances").mkdir(parents=True)
    objects = np.zeros((80, 96), np.uint8)
    objects[10:40, 8:40], objects[30:70, 50:80] = 1, 2
    for path in (in_tmp / "cells" / "JPEGImages").iterdir():
        (in_tmp / "cells_masks" / "images").mkdir(exist_ok=True)
        (in_tmp / "cells_masks" / "images" / path.name).write_bytes(path.read_bytes())
        Image.fromarray(objects).save(in_tmp / "cells_masks" / "instances" / path.name)
    (in_tmp / "new").mkdir()
    for path in (in_tmp / "cells" / "JPEGImages").glob("[0-4].png"):
        (in_tmp / "new" / path.name).write_bytes(path.read_bytes())
    for index, name in enumerate(("red", "white")):
        (in_tmp / "examples" / name).mkdir(parents=True)
        for shown in range(2):
            save_image(torch.full((3, 30, 30), 0.9 * index + 0.05 * shown), in_tmp / "examples" / name / f"{shown}.png")
    votes = [f"{index}.png,{who},{'ab'[index % 2]}" for index in range(6) for who in ("anna", "ben")]
    (in_tmp / "votes.csv").write_text("\n".join(["path,annotator,label", *votes, "0.png,cleo,b"]) + "\n")
    return in_tmp


@pytest.mark.slow
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session[0])
@pytest.mark.usefixtures("parsed_once")
def test_commands(session: list[str], photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = os.environ.get("LIT_CV_DATA")
    monkeypatch.setattr(DomainEmbedding.__init__, "__defaults__", (20, "tsne"))  # t-SNE takes seconds
    few = property(lambda self: 200, lambda self, value: None)  # overrides the recipe
    monkeypatch.setattr(EmbeddingEvaluation, "max_images", few, raising=False)
    if any("coco.pth" in command for command in session):
        torch.save(smallest().state_dict(), photos / "coco.pth")
    if any("HFDatasetDataModule" in command for command in session):
        pytest.importorskip("pyarrow")
        save_splits(photos / "saved", {"train": range(40), "test": range(4)})
    for command in session:
        if "$LIT_CV_DATA" in command and not root:
            pytest.skip("LIT_CV_DATA is not set to a folder of real images")
        args = [arg.replace("$LIT_CV_DATA", str(root)) for arg in shlex.split(command)[1:]]
        if args[0] == "fit":
            args += [*SHORT, *small(args), "--trainer.max_epochs", "2" if "--ckpt_path" in args else "1"]
        if args[0] == "test":
            args += ["--trainer.limit_test_batches", "2"]
        if args[0] in SHORTER:
            options = [*SHORTER[args[0]], *(["--labels", "all"] if "adaptation" in args else [])]
            main(args + ([] if "--redraw" in args else options))
            continue
        cli = main(args)
        run = photos / "lightning_logs" / "version_0"
        if args[0] == "fit":
            assert cli is not None
            assert cli.trainer.current_epoch == int(args[-1])
        if args[0] == "predict":
            tables = [
                run / "predictions.csv",
                run / "predictions" / "order.csv",
                run / "predictions" / "order_boxes.csv",
            ]
            table = next(path for path in tables if path.is_file())
            assert len(table.read_text().splitlines()) > 1
        if args[0] in ("convert", "agreement"):
            assert any((photos / name).exists() for name in ("cells_coco", "consensus.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("command", dict.fromkeys(RANKED))
def test_commands_for_several_ranks(command: str, in_tmp: Path) -> None:
    one = ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
    cli = main([*shlex.split(command), *SHORT, *one, "--trainer.default_root_dir", ".", "--trainer.max_epochs", "1"])
    assert cli is not None
    assert cli.trainer.current_epoch == 1


@pytest.mark.slow
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_configuration(configuration: str, photos: Path) -> None:
    (photos / "mine.yaml").write_text(configuration)
    recipe = ["fit", "--config", "imagefolder_supervised", "--config", "mine.yaml", "--data.root", "photos"]
    cli = main([*recipe, *SHORT, *small(recipe), "--trainer.max_epochs", "1"])
    assert cli is not None
    assert cli.trainer.current_epoch == 1


@pytest.mark.slow
def test_program_of_exported_detector(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    module = detection_module()
    save_checkpoint(module, in_tmp / "a.ckpt")
    main(["export", "a.ckpt", "--formats", "onnx", "--output", "export"])
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(next(text for text in PROGRAMS if "onnxruntime" in text), names)
    assert names["scores"].shape == (2, 100)
    assert len(capsys.readouterr().out.splitlines()) == (names["scores"] > 0.5).sum() > 0


@pytest.mark.parametrize("program", [text for text in PROGRAMS if "class " not in text and "onnxruntime" not in text])
def test_program(program: str, in_tmp: Path) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(program.replace("max_epochs=3", "fast_dev_run=True"), "README.md", "exec"), names)
    assert names["module"].trainer.global_step == 1
