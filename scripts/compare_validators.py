"""Compare scores that choose checkpoints and methods of domain adaptation without target labels.

Methods are trained on pairs of domains at several rates of adaptation and seeds. At several steps of each run all
scores of the target's validation images are computed, none of which sees their labels, and beside them the accuracy
that the labels give. The table shows how well each score ranks by accuracy: checkpoints of different runs of a pair
(across), and those of one run (within), as Spearman's rank correlation.

    python scripts/compare_validators.py --pairs usps_to_mnist filled_to_outlined --root data
    python scripts/compare_validators.py --pairs mnist_to_photographs --root data --digits_over data/digits_over
    python scripts/compare_validators.py --summary      # table and figure of all finished runs

`make_digits_over_photographs.py` makes the target of `mnist_to_photographs`. Results are written after each run; a
restarted script does the missing runs.
"""

import argparse
import logging
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from run_table import RunTable
from torch import Tensor

from datamodules import (
    DomainAdaptationDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    ShapesDataModule,
    USPSDataModule,
)
from lit_cv import (
    Augmentation,
    ClassConfusionModule,
    DomainAdversarialModule,
    MMDModule,
    SelfTrainingModule,
    WeakStrongAugmentation,
)
from lit_cv.augment import build_operations
from lit_cv.figures.canvas import INK, PALETTE, new_figure, render, save_png, style_axes
from lit_cv.metrics import (
    cluster_agreement,
    embedded_validation_risk,
    nuclear_norm,
    prediction_silhouette,
    reverse_validation,
    soft_neighborhood_density,
)
from lit_cv.modules import DomainAdaptationModule
from lit_cv.optim import LogisticRegression

