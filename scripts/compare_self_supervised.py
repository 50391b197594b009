"""Compare learning without labels with lightly's implementations, random weights and supervised training.

It takes a folder `train/CLASS/*.jpg`, `test/CLASS/*.jpg` of small images. For each seed, on the test images:

- random: kNN accuracy (k = 20) of the backbone with random weights
- METHOD: the same after training on the training images without labels
- lightly_METHOD: the same after lightly's transform, DataLoader, heads and loss in a plain Lightning module, with the
  same backbone, widths, optimizer, schedule, precision and number of steps
- supervised: the same backbone trained from scratch on 1 % of the labels, the better of two learning rates; `probe` is
  the accuracy of logistic regression on the features of the other rows, fitted to these labels

`--steps` compares the time of a training step without data loading and augmentation, in turn, and the memory that it
keeps for the backward pass.

    python scripts/compare_self_supervised.py --root $LIT_CV_DATA/cifar10_jpeg --csv compare.csv
    python scripts/compare_self_supervised.py --root $LIT_CV_DATA/cifar10_jpeg --rows byol lightly_byol --epochs 10
    python scripts/compare_self_supervised.py --root $LIT_CV_DATA/cifar10_jpeg --steps 20

Results are written after each run; a restarted script does the missing runs.
"""

import argparse
import copy
import itertools
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from run_table import RunTable
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lit_cv
from datamodules import ImageFolderDataModule
from lit_cv import Augmentation, ContrastiveAugmentation, SupervisedModule
from lit_cv.metrics import knn_predictions
from lit_cv.nn import cosine_decay, create_backbone
from lit_cv.optim import build_optimizer, build_schedule, parameter_groups

BATCH, LR, DECAY, STRENGTH = 128, 2e-3, 1e-4, 0.5
HIDDEN, DIM, PROTOTYPES, QUEUE = 512, 512, 1024, 4096
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("SimCLRModule", {"temperature": 0.2}),
    "byol": ("BYOLModule", {"decay": 0.98, "projector_hidden": HIDDEN, "projector_dim": DIM}),
    "moco": ("MoCoModule", {"queue_size": QUEUE, "temperature": 0.2, "decay": 0.98}),
    "vicreg": ("VICRegModule", {"projector_hidden": HIDDEN, "projector_dim": DIM}),
    "barlow_twins": ("BarlowTwinsModule", {"projector_hidden": HIDDEN, "projector_dim": DIM}),
    "lejepa": ("LeJEPAModule", {"projector_hidden": HIDDEN, "projector_dim": 64, "directions": 256}),
    "dino": ("DINOModule", {"prototypes": PROTOTYPES, "hidden": HIDDEN, "bottleneck": 128, "decay": 0.98}),
}
COLUMNS = ("seed", "row", "knn", "probe", "seconds")


