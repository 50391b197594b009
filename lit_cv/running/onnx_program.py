"""Run exported ONNX programs."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["OnnxProgram"]


class OnnxProgram:
    """An ONNX program on tensors, on the CPU with as many threads as torch uses.

    Args:
        path: The file.

    Attributes:
        names: Names of the outputs.

    Raises:
        ImportError: If onnxruntime is missing.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names: list[str] = [output.name for output in self._session.get_outputs()]
        self._inputs: list[str] = [entry.name for entry in self._session.get_inputs()]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, from the program's description."""
        description: dict[str, Any] = self._session.get_modelmeta().custom_metadata_map
        channels, height, width = json.loads(description["input"])["image"][1:]
        return channels, height, width

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name."""
        values = {name: value.numpy() for name, value in zip(self._inputs, inputs, strict=True)}
        return dict(zip(self.names, map(torch.from_numpy, self._session.run(self.names, values)), strict=True))
