"""Predictions as a table."""

import csv
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.run_output import class_names

__all__ = ["PredictionWriter"]

log = logging.getLogger("lit_cv")

_ALL = 20  # classes up to which the probabilities of all are written
_TOP = 5  # otherwise those of the likeliest
_FILE = "predictions.csv"


class PredictionWriter(L.Callback):
    """Writes `predictions.csv`: for each image of `predict` its class and how probable it is.

    The columns are `image` (the name that the dataset's `sample_name(index)` gives) or `index` (its position
    in the dataset), `predicted`, `probability`, and `p_CLASS` for every class; above 20 classes
    `top2`, `top2_probability` and so on up to `top5` instead. For a module with `multi_label` the predicted
    classes, those of probability 0.5 or more, are joined by `|`, and `probability` is the highest one.
    `predict_step` returns a dict with `probabilities` (N, K) and, where the order is not the dataset's,
    `index` (N,). Over several processes, each row is written once, in the order of the dataset.

    Args:
        folder: Folder of the table, made if it is missing.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._seen = 0
        self._classes = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the predictions before."""
        self._parts, self._seen, self._classes = [], 0, 0

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch: all its probabilities if there are few classes, otherwise the highest."""
        probabilities = outputs.get("probabilities") if isinstance(outputs, Mapping) else None
        if not isinstance(probabilities, Tensor) or probabilities.ndim != 2:
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step must return a dict with `probabilities` (N, K) "
                f"for predictions to be written, but it returned {_describe(outputs)}."
            )
        self._classes = probabilities.shape[1]
        kept = self._classes if self._classes <= _ALL else _TOP
        values, classes = probabilities.float().topk(kept)
        index = outputs.get("index")
        if index is None:
            # Lightning's sampler deals the images out to the processes in turn.
            own = torch.arange(self._seen, self._seen + len(values))
            index = own * trainer.world_size + trainer.global_rank
        self._seen += len(values)
        self._parts.append((index.cpu(), values.cpu(), classes.cpu()))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the predictions of all processes together and write them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{_FILE}.{trainer.global_rank}.pt"
        if trainer.world_size > 1:
            torch.save(self._parts, part)
            trainer.strategy.barrier()
        if trainer.is_global_zero:
            parts = self._parts
            for rank in range(1, trainer.world_size):
                other = part.with_name(f".{_FILE}.{rank}.pt")
                parts = parts + torch.load(other, weights_only=True)
            self._write(trainer, pl_module, parts)
        if trainer.world_size > 1:
            trainer.strategy.barrier()
            part.unlink(missing_ok=True)
        self._parts = []

    def _write(
        self, trainer: L.Trainer, pl_module: L.LightningModule, parts: list[tuple[Tensor, Tensor, Tensor]]
    ) -> None:
        if not parts:
            log.warning("There were no images to predict.")
            return
        # Images that pad the last batches of several processes fall together here.
        rows = {int(i): (v, c) for part in parts for i, v, c in zip(*part, strict=True)}
        names = class_names(trainer, pl_module, self._classes) or [str(i) for i in range(self._classes)]
        several = bool(pl_module.hparams.get("multi_label"))
        dataset = getattr(trainer.predict_dataloaders, "dataset", None)
        sample_name = getattr(dataset, "sample_name", None)
        path = self.folder / _FILE
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            first = "image" if sample_name else "index"
            writer.writerow([first, "predicted", "probability", *self._columns(names)])
            for index in sorted(rows):
                values, classes = (t.tolist() for t in rows[index])
                chosen = [names[c] for v, c in zip(values, classes, strict=True) if not several or v >= 0.5]
                writer.writerow(
                    [
                        sample_name(index) if sample_name else index,
                        "|".join(chosen) if several else chosen[0],
                        f"{values[0]:.6f}",
                        *self._cells(values, classes, names),
                    ]
                )
        log.info("Predictions for %d images: %s", len(rows), path)

    def _columns(self, names: list[str]) -> list[str]:
        if self._classes <= _ALL:
            return [f"p_{name}" for name in names]
        return [column for k in range(2, _TOP + 1) for column in (f"top{k}", f"top{k}_probability")]

    def _cells(self, values: list[float], classes: list[int], names: list[str]) -> Iterator[str]:
        if self._classes <= _ALL:
            by_class = dict(zip(classes, values, strict=True))
            yield from (f"{by_class[index]:.6f}" for index in range(self._classes))
        else:
            for value, index in zip(values[1:], classes[1:], strict=True):
                yield names[index]
                yield f"{value:.6f}"


def _describe(outputs: Any) -> str:
    return f"a dict with {sorted(outputs)}" if isinstance(outputs, Mapping) else f"a {type(outputs).__name__}"