IMAGES = 1000  # at most, of each set, by which scores are computed
AFFINE = {"name": "affine", "degrees": 15, "translate": 0.1, "scale": [0.8, 1.2]}
COLORS = {"name": "color_jitter", "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2}
METHODS: dict[str, Callable[..., DomainAdaptationModule]] = {
    "source only": lambda **o: DomainAdversarialModule(**{**o, "source_only": True}),
    "DANN": lambda **o: DomainAdversarialModule(**o),
    "CDAN+E": lambda **o: DomainAdversarialModule(conditioning="entropy", **o),
    "MMD": lambda **o: MMDModule(**o),
    "joint MMD": lambda **o: MMDModule(distance="joint_mmd", **o),
    "CORAL": lambda **o: MMDModule(distance="coral", **o),
    "MCC": lambda **o: ClassConfusionModule(**o),
    "self-training": lambda **o: SelfTrainingModule(threshold=0.9, **o),
}
SCORES = (
    "source_acc", "confidence", "diversity", "information", "density", "nuclear_norm", "agreement", "silhouette",
    "risk", "consistency", "reverse_acc", "reverse_agreement",
)  # fmt: skip
REVERSE = ("reverse_acc", "reverse_agreement")
ENSEMBLES = {
    "val_score": ("source_acc", *5 * ["diversity"], "confidence"),
    "clusters": ("agreement", "silhouette"),
    "information + clusters": ("information", "agreement", "silhouette"),
    "nuclear norm + agreement": ("nuclear_norm", "agreement"),
    "all": tuple(name for name in SCORES if name not in ("confidence", "diversity")),
}
PANELS = (
    "val_reverse_score",
    "reverse_acc",
    "val_score",
    "information",
    "density",
    "nuclear_norm",
    "agreement",
    "risk",
)
KEYS = ("pair", "method", "rate", "seed")
COLUMNS = (*KEYS, "step", "target_acc", *SCORES)


def shapes(target: str) -> Callable[[argparse.Namespace], DomainAdaptationDataModule]:
    return lambda args: DomainAdaptationDataModule(
        ShapesDataModule(32, 3000, domain="filled"), ShapesDataModule(32, 3000, domain=target)
    )


PAIRS: dict[str, Callable[[argparse.Namespace], DomainAdaptationDataModule]] = {
    "usps_to_mnist": lambda args: DomainAdaptationDataModule(USPSDataModule(args.root), MNISTDataModule(args.root)),
    "mnist_to_usps": lambda args: DomainAdaptationDataModule(MNISTDataModule(args.root), USPSDataModule(args.root)),
    "mnist_to_photographs": lambda args: DomainAdaptationDataModule(
        MNISTDataModule(args.root), ImageFolderDataModule(args.digits_over, image_size=28, cache=True)
    ),
    "filled_to_outlined": shapes("outlined"),
    "filled_to_textured": shapes("textured"),
}


class Record(L.Callback):
    """Scores the network at several steps of a run."""

    def __init__(self, data: DomainAdaptationDataModule, every: int) -> None:
        self.data, self.every = data, every
        self.rows: list[dict[str, float]] = []
        self._seen = 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        """Add a row if it is due."""
        if trainer.global_step % self.every == 0 and trainer.global_step != self._seen:
            self._seen = trainer.global_step
            pl_module.eval()
            self.rows.append({"step": trainer.global_step, **scores(pl_module, self.data)})
            pl_module.train()


def spread(size: int) -> np.ndarray:
    """Return at most `IMAGES` positions, spread over a set."""
    return np.unique(np.linspace(0, size - 1, min(IMAGES, size)).astype(int))


@torch.no_grad()
def outputs(module: DomainAdaptationModule, dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, logits and labels of at most `IMAGES` images, spread over a set."""
    rows = spread(len(dataset))
    batch = dataset.__getitems__(rows.tolist())
    features = torch.cat([module.backbone(part) for part in batch["image"].split(250)])
    labels = batch.get("label", torch.full((len(rows),), -1))
    return features, module.head(features), labels


@torch.no_grad()
def scores(module: DomainAdaptationModule, data: DomainAdaptationDataModule) -> dict[str, float]:
    """Return the accuracy on the target's validation images, and all scores, greater for better."""
    features, logits, labels = outputs(module, data.val_dataset)
    source_features, source_logits, source_labels = outputs(module, data.source_val_dataset)
    probabilities, predictions, classes = logits.softmax(1), logits.argmax(1), logits.shape[1]
    largest = float(np.log(classes))
    entropy = float(torch.special.entr(probabilities).sum(1).mean()) / largest
    diversity = float(torch.special.entr(probabilities.mean(0)).sum()) / largest
    losses = F.cross_entropy(source_logits, source_labels, reduction="none")
    reverse, agreement = relearned(module, data, logits.shape[1])
    return {
        "target_acc": float((predictions == labels).float().mean()),
        "source_acc": float((source_logits.argmax(1) == source_labels).float().mean()),
        "confidence": -entropy,
        "diversity": diversity,
        "information": diversity - entropy,
        "density": float(soft_neighborhood_density(probabilities)),
        "nuclear_norm": float(nuclear_norm(probabilities)),
        "agreement": float(cluster_agreement(features, predictions, classes)),
        "silhouette": float(prediction_silhouette(features, predictions)),
        "consistency": consistency(module, data, predictions),
        "reverse_acc": reverse,
        "reverse_agreement": agreement,
        "risk": -float(embedded_validation_risk(losses, density_ratios(module, data, source_features))),
    }


@torch.no_grad()
def consistency(module: DomainAdaptationModule, data: DomainAdaptationDataModule, predictions: Tensor) -> float:
    """Return the share of target images whose predicted class is the same after augmentation."""
    dataset: Any = data.val_dataset
    images = dataset.__getitems__(spread(len(dataset)).tolist())["image"]
    augment = build_operations([AFFINE, COLORS])
    same = [module(augment(images)).argmax(1) == predictions for _ in range(2)]
    return float(torch.stack(same).float().mean())


@torch.no_grad()
def relearned(module: DomainAdaptationModule, data: DomainAdaptationDataModule, classes: int) -> tuple[float, float]:
    """Return the scores of reverse validation."""
    target: Any = data.unlabeled_dataset
    source: Any = data.source_val_dataset
    rows = np.unique(np.linspace(0, len(target) - 1, min(len(target), 2 * IMAGES)).astype(int))
    images = target.__getitems__(rows.tolist())["image"]
    predicted = torch.cat([module(part).argmax(1) for part in images.split(500)])
    batch = source.__getitems__(spread(len(source)).tolist())
    accuracy, agreement = reverse_validation(images, predicted, batch["image"], batch["label"], classes)
    return float(accuracy), float(agreement)


def density_ratios(module: DomainAdaptationModule, data: DomainAdaptationDataModule, features: Tensor) -> Tensor:
    """Return the ratios of target to source density of features, by a classifier of training images' domains."""
    known = [outputs(module, dataset)[0] for dataset in (data.train_dataset, data.unlabeled_dataset)]
    domains = torch.cat([torch.full((len(part),), number) for number, part in enumerate(known)])
    weight, bias = LogisticRegression(torch.cat(known), domains, 2).fit(1e-3)
    probability = (features @ weight.T + bias).softmax(1)
    return probability[:, 1] / probability[:, 0].clamp_min(1e-6) * len(known[0]) / len(known[1])


def run(args: argparse.Namespace, pair: str, method: str, rate: float, seed: int) -> list[dict[str, float]]:
    """Train one method on a pair, and return its rows."""
    L.seed_everything(seed, verbose=False)
    data = PAIRS[pair](args)
    data.prepare_data()
    data.setup()
    record = Record(data, max(1, args.steps // args.checkpoints))
    backbone = "lenet" if "usps" in pair or "mnist" in pair else "conv4"
    module = METHODS[method](
        backbone=backbone, optimizer="adam", lr=1e-3, weight_decay=0.0, adaptation_weight=rate, in_channels=None
    )
    callbacks: list[L.Callback] = [record]
    if method == "self-training":
        callbacks.append(WeakStrongAugmentation(weak=[], strong=[AFFINE, COLORS]))
    elif seed % 2:  # half of the runs see augmented images
        callbacks.append(Augmentation(operations=[AFFINE, COLORS]))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=args.steps, max_epochs=1000, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(module, data)
    return record.rows


def run_missing(args: argparse.Namespace, table: RunTable) -> None:
    """Do the missing runs, and write the rows of each."""
    for seed in args.seeds:
        for pair in args.pairs:
            for method in args.methods:
                for rate in args.rates if method != "source only" else [1.0]:
                    if table.lacks(pair, method, rate, seed):
                        key = dict(zip(KEYS, (pair, method, rate, seed), strict=True))
                        rows = [key | row for row in run(args, pair, method, rate, seed)]
                        table.add(*rows)
                        print(pair, method, rate, seed, f"{100 * rows[-1]['target_acc']:.1f} %", flush=True)


def ranks(values: Any) -> np.ndarray:
    """Return the ranks of values, from 0 to 1, their means where values are equal."""
    from scipy.stats import rankdata

    return (rankdata(values) - 1) / max(1, len(values) - 1)


def correlation(first: Any, second: Any) -> float:
    """Return Spearman's rank correlation, 0 where one side is constant."""
    a, b = ranks(first), ranks(second)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def reverse_score(row: dict[str, str]) -> float:
    """Return `val_reverse_score` of a checkpoint."""
    return round(statistics.fmean(float(row[part]) for part in REVERSE), 2)


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    """Return a score of all rows; an ensemble is the mean rank of its members."""
    if name == "val_reverse_score":
        return np.array([reverse_score(row) for row in rows])
    if name in ENSEMBLES:
        return np.mean([ranks([float(row[part]) for row in rows]) for part in ENSEMBLES[name]], axis=0)
    return np.array([float(row[name]) for row in rows])


def summarize(rows: list[dict[str, str]]) -> None:
    """Print the rank correlations, and what choosing the checkpoint of the highest score costs in accuracy."""
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    heads = "".join(f" {p.replace('_', ' ')}: across | within | cost |" for p in pairs)
    print(f"\n{len(rows)} checkpoints\n\n| score |{heads} mean across | least across | mean cost |")
    print("|---|" + "---|---|---|" * (len(pairs) + 1))
    for name in (*SCORES, "val_reverse_score", *ENSEMBLES):
        cells, across, costs = [], [], []
        for pair in pairs:
            part = [row for row in rows if row["pair"] == pair]
            accuracy, values = column(part, "target_acc"), column(part, name)
            runs = [[row for row in part if tuple(row[k] for k in KEYS) == key] for key in
                    dict.fromkeys(tuple(row[k] for k in KEYS) for row in part)]  # fmt: skip
            within = statistics.fmean(correlation(column(r, name), column(r, "target_acc")) for r in runs)
            across.append(correlation(values, accuracy))
            costs.append(100 * (accuracy.max() - accuracy[values.argmax()]))
            cells.append(f"{across[-1]:.2f} | {within:.2f} | {costs[-1]:.1f}")
        means = f"{statistics.fmean(across):.2f} | {min(across):.2f} | {statistics.fmean(costs):.1f}"
        print(f"| {name} | " + " | ".join(cells) + f" | {means} |")


def show_kept(rows: list[dict[str, str]]) -> None:
    """Print what `val_reverse_score` keeps of each run and of the source alone, and how much better that is."""
    print("\n| pair | runs | source alone | newest | kept | worst newest | worst kept |\n|---|---|---|---|---|---|---|")
    for pair in dict.fromkeys(row["pair"] for row in rows):
        runs: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for row in rows:
            if row["pair"] == pair:
                runs.setdefault(tuple(row[key] for key in KEYS), []).append(row)
        alone = {key[-1]: run[-1] for key, run in runs.items() if key[1] == "source only"}
        newest, kept, base = [], [], []
        for key, run in runs.items():
            if key[1] != "source only" and key[-1] in alone:
                best = max(reversed([alone[key[-1]], *run]), key=reverse_score)  # of equal scores the latest
                base.append(100 * float(alone[key[-1]]["target_acc"]))
                newest.append(100 * float(run[-1]["target_acc"]) - base[-1])
                kept.append(100 * float(best["target_acc"]) - base[-1])
        if base:
            gains = f"{statistics.fmean(newest):+.1f} | {statistics.fmean(kept):+.1f}"
            worst = f"{min(newest):+.1f} | {min(kept):+.1f}"
            print(f"| {pair.replace('_', ' ')} | {len(base)} | {statistics.fmean(base):.1f} | {gains} | {worst} |")


def draw(rows: list[dict[str, str]], path: str) -> None:
    """Draw the accuracy of all checkpoints against each score."""
    figure = new_figure(11, 5.6, constrained=True)
    grid = figure.subplots(2, len(PANELS) // 2, sharey=True)
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    for axes, name in zip(grid.flat, PANELS, strict=True):
        for number, pair in enumerate(pairs):
            part = [row for row in rows if row["pair"] == pair]
            accuracy = 100 * column(part, "target_acc")
            axes.scatter(
                ranks(column(part, name)), accuracy, s=9, alpha=0.7, linewidths=0,
                color=PALETTE[number % len(PALETTE)], label=pair.replace("_", " "),
            )  # fmt: skip
        style_axes(axes, name.replace("_", " "))
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy on the target in %", fontsize=8, color=INK)
    for axes in grid[-1]:
        axes.set_xlabel("rank of the score within its pair", fontsize=8, color=INK)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=5, fontsize=8, frameon=False)
    save_png(render(figure), path)


def main() -> None:
    """Do the missing runs, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=[name for name in PAIRS if "photo" not in name])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 1.0, 3.0], help="weights of the adaptation")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--checkpoints", type=int, default=4, help="of each run")
    parser.add_argument("--root", default="data", help="folder of MNIST and USPS")
    parser.add_argument("--digits_over", default="data/digits_over", help="folder of digits over photographs")
    parser.add_argument("--csv", default="lightning_logs/compare_validators/scores.csv", help="table of all rows")
    parser.add_argument("--figure", default="lightning_logs/compare_validators/scores.png", help="figure")
    parser.add_argument("--summary", action="store_true", help="show the finished runs, and run nothing")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    table = RunTable(args.csv, COLUMNS, KEYS)
    if not args.summary:
        run_missing(args, table)
    summarize(table.rows())
    show_kept(table.rows())
    draw(table.rows(), args.figure)


if __name__ == "__main__":
    main()
