"""Annotations in the formats of the field: read, checked, written, without Lightning."""

from lit_cv.annotations.checks import check_object, check_set
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationError, AnnotationSet, Problems
from lit_cv.annotations.voc import read_voc, write_voc

__all__ = [
    "AnnotatedImage",
    "AnnotatedObject",
    "AnnotationError",
    "AnnotationSet",
    "Problems",
    "check_object",
    "check_set",
    "read_voc",
    "write_voc",
]
