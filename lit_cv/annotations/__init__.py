"""Read, check, write and convert annotations in the formats of the field, without Lightning."""

from lit_cv.annotations.annotation_format import AnnotationFormat, Sign, Source
from lit_cv.annotations.checks import check_object, check_set
from lit_cv.annotations.coco import read_coco
from lit_cv.annotations.coco_writing import coco_dict, write_coco
from lit_cv.annotations.convert import convert
from lit_cv.annotations.formats import annotation_formats, find_format, format_named, read_annotations, writers
from lit_cv.annotations.mask_code import MaskCode
from lit_cv.annotations.mask_naming import MaskOptions, class_code
from lit_cv.annotations.mask_values import MaskFact, inspect_mask, load_mask
from lit_cv.annotations.masks import DRAWING, draw_classes, read_masks, save_mask, write_masks
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationError, AnnotationSet, Problems
from lit_cv.annotations.rle import decode_rle, draw_polygons, encode_rle, outline_mask
from lit_cv.annotations.sizes import FileSize, file_size, file_sizes
from lit_cv.annotations.voc import read_voc, write_voc
from lit_cv.annotations.yolo import read_yolo, write_yolo

__all__ = [
    "DRAWING",
    "AnnotatedImage",
    "AnnotatedObject",
    "AnnotationError",
    "AnnotationFormat",
    "AnnotationSet",
    "FileSize",
    "MaskCode",
    "MaskFact",
    "MaskOptions",
    "Problems",
    "Sign",
    "Source",
    "annotation_formats",
    "check_object",
    "check_set",
    "class_code",
    "coco_dict",
    "convert",
    "decode_rle",
    "draw_classes",
    "draw_polygons",
    "encode_rle",
    "file_size",
    "file_sizes",
    "find_format",
    "format_named",
    "inspect_mask",
    "load_mask",
    "outline_mask",
    "read_annotations",
    "read_coco",
    "read_masks",
    "read_voc",
    "read_yolo",
    "save_mask",
    "write_coco",
    "write_masks",
    "write_voc",
    "write_yolo",
    "writers",
]
