"""DataModules: one source of images a file, all with the same batches, splits and loaders."""

from datamodules.base import BaseDataModule
from datamodules.dataset import ImageDataset
from datamodules.digits import DigitsDataModule
from datamodules.loader import EpochSampler, ResumableLoader, collate
from datamodules.memory import InMemoryDataset
from datamodules.torchvision_sets import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    FashionMNISTDataModule,
    MNISTDataModule,
    STL10DataModule,
    SVHNDataModule,
    TorchvisionDataModule,
    USPSDataModule,
)

__all__ = [
    "BaseDataModule",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "EpochSampler",
    "FashionMNISTDataModule",
    "ImageDataset",
    "InMemoryDataset",
    "MNISTDataModule",
    "ResumableLoader",
    "STL10DataModule",
    "SVHNDataModule",
    "TorchvisionDataModule",
    "USPSDataModule",
    "collate",
]
