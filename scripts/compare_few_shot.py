"""Compare few-shot learning on Omniglot (28 pixels, Conv-4) with easyfsl, by accuracies on unseen alphabets.

The characters of `omniglot_background` are split by alphabet: the last 5 alphabets by name are for the test, the others
for training. Every row is tested on the same 1,000 episodes of 15 queries per class in each setting (relation networks
100, MAML 400). Rows, each a separate run, with the CPU time of its training:

- easyfsl_proto, proto: prototypical networks, 1,000 episodes of 5 classes, 1 support and 15 query images each
- easyfsl_proto_20, proto_20: 500 episodes of 20 classes
- proto_best: a share of the recipe `omniglot_prototypical`, without rotations, which only help in longer runs
- easyfsl_relation, relation: relation networks, 1,000 episodes of 5 classes
- maml, maml_first_order, anil: 1,000 meta-batches of 4 tasks, 5 classes, 1 support and 5 query images each
- proto_long, relation_long, maml_long: the recipes `omniglot_*` at full length
- random, simclr, supervised: nearest centroid on the features of a backbone with random weights, after SimCLR, and
  after classifying the training characters

easyfsl's networks are trained as in its documentation, in float32, one episode per step, with Adam at 1e-3, the same
backbone and images in memory.

    python scripts/compare_few_shot.py --root $LIT_CV_DATA --rows proto easyfsl_proto --seeds 0 1 2 --csv few_shot.csv
"""

import argparse
import csv
import itertools
import logging
import statistics
import tempfile
import time
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from datamodules import EpisodicDataModule, OmniglotDataModule
from lit_cv import (
    Augmentation,
    ContrastiveAugmentation,
    MAMLModule,
    PrototypicalModule,
    RelationModule,
    SimCLRModule,
    SupervisedModule,
)
from lit_cv.nn import create_backbone

SETTINGS = ["5w1s", "5w5s", "20w1s", "20w5s"]
RELATION_EPISODES, MAML_EPISODES = 100, 400  # test episodes in each setting; they are slow
ADAM: dict[str, Any] = {"optimizer": "adam", "weight_decay": 0.0, "schedule": "cosine"}
MODULES = {"prototypical": PrototypicalModule, "relation": RelationModule, "maml": MAMLModule}


def episodes(args: argparse.Namespace, **kwargs: Any) -> EpisodicDataModule:
    options: dict[str, Any] = {
        "split_by": "group", "val_classes": 0, "test_classes": 5, "way": 5, "shot": 1, "query": 15, "eval_query": 15,
        "episodes_per_epoch": 1000, "evaluate": SETTINGS, "test_episodes": 1000,
    }  # fmt: skip
    return EpisodicDataModule(OmniglotDataModule(args.root), **options | kwargs)


def trainer(epochs: int = 1, callbacks: Any = (), **kwargs: Any) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **kwargs,
    )  # fmt: skip


def fit(module: Any, data: EpisodicDataModule, **kwargs: Any) -> dict[str, float]:
    """Train, test, and return the accuracies and the CPU seconds of the training."""
    start = time.process_time()
    run = trainer(**kwargs)
    run.fit(module, data)
    seconds = time.process_time() - start
    return {"seconds": seconds, **test(module, data)}


def test(module: Any, data: EpisodicDataModule) -> dict[str, float]:
    metrics = trainer().test(module, data, verbose=False)[0]
    return {name.removeprefix("test_"): value for name, value in metrics.items() if name != "test_loss"}


def recipe(args: argparse.Namespace, name: str, share: float = 1.0, **changes: Any) -> dict[str, float]:
    """Run a recipe, or a share of its episodes, on all alphabets except those of the test."""
    config = yaml.safe_load((files("lit_cv") / "recipes" / f"omniglot_{name}.yaml").read_text())
    options = config["data"]["init_args"]
    options.pop("base")
    options |= {"val_classes": 0, "episodes_per_epoch": round(share * options["episodes_per_epoch"]), **changes}
    settings = config["trainer"]
    module = MODULES[name](**config["model"]["init_args"])
    data = episodes(args, **options)
    callbacks = [Augmentation(**entry["init_args"]) for entry in settings.get("callbacks", [])]
    return fit(module, data, epochs=settings["max_epochs"], callbacks=callbacks, precision=settings["precision"])


