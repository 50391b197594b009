"""The verb `export`: write a checkpoint as programs and weights that need neither lit_cv nor Lightning."""

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_cv.atomic_files import next_free_path, write_text
from lit_cv.cli.verb_options import VerbParser
from lit_cv.printable import printable

__all__ = ["run_export"]

_FILES = {"torch": "model.pt2", "onnx": "model.onnx", "safetensors": "model.safetensors"}


def _parser() -> VerbParser:
    parser = VerbParser(
        "export",
        "Write the module of a checkpoint as a torch.export program, as ONNX and as safetensors. The programs take\n"
        "raw uint8 images (N, C, H, W) with any N, and are checked against the output of the module.",
        "  lit-cv export best\n  lit-cv export lightning_logs/version_0/checkpoints/best.ckpt --formats onnx",
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
    options = _parser().parse(args)
    from lit_cv.running.runs import find_checkpoint

    checkpoint = find_checkpoint(options.checkpoint)
    folder = _folder(options.output, checkpoint.run or checkpoint.path.parent, options.formats)
    if options.dry_run:
        print(printable(f"{checkpoint.path} ({checkpoint.class_path}), in about a minute, to:", lines=False))
        print("\n".join(f"  {folder / _FILES[name]}" for name in options.formats))
        return
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
    write_text(folder / "model.json", json.dumps(program.describe(classes), indent=1), "the description")


def _folder(output: str | None, parent: Path, formats: Sequence[str]) -> Path:
    """Return the output folder, and refuse to overwrite files that may be in use."""
    if output is None:
        return next_free_path(parent / "export")
    for path in (Path(output) / name for name in ("model.json", *(_FILES[name] for name in formats))):
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
