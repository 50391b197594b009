"""The verb `export`: write a checkpoint as programs and weights that need neither lit_cv nor Lightning."""

import argparse
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_cv.atomic_files import next_free_path, write_text
from lit_cv.cli.verb_options import VerbParser
from lit_cv.hub import is_hub_name
from lit_cv.light_torchmetrics import import_torchmetrics
from lit_cv.printable import printable

__all__ = ["run_export"]

_FILES = {"torch": "model.pt2", "onnx": "model.onnx", "safetensors": "model.safetensors"}
_INT8 = "model_int8.onnx"


def _parser() -> VerbParser:
    parser = VerbParser(
        "export",
        "Write the module of a checkpoint as a torch.export program, as ONNX and as safetensors. The programs take\n"
        "raw uint8 images (N, C, H, W) with any N, and are checked against the output of the module.",
        "  lit-cv export best\n  lit-cv export lightning_logs/version_0/checkpoints/best.ckpt --formats onnx\n"
        "  lit-cv export best --int8 200 --benchmark",
        "CHECKPOINT [options]",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, or `best` or `last` for the newest run")
    parser.add_argument(
        "--formats", nargs="+", choices=list(_FILES), default=list(_FILES), help="what to write (default: all)"
    )
    parser.add_argument("--part", choices=("auto", "forward", "embed", "episode"), default="auto", help="what "
                        "programs return: the module's output, or its features; auto: features if it has no other; "
                        "episode: logits of query images among classes given by example images")  # fmt: skip
    parser.add_argument("--without_nms", action="store_true", help="let programs of detectors return all candidates, "
                        "without non-maximum suppression")  # fmt: skip
    parser.add_argument("--int8", type=_positive, metavar="N", help="also write model_int8.onnx, an ONNX program that "
                        "computes with 8-bit integers, calibrated on N training images of the run, and measure its "
                        "loss of accuracy on the validation images; options such as --data.root are those of "
                        "validate")  # fmt: skip
    parser.add_argument("--benchmark", action="store_true", help="print the size and the time per image of the "
                        "programs")  # fmt: skip
    parser.add_argument("--images", metavar="FOLDER", help="real images to check the programs with")
    parser.add_argument("--output", metavar="FOLDER", help="output folder (default: export in the run's "
                        "folder, or the next free name: export_1)")  # fmt: skip
    parser.add_argument("--dry_run", action="store_true", help="list what would be written, then exit")
    return parser


def run_export(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    parser = _parser()
    for name in (arg.partition("=")[0] for arg in args):
        if name in ("--ckpt_path", "--checkpoint"):
            parser.error(f"{name}: the checkpoint is given without an option, as in `lit-cv export best`.")
    options, run_args = parser.parse_before_fit(args)
    if run_args and options.int8 is None:
        parser.error(f"{run_args[0]} is only used with --int8 N.")
    if options.int8 is not None and "onnx" not in options.formats:
        parser.error("--int8 needs --formats onnx.")
    if options.part == "episode" and (options.int8 is not None or options.benchmark):
        parser.error("--int8 and --benchmark are for programs of images alone: choose another --part than episode.")
    from lit_cv.running.runs import find_checkpoint

    checkpoint = find_checkpoint(options.checkpoint)
    beside = Path() if is_hub_name(options.checkpoint) else checkpoint.path.parent
    folder = _folder(options.output, checkpoint.run or beside, options.formats)
    if options.dry_run:
        print(printable(f"{checkpoint.path} ({checkpoint.class_path}), in about a minute, to:", lines=False))
        files = [*(_FILES[name] for name in options.formats), *([_INT8] if options.int8 else [])]
        print("\n".join(f"  {folder / name}" for name in files))
        return
    import_torchmetrics()
    from lit_cv.modules.loading import load_module
    from lit_cv.running.export import ExportedEpisode, ExportedModule, export_onnx, export_program, export_weights

    module = load_module(checkpoint.path)
    learned = module.declared_classes() | module.trained_classes
    classes = next(iter(learned.values()), checkpoint.class_names)  # the data may have other classes, of whole images
    if options.part == "episode":
        program: ExportedModule = ExportedEpisode(module)
    else:
        program = ExportedModule(module, options.part, suppress=not options.without_nms)
    images = _read(options.images, program.image_shape) if options.images else None
    folder.mkdir(parents=True, exist_ok=True)
    _silence()
    for name in options.formats:
        path = folder / _FILES[name]
        if name == "safetensors":
            export_weights(module, path, classes)
            print(f"{path}: the weights", flush=True)
            continue
        difference = (export_program if name == "torch" else export_onnx)(program, path, images, classes)
        print(f"{path}: checked, within {difference:.1g} of the module", flush=True)
    description = program.describe(classes)
    _describe(folder, description)
    if options.int8 is not None:
        _describe(folder, {**description, "int8": _quantize(checkpoint.path, folder, options.int8, run_args)})
    if options.benchmark:
        print(_benchmark(program, folder), flush=True)


def _describe(folder: Path, description: dict[str, Any]) -> None:
    write_text(folder / "model.json", json.dumps(description, indent=1), "the description")


def _positive(text: str) -> int:
    """Parse a number of at least 1, as the type of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of at least 1")
    return int(text)


def _quantize(checkpoint: Path, folder: Path, count: int, run_args: list[str]) -> dict[str, Any]:
    """Write the quantized program, print its metrics, and return them with the number of calibration images."""
    from lit_cv.running.arguments import prepare_run
    from lit_cv.running.invocation import invocation
    from lit_cv.running.program_scores import ProgramScoresCLI
    from lit_cv.running.quantization import Quantization

    callback = Quantization(folder / _FILES["onnx"], folder / _INT8, count)
    args = ["validate", *run_args, "--ckpt_path", str(checkpoint)]
    with invocation(args):
        ProgramScoresCLI(callback, *prepare_run(args))
    scores = callback.scores
    print(f"{folder / _INT8}: calibrated with {callback.images} training images; on the validation images:")
    for name, value in scores["float32"].items():
        print(f"  {name}: {value:.4f} in float32, {scores['int8'][name]:.4f} in int8", flush=True)
    return {"calibration_images": callback.images, "validation": scores}


def _benchmark(program: Any, folder: Path) -> str:
    """Return a table of the size and speed of the module and the programs in a folder."""
    import torch

    from lit_cv.running.export import example_images
    from lit_cv.running.onnx_program import OnnxProgram
    from lit_cv.running.program_speed import measure_programs, speed_table

    programs: dict[str, Any] = {"module": (program, None)}
    if (path := folder / _FILES["torch"]).is_file():
        programs[path.name] = (torch.export.load(path).module(), path)
    for path in (folder / _FILES["onnx"], folder / _INT8):
        if path.is_file():
            programs[path.name] = (OnnxProgram(path), path)
    return speed_table(measure_programs(programs, lambda count: example_images(program.image_shape, count)))


def _folder(output: str | None, parent: Path, formats: Sequence[str]) -> Path:
    """Return the output folder, and refuse to overwrite files that may be in use."""
    if output is None:
        return next_free_path(parent / "export")
    for path in (Path(output) / name for name in ("model.json", _INT8, *(_FILES[name] for name in formats))):
        if path.exists():
            raise ValueError(f"{path} already exists: choose another folder (--output).")
    return Path(output)


def _read(folder: str, shape: tuple[int, int, int]) -> Any:
    import torch

    from datamodules import read_image
    from datamodules.folder import find_images

    root = Path(folder).expanduser()
    paths = find_images(root)[:64]
    if not paths:
        raise FileNotFoundError(f"no images found in {root.absolute()} (--images).")
    channels: Any = shape[0]
    return torch.stack([read_image(root / path, shape[1:], channels) for path in paths])


def _silence() -> None:
    """Suppress warnings and log lines about the internals of the exporters."""
    warnings.filterwarnings("ignore", module=r"(torch|onnxscript|onnx|copyreg).*")
    for name in ("torch.onnx", "onnxscript", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)
