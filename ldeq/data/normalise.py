"""Images as the model's input: uint8 RGB to floats with the mean and deviation of ImageNet."""

from __future__ import annotations

import torch

from ..errors import ArgumentError

IMAGENET_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)


def normalise(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Scale to 0..1, subtract the mean of ImageNet, divide by its standard deviation.

    Args:
        images: `(..., 3, H, W)` uint8 RGB, on any device.
        dtype: floating dtype of the result.

    Returns:
        The shape and device of `images`, in `dtype`.

    Raises:
        ValueError: where the images are not uint8 (they may have been normalised already) or not RGB planes.
    """
    if images.dtype != torch.uint8:
        raise ArgumentError(f"normalise takes uint8 images, not {images.dtype}: pass the images as they were loaded.")
    if images.dim() < 3 or images.shape[-3] != 3:
        raise ArgumentError(f"normalise takes images of shape (..., 3, H, W), not {tuple(images.shape)}.")
    # float32 whatever the default dtype is: a process that computes in bfloat16 must not round these.
    exact = {"dtype": torch.float32, "device": images.device}
    scale = torch.tensor([1.0 / (255.0 * s) for s in IMAGENET_STD], **exact)  # type: ignore[arg-type]
    offset = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], **exact)  # type: ignore[arg-type]
    pixels = images.movedim(-3, -1)
    if pixels.is_contiguous():
        # A row of pixels at once: three channels are too few for the instructions of a processor.
        width = images.shape[-1]
        rows = pixels.flatten(-2).float()
        rows = torch.addcmul(offset.repeat(width), rows, scale.repeat(width))
        return rows.view(pixels.shape).movedim(-1, -3).to(dtype)
    return torch.addcmul(offset.view(3, 1, 1), images.float(), scale.view(3, 1, 1)).to(dtype)