class Lightly(L.LightningModule):
    """An approach as in lightly's documentation; `build` adds its parts, `loss` compares two views."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        super().__init__()
        self.epochs = args.epochs
        self.backbone = create_backbone(args.backbone, image_size=args.size).to(memory_format=torch.channels_last)
        getattr(self, f"build_{name}")(self.backbone.num_features)
        self.compare: Callable[..., Tensor] = getattr(self, f"compare_{name}")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Encode the two views, one after the other."""
        (x0, x1), _, _ = batch
        return self.compare(x0, x1)

    def encode(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))  # type: ignore[no-any-return]

    def build_simclr(self, width: int) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        self.head = SimCLRProjectionHead(width, width, 128)
        self.loss = NTXentLoss(0.2)

    def build_vicreg(self, width: int) -> None:
        from lightly.loss import VICRegLoss
        from lightly.models.modules.heads import VICRegProjectionHead

        self.head, self.loss = VICRegProjectionHead(width, HIDDEN, DIM, 3), VICRegLoss()

    def build_barlow_twins(self, width: int) -> None:
        from lightly.loss import BarlowTwinsLoss
        from lightly.models.modules import BarlowTwinsProjectionHead

        self.head, self.loss = BarlowTwinsProjectionHead(width, HIDDEN, DIM), BarlowTwinsLoss()

    def compare_simclr(self, x0: Tensor, x1: Tensor) -> Tensor:
        return self.loss(self.encode(x0), self.encode(x1))  # type: ignore[no-any-return]

    compare_vicreg = compare_barlow_twins = compare_simclr

    def build_lejepa(self, width: int) -> None:
        from lightly.loss import LeJEPALoss
        from lightly.models.modules.heads import LeJEPAProjectionHead

        self.head, self.loss = LeJEPAProjectionHead(width, HIDDEN, 64, 3), LeJEPALoss(sigreg_num_vectors=256)

    def compare_lejepa(self, x0: Tensor, x1: Tensor) -> Tensor:
        from lightly.loss.lejepa_loss import lejepa_invariance_loss

        z = torch.stack([self.encode(x0), self.encode(x1)]).float()
        invariance = lejepa_invariance_loss(all_proj=z, global_proj=z)
        return 0.05 * self.loss.sigreg(z) + 0.95 * invariance  # type: ignore[no-any-return]

    def average(self, head: nn.Module) -> None:
        """Add averages of the networks, which each step moves first; `head` is another one of the same kind."""
        from lightly.models.utils import deactivate_requires_grad

        self.averaged = nn.Sequential(copy.deepcopy(self.backbone), head)
        head.load_state_dict(self.head.state_dict())
        deactivate_requires_grad(self.averaged)

    def move(self) -> None:
        from lightly.models.utils import update_momentum

        decay = 0.98  # of MoCo, constant
        if self.compare != self.compare_moco:
            decay = cosine_decay(decay, self.global_step, self.trainer.estimated_stepping_batches)
        update_momentum(self.backbone, self.averaged[0], m=decay)
        update_momentum(self.head, self.averaged[1], m=decay)

    def build_byol(self, width: int) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead

        self.head, averaged = (BYOLProjectionHead(width, HIDDEN, DIM) for _ in range(2))
        self.predictor = BYOLPredictionHead(DIM, HIDDEN, DIM)
        self.loss = NegativeCosineSimilarity()
        self.average(averaged)

    def compare_byol(self, x0: Tensor, x1: Tensor) -> Tensor:
        self.move()
        p0, p1 = self.predictor(self.encode(x0)), self.predictor(self.encode(x1))
        with torch.no_grad():
            z0, z1 = self.averaged(x0), self.averaged(x1)
        return (self.loss(p0, z1) + self.loss(p1, z0)) / 2  # type: ignore[no-any-return]

    def build_moco(self, width: int) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead

        self.head, averaged = (MoCoProjectionHead(width, width, 128) for _ in range(2))
        self.loss = NTXentLoss(0.2, memory_bank_size=(QUEUE, 128))
        self.average(averaged)

    def compare_moco(self, x0: Tensor, x1: Tensor) -> Tensor:
        self.move()
        with torch.no_grad():
            key = self.averaged(x1)
        return self.loss(self.encode(x0), key)  # type: ignore[no-any-return]

    def build_dino(self, width: int) -> None:
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead

        self.head, averaged = (
            DINOProjectionHead(width, HIDDEN, 128, PROTOTYPES, freeze_last_layer=1) for _ in range(2)
        )
        self.loss = DINOLoss(PROTOTYPES, warmup_teacher_temp_epochs=1)
        self.average(averaged)

    def compare_dino(self, x0: Tensor, x1: Tensor) -> Tensor:
        self.move()
        with torch.no_grad():
            teacher = [self.averaged(x0), self.averaged(x1)]
        return self.loss(teacher, [self.encode(x0), self.encode(x1)])  # type: ignore[no-any-return]

    def on_after_backward(self) -> None:
        """Freeze DINO's prototypes in the first epoch."""
        if hasattr(self.head, "cancel_last_layer_gradients"):
            self.head.cancel_last_layer_gradients(self.current_epoch)

    def configure_optimizers(self) -> Any:
        """Return the same optimizer and schedule as the compared module."""
        optimizer = build_optimizer("adamw", parameter_groups(self, LR, DECAY), LR, DECAY)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule("cosine", optimizer, total, warmup_steps=total // self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer(args: argparse.Namespace, epochs: int, *callbacks: L.Callback) -> L.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), precision=args.precision, limit_val_batches=0,
        enable_model_summary=False, accelerator="cpu", **quiet,
    )  # fmt: skip


