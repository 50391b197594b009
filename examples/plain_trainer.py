"""Lightning's own Trainer without the command line: fit, validate, predict, and an exact resume of a stopped run.

The command, from any folder:

    python examples/plain_trainer.py
"""

import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import DigitsDataModule
from lit_cv import Augmentation, SupervisedModule


def build_trainer(folder: Path) -> L.Trainer:
    """Return a Trainer that writes a checkpoint every 50 steps, in the middle of epochs of 20 steps."""
    checkpoints = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=50, save_top_k=-1)
    augmentation = Augmentation(operations=[{"name": "random_crop", "padding": 1}])
    return L.Trainer(max_epochs=4, callbacks=[checkpoints, augmentation], logger=False, default_root_dir=folder)


def main(folder: Path, seed: int = 0) -> tuple[float, bool]:
    """Train on handwritten digits, then once more from a checkpoint; return the accuracy and whether both are equal."""
    L.seed_everything(seed)
    module, data = SupervisedModule(backbone="resnet9_small", lr=3e-3, schedule="one_cycle"), DigitsDataModule()
    trainer = build_trainer(folder)
    trainer.fit(module, data)
    accuracy = trainer.validate(module, data)[0]["val_acc"]
    predictions: Any = trainer.predict(module, data)  # a dict for each batch of test images
    probabilities = torch.cat([batch["probabilities"] for batch in predictions])

    checkpoint = folder / "step=50.ckpt"
    resumed = SupervisedModule.load_from_checkpoint(checkpoint)  # or built with the same arguments
    build_trainer(folder / "resumed").fit(resumed, DigitsDataModule(), ckpt_path=checkpoint)
    pairs = zip(module.state_dict().values(), resumed.state_dict().values(), strict=True)
    same = all(torch.equal(weight, other) for weight, other in pairs)

    print(f"Validation accuracy {accuracy:.3f}. The resumed run has {'the same' if same else 'other'} weights.")
    print(f"The first test image shows a {int(probabilities[0].argmax())} (probability {probabilities[0].max():.2f}).")
    return accuracy, same


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