def easyfsl(args: argparse.Namespace, kind: str, way: int, count: int) -> dict[str, float]:
    """Train easyfsl's network with its own sampler and loader; test its features with this project's episodes."""
    from easyfsl.datasets import FewShotDataset
    from easyfsl.methods import PrototypicalNetworks, RelationNetworks
    from easyfsl.samplers import TaskSampler

    Sampler.__init__ = lambda self, data_source=None: None  # type: ignore[method-assign] # torch no longer accepts the argument
    data = episodes(args, **({"test_episodes": RELATION_EPISODES} if kind == "relation" else {}))
    data.prepare_data()
    data.setup()
    pool = data.pools["train"]
    targets = [label for label, number in enumerate(pool.counts.tolist()) for _ in range(number)]
    name = "conv4" if kind == "proto" else "conv4_2pool"
    backbone = create_backbone(name, in_channels=1, image_size=28, mean=data.mean, std=data.std)
    images = backbone.normalize(pool.images)

    class InMemory(FewShotDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, item: int) -> tuple[Tensor, int]:
            return images[item], targets[item]

        def get_labels(self) -> list[int]:
            return targets

    start = time.process_time()
    sampler = TaskSampler(InMemory(), way, 1, 15, count)
    loader: Any = DataLoader(InMemory(), batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    maps = nn.Sequential(backbone.body, nn.Flatten()) if kind == "proto" else backbone.body
    network = PrototypicalNetworks(maps) if kind == "proto" else RelationNetworks(maps, feature_dimension=64)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for support, labels, queries, target, _ in loader:
        optimizer.zero_grad()
        network.process_support_set(support, labels)
        scores = network(queries)
        one_hot = F.one_hot(target, way).float()
        (F.cross_entropy(scores, target) if kind == "proto" else F.mse_loss(scores, one_hot)).backward()
        optimizer.step()
    seconds = time.process_time() - start
    module: Any = PrototypicalModule(distance="euclidean") if kind == "proto" else _EasyfslRelation()
    if kind != "proto":
        module.relation_network = network.relation_module
    trainer(limit_test_batches=1).test(module, data, verbose=False)  # builds the module from the data
    module.backbone.load_state_dict(backbone.state_dict())
    return {"seconds": seconds, **test(module, data)}


class _EasyfslRelation(RelationModule):
    """Compares queries and classes with easyfsl's relation module."""

    relation_network: nn.Module

    def compare(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Score all pairs as easyfsl does."""
        rows = []
        for means, maps in zip(classes, queries, strict=True):
            pairs = [means[None].expand(len(maps), -1, -1, -1, -1), maps[:, None].expand(-1, len(means), -1, -1, -1)]
            rows.append(self.relation_network(torch.cat(pairs, 2).flatten(0, 1)).view(len(maps), len(means)))
        return torch.stack(rows)


def centroid(args: argparse.Namespace, kind: str) -> dict[str, float]:
    """Pretrain on the training characters without episodes, and classify with the nearest centroid."""
    start = time.process_time()
    data = episodes(args)
    data.prepare_data()
    data.setup()
    test_alphabets = sorted({name.partition("/")[0] for name in data.pools["test"].names})
    classes = data.base.class_names if data.base else []
    names = sorted({name.partition("/")[0] for name in classes} - set(test_alphabets))
    source = OmniglotDataModule(args.root, alphabets=names, batch_size=256, val_fraction=0.0, test_fraction=0.0)
    weights = None
    with tempfile.TemporaryDirectory() as folder:
        if kind != "random":
            module: Any = (
                SimCLRModule(backbone="conv4", temperature=0.2, lr=2e-3, weight_decay=1e-4)
                if kind == "simclr"
                else SupervisedModule(backbone="conv4", lr=3e-3, weight_decay=1e-4, schedule="one_cycle")
            )
            move = {"name": "affine", "degrees": 15, "translate": 0.1, "scale": [0.8, 1.2], "shear": 10, "fill": "edge"}
            augmentation: Any = (
                ContrastiveAugmentation(operations=[move]) if kind == "simclr" else Augmentation(operations=[move])
            )
            run = trainer(args.pretrain_epochs, [augmentation], precision="bf16-mixed")
            run.fit(module, source)
            weights = str(Path(folder) / "weights.ckpt")
            run.save_checkpoint(weights)
        seconds = time.process_time() - start
        classifier = PrototypicalModule(weights=weights, distance="cosine", flatten=True)
        return {"seconds": seconds, **test(classifier, data)}


def measure(args: argparse.Namespace, seed: int, row: str) -> dict[str, float]:
    """Return the results of one row of the comparison."""
    L.seed_everything(seed, verbose=False)
    fast: dict[str, Any] = {"precision": "bf16-mixed"}
    if row.startswith("easyfsl"):
        _, kind, *way = row.split("_")
        return easyfsl(args, kind, int(way[0]) if way else 5, 500 if way else 1000)
    if row in ("random", "simclr", "supervised"):
        return centroid(args, row)
    if row == "proto":
        return fit(PrototypicalModule(lr=2e-3, **ADAM), episodes(args), **fast)
    if row == "proto_20":
        return fit(PrototypicalModule(lr=2e-3, **ADAM), episodes(args, way=20, episodes_per_epoch=500), **fast)
    if row == "relation":
        return fit(RelationModule(lr=2e-3, **ADAM), episodes(args, test_episodes=RELATION_EPISODES), **fast)
    if row in ("maml", "maml_first_order", "anil"):
        options = {"first_order": row == "maml_first_order", "anil": row == "anil"}
        tasks = {
            "batch_size": 4,
            "query": 5,
            "episodes_per_epoch": 4000,
            "evaluate": SETTINGS[:2],
            "test_episodes": MAML_EPISODES,
        }
        return fit(MAMLModule(lr=2e-3, eval_steps=3, **options, **ADAM), episodes(args, **tasks))
    if row == "proto_best":
        return recipe(args, "prototypical", share=args.best_share, rotations=False)
    return recipe(args, {"proto": "prototypical"}.get(row.removesuffix("_long"), row.removesuffix("_long")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with omniglot_background")
    parser.add_argument("--rows", nargs="+", default=["proto", "easyfsl_proto"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--best-share", type=float, default=0.1, help="share of the recipe's episodes, for proto_best")
    parser.add_argument("--pretrain-epochs", type=int, default=10, help="epochs of simclr and supervised")
    parser.add_argument("--csv", help="table to append the results to; the summary covers all of its rows")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    results: list[tuple[str, float]] = []
    if args.csv and Path(args.csv).is_file():
        results = [(name, float(value)) for _, name, value in csv.reader(Path(args.csv).read_text().splitlines())]
    for seed, row in itertools.product(args.seeds, args.rows):
        for name, value in measure(args, seed, row).items():
            results.append((f"{row}_{name}", value))
            print(f"seed {seed}  {row}_{name:20}{value:9.4f}", flush=True)
            if args.csv:
                with open(args.csv, "a", newline="") as file:
                    csv.writer(file).writerow([seed, f"{row}_{name}", value])
    print(f"\n{'':32}{'mean':>9}{'min':>9}{'max':>9}{'runs':>6}")
    for name in dict.fromkeys(name for name, _ in results if "ci95" not in name):
        values = [value for other, value in results if other == name]
        print(f"{name:32}{statistics.fmean(values):9.4f}{min(values):9.4f}{max(values):9.4f}{len(values):6}")


if __name__ == "__main__":
    main()