def data(args: argparse.Namespace, seed: int, **kwargs: Any) -> ImageFolderDataModule:
    module = ImageFolderDataModule(
        root=args.root, image_size=args.size, batch_size=BATCH, val_fraction=0.0, split_seed=seed, **kwargs
    )
    module.setup()
    return module


@torch.no_grad()
def features(backbone: nn.Module, dataset: Any) -> tuple[Tensor, Tensor]:
    backbone.eval()
    batches = [dataset.__getitems__(range(i, min(i + 500, len(dataset)))) for i in range(0, len(dataset), 500)]
    return torch.cat([backbone(b["image"]) for b in batches]), torch.cat([b["label"] for b in batches])


def knn(backbone: nn.Module, source: ImageFolderDataModule) -> float:
    bank, bank_labels = features(backbone, source.unlabeled_dataset)
    queries, labels = features(backbone, source.test_dataset)
    (predictions,) = knn_predictions(queries, bank, bank_labels, int(source.num_classes or 0), k=[20])
    return float((predictions == labels).float().mean())


def probe(backbone: nn.Module, few: ImageFolderDataModule) -> float:
    x, y = features(backbone, few.train_dataset)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(x.numpy(), y.numpy())
    queries, labels = features(backbone, few.test_dataset)
    return float(classifier.score(queries.numpy(), labels.numpy()))


def supervised(args: argparse.Namespace, seed: int) -> float:
    best = 0.0
    for lr in (1e-3, 3e-3):
        L.seed_everything(seed, verbose=False)
        few = data(args, seed, label_fraction=0.01)
        module = SupervisedModule(backbone=args.backbone, lr=lr, schedule="cosine", label_smoothing=0.1)
        fit = trainer(args, args.supervised_steps // max(1, len(few.train_dataset) // BATCH), Augmentation())
        fit.fit(module, few)
        x, y = features(module.backbone, few.test_dataset)
        with torch.no_grad():
            best = max(best, float((module.head(x).argmax(1) == y).float().mean()))
    return best


def build(name: str, args: argparse.Namespace) -> Any:
    cls, options = OURS[name]
    return getattr(lit_cv, cls)(backbone=args.backbone, lr=LR, weight_decay=DECAY, warmup_epochs=1.0, **options)


def train(args: argparse.Namespace, seed: int, name: str) -> nn.Module:
    module = build(name, args)
    callback = ContrastiveAugmentation(args.size, strength=STRENGTH, min_scale=0.2)
    # Like lightly's, its crops are taken from images of the size in the files.
    trainer(args, args.epochs, callback).fit(module, data(args, seed, train_image_size=args.file_size))
    return module.backbone  # type: ignore[no-any-return]


def train_lightly(args: argparse.Namespace, name: str) -> nn.Module:
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(args.size, cj_strength=STRENGTH, min_scale=0.2, gaussian_blur=0.0, normalize=None)
    dataset = LightlyDataset(str(Path(args.root) / "train"), transform=transform)
    loader: Any = DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=args.workers, persistent_workers=args.workers > 0
    )
    module = Lightly(name, args)
    trainer(args, args.epochs).fit(module, loader)
    return module.backbone


def measure(args: argparse.Namespace, seed: int, row: str) -> dict[str, float]:
    """Return the results of one row of the comparison."""
    L.seed_everything(seed, verbose=False)
    start = time.perf_counter()
    if row == "supervised":
        return {"probe": supervised(args, seed), "seconds": time.perf_counter() - start}
    if row == "random":
        backbone: nn.Module = create_backbone(args.backbone, image_size=args.size)
    elif row.startswith("lightly_"):
        backbone = train_lightly(args, row.removeprefix("lightly_"))
    else:
        backbone = train(args, seed, row)
    seconds = time.perf_counter() - start
    full, few = data(args, seed), data(args, seed, label_fraction=0.01)
    return {"knn": knn(backbone, full), "probe": probe(backbone, few), "seconds": seconds}


