"""From a picture to an aligned crop and back again.

A `matrix` is float64 [2,3] and takes (x,y) of the picture to (x,y) of the crop, pixel centres at whole numbers in both.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.errors import UsageError

Matrix: TypeAlias = NDArray[np.float64]
Picture: TypeAlias = NDArray[np.uint8]
Border: TypeAlias = Literal["soft", "white", "black"]
Template: TypeAlias = Literal["dctnet", "ffhq", "arcface"]

# insightface python-package/insightface/utils/face_align.py, arcface_dst.
_ARCFACE_112 = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])
# modelscope mtcnn_pytorch/src/align_trans.py: ArcFace's points moved by (1,1), drawn in around the middle by 0.75.
_DCTNET_112 = np.array(
    [
        (39.29459953, 52.69630051),
        (74.53179932, 52.50139999),
        (57.02519989, 72.73660278),
        (42.54930115, 93.36550140),
        (71.72990036, 93.20410156),
    ]
)
_DCTNET_RATIO = 0.75
_FFHQ_UNIT = np.array([(0.3752, 0.4747), (0.6248, 0.4747), (0.5, 0.6445), (0.3944, 0.7329), (0.6056, 0.7329)])

_SHRINK_BELOW = 0.75  # bilinear sampling alone shows no visible aliasing down to this scale
_SOFT_BLURS = ((0.015, 0.02), (0.05, 0.08), (0.12, 0.25))  # sigma, and the distance where it is reached; shares of the crop side
_SOFT_FADE = 0.5  # distance where only the mean colour is left


def template_points(template: str, size: int) -> NDArray[np.float64]:
    """Return where the five points lie in a crop of `size` px, float64 [5,2].

    Those of "dctnet" and "arcface" define the template; the latter are InsightFace's at 112 px and are scaled by `size`/112
    without its rounding to multiples. "ffhq" is a quad; its points are where those of 80 photographs lie, made symmetric.

    Raises:
        UsageError: If the template is unknown.
    """
    if template == "dctnet":
        return ((_DCTNET_112 - 56) * _DCTNET_RATIO + 56) * (size / 112)
    if template == "arcface":
        return _ARCFACE_112 * (size / 112)
    if template == "ffhq":
        return _FFHQ_UNIT * size - 0.5
    raise UsageError(f"There is no template {template!r}.", "Use dctnet, ffhq or arcface.")


def face_matrix(points: NDArray[np.floating], template: str, size: int) -> Matrix:
    """Return the matrix that lays `landmarks_5` [5,2] onto a template ("dctnet", "ffhq" or "arcface") in a crop of `size` px.

    Each as its own tool fits it: DCT-Net least in the picture's space, ArcFace least in the crop's.

    Raises:
        UsageError: If the template is unknown or the points coincide.
    """
    if template == "ffhq":
        return ffhq_matrix(points, size)
    fit = umeyama if template == "arcface" else similarity
    matrix = fit(points, template_points(template, size))
    invert(matrix)
    return matrix


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> Matrix:
    """Return the similarity that takes `source` [N,2] to `target` [N,2], with the error least in the source's space.

    DCT-Net fits the inverse map and inverts it (modelscope matlab_cp2tform.py, after Matlab's cp2tform), so its scale
    differs from Umeyama's. Mirrored solutions, which upstream also weighs, are left out: no face calls for one.

    Raises:
        UsageError: If the points of either set coincide.
    """
    return invert(umeyama(target, source))


def umeyama(source: NDArray[np.floating], target: NDArray[np.floating]) -> Matrix:
    """Return the similarity that takes `source` [N,2] to `target` [N,2] with the error least in the target's space.

    Umeyama 1991 without mirroring, in its closed form for the plane. Points that coincide give a map of scale 0.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    p, q = source - source_mean, target - target_mean
    spread = float((p**2).sum())
    a = float((p * q).sum()) / spread if spread else 0.0
    b = float((p[:, 1] * q[:, 0] - p[:, 0] * q[:, 1]).sum()) / spread if spread else 0.0
    linear = np.array([[a, b], [-b, a]])
    return np.hstack([linear, (target_mean - linear @ source_mean)[:, None]])


def ffhq_matrix(points: NDArray[np.floating], size: int) -> Matrix:
    """Return the matrix of FFHQ's crop from `landmarks_5` [5,2].

    The quad of Karras et al. 2019 (ffhq-dataset, `recreate_aligned_images`), a square, so the map is a similarity. There an
    eye is the mean of six points around it, here of its two corners.

    Raises:
        UsageError: If the points coincide.
    """
    eyes, mouth = np.asarray(points[:2], np.float64), np.asarray(points[3:5], np.float64)
    eye_middle = eyes.mean(axis=0)
    between_eyes, to_mouth = eyes[1] - eyes[0], mouth.mean(axis=0) - eye_middle
    x = between_eyes - _quarter_turn(to_mouth)
    x *= max(2.0 * float(np.hypot(*between_eyes)), 1.8 * float(np.hypot(*to_mouth))) / max(float(np.hypot(*x)), 1e-12)
    corner = eye_middle + 0.1 * to_mouth - x - _quarter_turn(x)
    step = x * (2 / size)
    back = np.array([[step[0], -step[1], corner[0]], [step[1], step[0], corner[1]]])
    back[:, 2] += back[:, :2] @ (0.5, 0.5)  # the quad bounds whole pixels; it is given with centres at whole numbers
    return invert(back)


def _quarter_turn(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([-vector[1], vector[0]])


def invert(matrix: Matrix) -> Matrix:
    """Return the inverse of an affine map [2,3].

    Raises:
        UsageError: If the map is flat: the points it was made from coincide.
    """
    linear = matrix[:, :2]
    if abs(float(np.linalg.det(linear))) < 1e-12:
        raise UsageError("The landmarks coincide, so the face cannot be aligned.", "Leave the picture out.")
    back = np.linalg.inv(linear)
    return np.hstack([back, -(back @ matrix[:, 2:])])


def scale_of(matrix: Matrix) -> float:
    """Return how many crop pixels one picture pixel becomes."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def warp(picture: NDArray[Any], matrix: Matrix, size: int | tuple[int, int], border: Border = "soft") -> NDArray[Any]:
    """Return the crop of `picture` that `matrix` describes.

    Where the crop shrinks the picture, it is averaged by area first, so a crop of a large picture does not alias.

    Args:
        picture: [H,W] or [H,W,C], uint8 or float32.
        matrix: Picture to crop, float64 [2,3].
        size: Crop side, or (width, height), in pixels.
        border: What lies beyond the picture. "white" and "black" are plain; "soft" carries the edge outward, ever more
            blurred, and fades it into the mean colour there, which gives neither a hard edge nor a mirrored face.
    """
    width, height = (size, size) if isinstance(size, int) else size
    part, matrix = _shrink(*_cut(picture, matrix, width, height))
    mode = cv2.BORDER_REPLICATE if border == "soft" else cv2.BORDER_CONSTANT
    fill = (255.0,) * 4 if border == "white" else (0.0,) * 4
    crop: NDArray[Any] = cv2.warpAffine(part, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=mode, borderValue=fill)
    if border != "soft":
        return crop
    outside = _outside(part.shape, matrix, width, height)
    return crop if outside is None else _soften(crop, outside)


def _cut(picture: NDArray[Any], matrix: Matrix, width: int, height: int) -> tuple[NDArray[Any], Matrix, float]:
    """Cut the picture down to what the crop shows and a margin, at least one pixel; return it, its matrix and its scale."""
    scale = scale_of(matrix)
    low, high = _extent(matrix, width, height)
    margin = 2 + 2 / scale
    limits = np.array([picture.shape[1], picture.shape[0]])
    first = np.clip(np.floor(low - margin), 0, limits - 1).astype(int)
    last = np.clip(np.ceil(high + margin), first + 1, limits).astype(int)
    part = picture[first[1] : last[1], first[0] : last[0]]
    return part, np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ first]), scale


def _shrink(part: NDArray[Any], matrix: Matrix, scale: float) -> tuple[NDArray[Any], Matrix]:
    """Average `part` by area to about the crop's resolution where the crop is much smaller."""
    if scale >= _SHRINK_BELOW:
        return part, matrix
    old = np.array([part.shape[1], part.shape[0]], np.float64)
    new = np.maximum(np.rint(old * scale), 1)
    small = cv2.resize(part, (int(new[0]), int(new[1])), interpolation=cv2.INTER_AREA)
    ratio = old / new
    linear = matrix[:, :2] * ratio
    return small, np.column_stack([linear, matrix[:, 2] + matrix[:, :2] @ ((ratio - 1) / 2)])


def _extent(matrix: Matrix, width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and greatest (x,y) of the picture that a crop and one pixel around it show."""
    back = invert(matrix)
    corners = np.array([(-1, -1), (width, -1), (-1, height), (width, height)]) @ back[:, :2].T + back[:, 2]
    return corners.min(axis=0), corners.max(axis=0)


def _outside(shape: tuple[int, ...], matrix: Matrix, width: int, height: int) -> NDArray[np.float32] | None:
    """Return for every crop pixel its distance from the picture, 0 inside, in shares of the crop side; None if all are inside."""
    limits = np.array([shape[1] - 1.0, shape[0] - 1.0])
    low, high = _extent(matrix, width, height)
    if (low >= 0).all() and (high <= limits).all():
        return None
    back = invert(matrix)
    y, x = np.mgrid[:height, :width]
    source = np.stack([x, y], axis=-1) @ back[:, :2].T + back[:, 2]
    beyond = np.maximum(np.maximum(-source, source - limits), 0)
    distance = np.hypot(beyond[..., 0], beyond[..., 1]) * (scale_of(matrix) / max(width, height))
    return np.asarray(distance, np.float32)


def _soften(crop: NDArray[Any], outside: NDArray[np.float32]) -> NDArray[Any]:
    side = max(crop.shape[:2])
    original = crop.reshape(*crop.shape[:2], -1).astype(np.float32)
    edge = (outside < 0.02) & (outside > 0)
    colour = original[edge if edge.any() else outside >= 0].mean(axis=0)
    soft = original
    for sigma, reach in _SOFT_BLURS:
        soft = _blend(soft, _blurred(original, sigma * side), outside / reach)
    soft = _blend(soft, colour, outside / _SOFT_FADE)
    if np.issubdtype(crop.dtype, np.integer):
        soft = np.rint(soft)
    return soft.reshape(crop.shape).astype(crop.dtype)


def _blurred(picture: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur [H,W,C], where wide then at a lower resolution, which nobody can tell apart and takes a fraction of the time."""
    height, width = picture.shape[:2]
    shrink = max(1.0, sigma / 3)
    small = picture
    if shrink > 1:
        size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma * small.shape[0] / height)
    return np.asarray(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_CUBIC), np.float32).reshape(picture.shape)


def _blend(a: NDArray[np.float32], b: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    weight = np.clip(weight, 0, 1)[..., None]
    weight = weight * weight * (3 - 2 * weight)
    return a + (b - a) * weight


def paste_back(picture: Picture, crop: Picture, matrix: Matrix, mask: NDArray[np.float32]) -> Picture:
    """Return `picture` with `crop` laid where `warp` took it from.

    Args:
        picture: uint8 [H,W,3].
        crop: uint8 [h,w,3], the crop of `matrix`, perhaps stylized.
        matrix: Picture to crop, float64 [2,3].
        mask: float32 [h,w] in [0,1], how much of the crop to show.
    """
    height, width = picture.shape[:2]
    crop_height, crop_width = crop.shape[:2]
    low, high = _extent(matrix, crop_width, crop_height)
    left, top = np.clip(np.floor(low), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(high) + 1, 0, (width, height)).astype(int)
    back = invert(matrix)
    result = picture.copy()
    if right <= left or bottom <= top:
        return result
    back[:, 2] -= (left, top)
    size = (int(right - left), int(bottom - top))
    weight = warp(np.asarray(mask, np.float32), back, size, "black")[..., None]
    face = warp(crop.astype(np.float32) * mask[..., None], back, size, "black")
    region = result[top:bottom, left:right]
    region[:] = np.rint(np.clip(region * (1 - weight) + face, 0, 255)).astype(np.uint8)
    return result
