"""Quantize ONNX programs to 8-bit integers, and measure what they lose on validation images."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.atomic_files import atomic_write
from lit_cv.contracts import as_data
from lit_cv.errors import argument
from lit_cv.running.onnx_program import OnnxProgram
from lit_cv.running.program_scores import ProgramScores

__all__ = ["Quantization", "calibration_images", "quantize_onnx"]

_QUANTIZED = ["Conv", "Gemm", "MatMul"]  # the other operations take little of the time
_BATCH = 8  # calibration images at once


def quantize_onnx(program: Path, path: Path, images: Tensor) -> None:
    """Write a copy of an ONNX program whose convolutions and matrix products compute with 8-bit integers.

    Weights have a scale per output channel. Activations have the range of the calibration images.

    Args:
        program: The program in float32, with the input `image`.
        path: File to write.
        images: Calibration images (N, C, H, W) uint8.

    Raises:
        ImportError: If onnx or onnxruntime is missing.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Reads the calibration images in batches."""

        def __init__(self) -> None:
            self.batches = iter(torch.split(images, _BATCH))

        def get_next(self) -> dict[str, Any] | None:
            """Return the next batch, `None` after the last one."""
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch.numpy()}

    with tempfile.TemporaryDirectory() as scratch, atomic_write(path, "the program", suffix=".part.onnx") as part:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(program, prepared, skip_symbolic_shape=True)
        # Seven bits of weights: sums of eight-bit products overflow on processors without VNNI.
        quantize_static(
            prepared, part, Reader(), op_types_to_quantize=_QUANTIZED, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        model = onnx.load(part)
        del model.metadata_props[:]
        model.metadata_props.extend(onnx.load(program, load_external_data=False).metadata_props)
        onnx.save(model, part)


class Quantization(ProgramScores):
    """Quantizes a program before a validation, in which it evaluates both programs, `float32` and `int8`.

    Args:
        program: ONNX program in float32.
        path: Quantized program to write.
        count: Maximum number of calibration images, evenly spread over the training images.

    Attributes:
        images: Number of calibration images.
    """

    def __init__(self, program: Path, path: Path, count: int) -> None:
        super().__init__({"float32": program, "int8": path})
        self.count, self.images = count, 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Quantize the program, and load both."""
        program = self.programs["float32"]
        shape = OnnxProgram(program).image_shape
        images = calibration_images(trainer.datamodule, self.count, shape)  # type: ignore[attr-defined]
        self.images = len(images)
        quantize_onnx(program, self.programs["int8"], images)
        super().on_validation_start(trainer, pl_module)


def calibration_images(datamodule: object, count: int, shape: Sequence[int]) -> Tensor:
    """Return at most `count` training images (N, C, H, W) uint8, evenly spread, in the size of the program's.

    Raises:
        ValueError: If the DataModule has no set of training images.
    """
    data = as_data(datamodule)
    dataset = data.unlabeled_dataset if data.unlabeled_dataset is not None else data.train_dataset
    if dataset is None or not hasattr(dataset, "__getitems__"):
        raise ValueError(
            f"{type(datamodule).__name__} has no `train_dataset` with images to calibrate with: leave "
            f"{argument('int8')} out."
        )
    positions = torch.linspace(0, len(dataset) - 1, min(count, len(dataset)), dtype=torch.float64).long().tolist()
    return torch.cat(list(_sized(dataset.__getitems__, positions, shape)))


def _sized(
    read: Callable[[Sequence[int]], Mapping[str, Tensor]], positions: Sequence[int], shape: Sequence[int]
) -> Iterator[Tensor]:
    """Return images one by one: they may differ in size."""
    for position in positions:
        image = read([position])["image"]
        if tuple(image.shape[1:]) != tuple(shape):
            resized = F.interpolate(image.float(), tuple(shape[1:]), mode="bilinear", antialias=True)
            image = resized.round().clamp(0, 255).to(torch.uint8)
        yield image