def time_steps(args: argparse.Namespace) -> None:
    """Compare training steps on given views, in turn, by the median of their times, and by their memory."""
    views = torch.randint(256, (2, BATCH, 3, args.size, args.size), dtype=torch.uint8)
    run = SimpleNamespace(global_step=0, current_epoch=1, estimated_stepping_batches=100)
    print(
        "| approach | ms per step | lightly | ratio | MiB for the backward pass | lightly |\n|---|---|---|---|---|---|"
    )
    for name in OURS:
        ours, theirs = build(name, args), Lightly(name, args)
        ours.configure_model()
        steps = []
        for module in (ours, theirs):
            module._trainer = run
            steps.append((module, build_optimizer("adamw", parameter_groups(module, LR, DECAY), LR, DECAY)))

        def loss_of(module: Any) -> Tensor:
            if isinstance(module, Lightly):
                return module.compare(views[0], views[1])
            loss: Tensor = module.step({"views": views}, "train")["loss"]
            return loss

        def step(module: Any, optimizer: torch.optim.Optimizer) -> None:
            loss = loss_of(module)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not isinstance(module, Lightly):
                module.after_step()

        seconds: list[list[float]] = [[], []]
        for index in range(args.steps + 2):
            for times, (module, optimizer) in zip(seconds, steps, strict=True):
                start = time.perf_counter()
                step(module, optimizer)
                if index > 1:
                    times.append(time.perf_counter() - start)
        mine, other = (1000 * statistics.median(times) for times in seconds)
        kept = " | ".join(f"{memory_for_backward(module, loss_of):.1f}" for module, _ in steps)
        print(f"| {name} | {mine:.0f} | {other:.0f} | {mine / other:.2f} | {kept} |", flush=True)


def memory_for_backward(module: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> float:
    """Return the MiB of tensors that a loss keeps for its backward pass, parameters excluded."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(module)  # holds the tensors, so that none takes the place of another
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    del loss
    return sum(size for place, size in kept.items() if place not in parameters) / 2**20


def summarize(rows: list[dict[str, str]]) -> None:
    print("\n| row | kNN in % | probe with 1 % of the labels | s | runs |\n|---|---|---|---|---|")
    for name in dict.fromkeys(row["row"] for row in rows):
        part = [row for row in rows if row["row"] == name]
        cells = []
        for column in ("knn", "probe"):
            values = [100 * float(row[column]) for row in part if row[column]]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}" if values else "")
        seconds = statistics.fmean(float(row["seconds"]) for row in part)
        print(f"| {name} | {cells[0]} | {cells[1]} | {seconds:.0f} | {len(part)} |")


def main() -> None:
    """Do the missing runs, and show all results."""
    rows = ["random", "supervised", *itertools.chain(*((name, f"lightly_{name}") for name in OURS))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--file-size", type=int, default=32, help="side of the images in the files")
    parser.add_argument("--backbone", default="resnet9_small")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--supervised-steps", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2, help="workers of lightly's loader")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    parser.add_argument("--csv", default="lightning_logs/compare_self_supervised/runs.csv", help="table of all runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0, help="compare the time of this many training steps instead")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    if args.steps:
        time_steps(args)
        return
    table = RunTable(args.csv, COLUMNS, COLUMNS[:2])
    for seed, row in itertools.product(args.seeds, args.rows):
        if table.lacks(seed, row):
            values = measure(args, seed, row)
            table.add({"seed": seed, "row": row, **{name: f"{value:.4f}" for name, value in values.items()}})
            print(f"seed {seed}, {row}:", *(f"{name} {value:.3f}" for name, value in values.items()), flush=True)
    summarize(table.rows())


if __name__ == "__main__":
    main()
