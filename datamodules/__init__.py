"""DataModules: one image source per file, all with the same batches, splits and loaders."""

from datamodules.annotated import AnnotatedImagesDataModule
from datamodules.annotated_dataset import AnnotatedDataset
from datamodules.base import BaseDataModule
from datamodules.csv import CSVDataModule
from datamodules.dataset import ImageDataset
from datamodules.digits import DigitsDataModule
from datamodules.domain_adaptation import DomainAdaptationDataModule
from datamodules.episodic import EpisodicDataModule
from datamodules.files import FileDataset, FilesDataModule
from datamodules.folder import ImageFolderDataModule
from datamodules.hf_dataset import ArrowDataset, HFDatasetDataModule
from datamodules.image_files import ImageFilesDataModule
from datamodules.images import UnreadableImageError, read_image
from datamodules.loader import EpochSampler, ResumableLoader, collate
from datamodules.memory import InMemoryDataset
from datamodules.omniglot import OmniglotDataModule
from datamodules.shape_classes import ShapeClassesDataModule
from datamodules.shapes import ShapesDataModule, ShapesDataset
from datamodules.torchvision_photographs import (
    Flowers102DataModule,
    OxfordIIITPetDataModule,
    TorchvisionPhotographsDataModule,
)
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
from datamodules.web_dataset import ShardDataset, WebDatasetDataModule

__all__ = [
    "AnnotatedDataset",
    "AnnotatedImagesDataModule",
    "ArrowDataset",
    "BaseDataModule",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "CSVDataModule",
    "DigitsDataModule",
    "DomainAdaptationDataModule",
    "EpisodicDataModule",
    "EpochSampler",
    "FashionMNISTDataModule",
    "FileDataset",
    "FilesDataModule",
    "Flowers102DataModule",
    "HFDatasetDataModule",
    "ImageDataset",
    "ImageFilesDataModule",
    "ImageFolderDataModule",
    "InMemoryDataset",
    "MNISTDataModule",
    "OmniglotDataModule",
    "OxfordIIITPetDataModule",
    "ResumableLoader",
    "STL10DataModule",
    "SVHNDataModule",
    "ShapeClassesDataModule",
    "ShapesDataModule",
    "ShapesDataset",
    "ShardDataset",
    "TorchvisionDataModule",
    "TorchvisionPhotographsDataModule",
    "USPSDataModule",
    "UnreadableImageError",
    "WebDatasetDataModule",
    "collate",
    "read_image",
]
