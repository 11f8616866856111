"""Data: landmark layouts, the one crop function, augmentation, one loader per data set, training samples, checks."""

from __future__ import annotations

from ldeq.data.augment import Augmentation, AugmentationSample
from ldeq.data.axis import AxisOffset, estimate_axis
from ldeq.data.check import CheckReport, check
from ldeq.data.coco import load_coco, write_coco
from ldeq.data.crop import (
    CROP_RULES,
    CropRule,
    SquareBox,
    compose,
    crop_box,
    crop_matrix,
    invert,
    transform_points,
    warp,
)
from ldeq.data.csv_faces import load_csv, write_csv
from ldeq.data.dataset import LandmarkDataset
from ldeq.data.draw import contact_sheet, draw_landmarks
from ldeq.data.errors import DataError, FaceError, ImageError, LabelError
from ldeq.data.ibug300w import load_300w
from ldeq.data.labels import label_fault
from ldeq.data.layout_files import is_known, layout_document, layout_from, read_layout
from ldeq.data.layouts import IBUG68, LAYOUTS, WFLW98, Layout, Opening, Part, get_layout, shared_indices
from ldeq.data.normalise import IMAGENET_MEAN, IMAGENET_STD, normalise
from ldeq.data.own_sets import Convention
from ldeq.data.pictures import LARGEST_PICTURE, PictureHeader, read_header, read_image
from ldeq.data.pts_faces import load_pts, write_pts
from ldeq.data.records import FaceRecord, Faces, FaceSet, write_image
from ldeq.data.sources import open_faces
from ldeq.data.wflw import WFLW_ATTRIBUTES, load_hih, load_wflw, write_wflw
from ldeq.data.wflw_v import SPLITS_WFLW_V, VideoRecord, VideoSet, load_wflw_v, write_wflw_v

__all__ = [
    "CROP_RULES",
    "IBUG68",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LARGEST_PICTURE",
    "LAYOUTS",
    "SPLITS_WFLW_V",
    "WFLW98",
    "WFLW_ATTRIBUTES",
    "Augmentation",
    "AugmentationSample",
    "AxisOffset",
    "CheckReport",
    "Convention",
    "CropRule",
    "DataError",
    "FaceError",
    "FaceRecord",
    "FaceSet",
    "Faces",
    "ImageError",
    "LabelError",
    "LandmarkDataset",
    "Layout",
    "Opening",
    "Part",
    "PictureHeader",
    "SquareBox",
    "VideoRecord",
    "VideoSet",
    "check",
    "compose",
    "contact_sheet",
    "crop_box",
    "crop_matrix",
    "draw_landmarks",
    "estimate_axis",
    "get_layout",
    "invert",
    "is_known",
    "label_fault",
    "layout_document",
    "layout_from",
    "load_300w",
    "load_coco",
    "load_csv",
    "load_hih",
    "load_pts",
    "load_wflw",
    "load_wflw_v",
    "normalise",
    "open_faces",
    "read_header",
    "read_image",
    "read_layout",
    "shared_indices",
    "transform_points",
    "warp",
    "write_coco",
    "write_csv",
    "write_image",
    "write_pts",
    "write_wflw",
    "write_wflw_v",
]
