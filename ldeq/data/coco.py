"""Faces from a COCO keypoints document: ``images``, ``annotations`` and ``categories``.

Each annotation holds ``image_id`` and ``keypoints``, x, y and visibility of each landmark in a row; a visibility of 0 means
that the landmark has no label. Pictures are named from the document's folder on, or from ``images/`` in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ldeq.data.csv_faces import relative_name
from ldeq.data.errors import DataError, FaceError, LabelError
from ldeq.data.layouts import Layout
from ldeq.data.own_sets import Convention, PictureFolder, find_layout, own_face
from ldeq.data.records import FaceRecord, FaceSet, none_left
from ldeq.data.text import read_text
from ldeq.files import user_path, write_atomically

# The document is much wider than what is read here.
_Part = ConfigDict(extra="ignore")


class CocoImage(BaseModel):
    """One picture."""

    model_config = _Part
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class CocoAnnotation(BaseModel):
    """One face."""

    model_config = _Part
    id: int | str | None = None
    image_id: int | str
    category_id: int | str | None = None
    keypoints: list[float] | None = None
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None


class CocoCategory(BaseModel):
    """What an annotation shows."""

    model_config = _Part
    id: int | str
    name: str = ""
    keypoints: list[str] | None = None


class CocoDocument(BaseModel):
    """The parts of a COCO document that faces need."""

    model_config = _Part
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory] = Field(default_factory=list)


def load_coco(
    path: str | os.PathLike[str], split: str = "train", layout: str | None = None, convention: Convention | None = None
) -> FaceSet:
    """The faces of a COCO keypoints document.

    Args:
        path: the JSON file; ``~`` is expanded. ``{split}`` in it is replaced, as in ``face_{split}.json``.
        split: only for the name, and for ``{split}``.
        layout: its name or its file; None for ``layout.yaml`` beside the document.
        convention: how coordinates are written; None is pixels counted from 0.

    Returns:
        The faces in the order of the annotations. Those with another number of keypoints, without a label for one of them,
        or whose picture or labels cannot be used are in `skipped`. Annotations without keypoints are passed over.

    Raises:
        DataError: for a file that is missing or no such document, names of keypoints that differ from the layout's, a name
            that leads out of the folder, or a document in which no face is left.
    """
    source = user_path(str(path).replace("{split}", split))
    try:
        document = CocoDocument.model_validate_json(read_text(source))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{source} is no COCO keypoints document: {where + ': ' if where else ''}{first['msg']}.") from None
    shown = find_layout(source.parent, layout)
    _check_names(source, document, shown)
    images = {image.id: image for image in document.images}
    pictures = PictureFolder(_picture_folder(source, document), source)
    records: list[FaceRecord] = []
    skipped: list[tuple[str, str]] = []
    for number, annotation in enumerate(document.annotations):
        if annotation.keypoints is None:
            continue
        where = f"annotation {annotation.id if annotation.id is not None else number} of {source}"
        image = images.get(annotation.image_id)
        try:
            if image is None:
                raise LabelError(source, f"there is no image {annotation.image_id}")
            picture, header = pictures.find(image.file_name, where)
            if image.width and image.height and (image.width, image.height) != (header.width, header.height):
                raise LabelError(
                    picture,
                    f"the document says {image.width} x {image.height} pixels and the picture has {header.width} x "
                    f"{header.height}" + ("; it is turned by EXIF" if header.orientation > 4 else ""),
                )
            points = _points(annotation.keypoints, shown, picture)
            records.append(own_face(picture, header, points, shown, convention or Convention(), _rect(annotation)))
        except FaceError as error:
            skipped.append((where, f"{error.path.name}: {error.reason}"))
    if not records:
        why = none_left(skipped) if skipped else "no annotation has keypoints"
        raise DataError(f"no face to load from {source}: {why}.")
    return FaceSet(f"{source.name} {split}", shown, records, skipped)


def write_coco(path: str | os.PathLike[str], faces: FaceSet) -> Path:
    """Writes the labels of faces as a COCO keypoints document that `load_coco` reads; the pictures stay where they are.

    Raises:
        DataError: for a face whose picture does not lie in the document's folder.
        ImageError: for a picture that cannot be read.
        FileError: where the document cannot be written.
    """
    import json

    from ldeq.data.pictures import read_header

    target = user_path(path)
    images: dict[str, dict[str, Any]] = {}
    annotations = []
    for number, record in enumerate(faces.records):
        name = relative_name(record, target.parent)
        if name not in images and record.image is not None:
            header = read_header(record.image)
            images[name] = {"id": len(images), "file_name": name, "width": header.width, "height": header.height}
        keypoints = [v for x, y in record.points.tolist() for v in (x, y, 2)]
        entry = {"id": number, "image_id": images[name]["id"], "category_id": 1, "keypoints": keypoints,
                 "num_keypoints": len(record.points)}  # fmt: skip
        if record.rect is not None:
            x1, y1, x2, y2 = record.rect
            entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        annotations.append(entry)
    names = list(faces.layout.names) or [str(i) for i in range(faces.layout.count)]
    category = {"id": 1, "name": "face", "keypoints": names, "skeleton": []}
    document = {"images": list(images.values()), "annotations": annotations, "categories": [category]}
    return write_atomically(target, json.dumps(document) + "\n")


def _picture_folder(source: Path, document: CocoDocument) -> Path:
    """The document's folder, or ``images/`` in it where the first picture lies there alone."""
    folder = source.parent
    first = document.images[0].file_name if document.images else ""
    # os.path answers for a name that no file can have, too; pathlib raises.
    below = not os.path.isfile(folder / first) and os.path.isfile(folder / "images" / first)
    return folder / "images" if below else folder


def _check_names(source: Path, document: CocoDocument, layout: Layout) -> None:
    """Names in another order than the layout's would train one landmark as another."""
    named = [c.keypoints for c in document.categories if c.keypoints is not None and len(c.keypoints) == layout.count]
    if layout.names and named and list(layout.names) not in named:
        place = next(i for i, (a, b) in enumerate(zip(layout.names, named[0], strict=True)) if a != b)
        raise DataError(
            f"landmark {place} is {named[0][place]!r} in {source} and {layout.names[place]!r} in the layout {layout.name!r}: "
            "write the layout's landmarks in the document's order."
        )


def _points(keypoints: list[float], layout: Layout, picture: Path) -> NDArray[np.float64]:
    if len(keypoints) != 3 * layout.count:
        raise LabelError(picture, f"{3 * layout.count} numbers (x, y and visibility of {layout.count} landmarks) expected, "
                         f"{len(keypoints)} found")  # fmt: skip
    table = np.array(keypoints, np.float64).reshape(-1, 3)
    table[table[:, 2] <= 0, :2] = np.nan
    return table[:, :2]


def _rect(annotation: CocoAnnotation) -> tuple[float, float, float, float] | None:
    if annotation.bbox is None or min(annotation.bbox[2:]) <= 0:
        return None
    x, y, width, height = annotation.bbox
    return x, y, x + width, y + height
