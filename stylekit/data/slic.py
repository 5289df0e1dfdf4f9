"""SLIC as scikit-image computes it, for many pictures: where the centres begin, and the labels by compiled loops on the CPU.

Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", TPAMI 2012; constants and order of
operations are those of `skimage.segmentation.slic`, so that the labels are its labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylekit.nn.cpu import compiled, in_parallel

Array = NDArray[Any]

SEGMENTS = 200
COMPACTNESS = 10.0
SIGMA = 1.0
ITERATIONS = 10
SMALLEST, LARGEST = 0.5, 3.0  # of the mean area, for a region of its own

GAUSSIAN_RADIUS = int(4 * SIGMA + 0.5)
_BELL = np.exp(-0.5 * (np.arange(-GAUSSIAN_RADIUS, GAUSSIAN_RADIUS + 1) / SIGMA) ** 2)
GAUSSIAN = tuple(float(weight) for weight in _BELL / _BELL.sum())

# IEC 61966-2-1 and CIE 1976 with D65, 2 degrees, as `skimage.color.rgb2lab` has them.
XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
LINEAR_UP_TO, LINEAR_SLOPE, GAMMA_SHIFT, GAMMA = 0.04045, 12.92, 0.055, 2.4
CUBE_ROOT_FROM, ROOT_SLOPE, ROOT_SHIFT = 0.008856, 7.787, 16.0 / 116.0


@dataclass(frozen=True)
class Axis:
    """Where the centres begin along one axis: `count` of them, `step` pixels apart, the first at `start`."""

    start: int
    step: int
    count: int


@dataclass(frozen=True)
class Grid:
    """The beginning of SLIC on a picture, in pixels.

    Attributes:
        y: Rows of the centres.
        x: Columns of the centres.
        step: Distance that counts as much as `COMPACTNESS` in Lab.
        reach_y: How far above and below its own row a centre takes pixels.
        reach_x: The same to the left and right.
        smallest: Connected pixels below this number join a neighbour.
        largest: A region ends at this number.
    """

    y: Axis
    x: Axis
    step: int
    reach_y: int
    reach_x: int
    smallest: int
    largest: int

    @property
    def count(self) -> int:
        """Number of centres."""
        return self.y.count * self.x.count


def _axes(height: int, width: int, segments: int) -> tuple[Axis, Axis]:
    """Spread about so many centres evenly; an axis shorter than the distance between them gets one."""
    apart = (height * width / segments) ** 0.5
    if height * width <= segments:
        apart_y = apart_x = 1.0
    elif min(height, width) >= apart:
        apart_y = apart_x = apart
    elif height < width:
        apart_y, apart_x = float(height), width / segments
    else:
        apart_y, apart_x = height / segments, float(width)
    starts = (0, 0) if height * width <= segments else (int(apart_y // 2), int(apart_x // 2))
    y, x = round(apart_y), round(apart_x)
    return Axis(starts[0], y, len(range(starts[0], height, y))), Axis(starts[1], x, len(range(starts[1], width, x)))


def grid(height: int, width: int, segments: int = SEGMENTS) -> Grid:
    """Return where SLIC begins on pictures of a size in pixels, for about so many regions."""
    y, x = _axes(height, width, segments)
    count = y.count * x.count
    # The windows are laid out for the number of centres that there are, the distances for the number asked for.
    window_y, window_x = _axes(height, width, count)
    area = height * width / count
    return Grid(y, x, max(y.step, x.step), 2 * window_y.step, 2 * window_x.step, int(SMALLEST * area), int(LARGEST * area))


def labels_of(pictures: NDArray[np.float32], segments: int = SEGMENTS) -> NDArray[np.int32]:
    """Label the regions of pictures on as many threads as torch uses; needs numba.

    Args:
        pictures: [N, 3, H, W] RGB of any range: each picture's own is taken for [0, 1].
        segments: Regions to aim for.

    Returns:
        [N, H, W], from 0 in the order of the regions' first pixels; each one less than scikit-image's. A picture with a value
        that is not finite is one region.
    """
    count, _, height, width = pictures.shape
    begin = grid(height, width, segments)
    labels = np.empty((count, height, width), np.int32)

    def work(first: int, end: int) -> None:
        lab, spare = np.empty((2, 3, height, width), np.float32)
        nearest = np.zeros((height, width), np.int32)
        for i in range(first, end):
            if not np.isfinite(np.ptp(pictures[i])):
                labels[i] = 0
                continue
            _lab(pictures[i], lab, spare)
            for plane in lab:
                _smooth(plane, spare[0], np.array(GAUSSIAN), _mirrored(height), _mirrored(width), np.float32(1 / COMPACTNESS))
            _cluster(lab, _centres(begin), begin.step, begin.reach_y, begin.reach_x, ITERATIONS, nearest, spare[0])
            _connect(nearest, labels[i], begin.smallest, begin.largest)

    in_parallel(work, count)
    return labels


def region_means(pictures: NDArray[np.float32], regions: NDArray[np.int32]) -> NDArray[np.float32]:
    """Paint every region of pictures [N, 3, H, W] with its mean colour; `regions` [N, H, W] are numbered from 0. Needs numba."""
    painted = np.empty_like(pictures)

    def work(first: int, end: int) -> None:
        for i in range(first, end):
            _paint(pictures[i], regions[i], np.zeros((regions[i].max() + 1, 4)), painted[i])

    in_parallel(work, len(pictures))
    return painted


def _centres(begin: Grid) -> NDArray[np.float32]:
    centres = np.zeros((begin.y.count, begin.x.count, 5), np.float32)
    centres[..., 0] = (begin.y.start + begin.y.step * np.arange(begin.y.count))[:, None]
    centres[..., 1] = begin.x.start + begin.x.step * np.arange(begin.x.count)
    return centres.reshape(-1, 5)


def _mirrored(length: int) -> NDArray[np.intp]:
    """Pixels behind an axis that goes on beyond both its ends as in a mirror, the last pixel twice."""
    return np.pad(np.arange(length), GAUSSIAN_RADIUS, "symmetric")


def _lab(picture: NDArray[np.float32], lab: NDArray[np.float32], spare: NDArray[np.float32]) -> None:
    """Write the CIE Lab planes of a picture whose own range is taken for [0, 1]; `spare` is overwritten.

    The powers are numpy's vector functions, as in scikit-image, so that every bit is the same.
    """
    low, high = picture.min(), picture.max()
    np.subtract(picture, low, out=lab)
    if high != low:
        lab /= high - low
    np.add(lab, np.float32(GAMMA_SHIFT), out=spare)
    spare /= np.float32(1 + GAMMA_SHIFT)
    np.power(spare, np.float32(GAMMA), out=spare)
    _choose_power(lab.reshape(-1), spare.reshape(-1))
    np.matmul(np.array(XYZ_FROM_RGB, np.float32), lab.reshape(3, -1), out=spare.reshape(3, -1))
    spare /= np.array(WHITE, np.float32)[:, None, None]
    np.cbrt(spare, out=lab)
    _lab_of_roots(spare.reshape(3, -1), lab.reshape(3, -1))


@compiled()
def _choose_power(levels: Array, powers: Array) -> None:
    edge, slope = np.float32(LINEAR_UP_TO), np.float32(LINEAR_SLOPE)
    for i in range(levels.size):
        levels[i] = powers[i] if levels[i] > edge else levels[i] / slope


@compiled()
def _lab_of_roots(xyz: Array, lab: Array) -> None:
    edge, slope, shift = np.float32(CUBE_ROOT_FROM), np.float32(ROOT_SLOPE), np.float32(ROOT_SHIFT)
    for i in range(xyz.shape[1]):
        x = lab[0, i] if xyz[0, i] > edge else slope * xyz[0, i] + shift
        y = lab[1, i] if xyz[1, i] > edge else slope * xyz[1, i] + shift
        z = lab[2, i] if xyz[2, i] > edge else slope * xyz[2, i] + shift
        lab[0, i] = np.float32(116) * y - np.float32(16)
        lab[1, i] = np.float32(500) * (x - y)
        lab[2, i] = np.float32(200) * (y - z)


@compiled()
def _smooth(  # noqa: PLR0917 - a compiled loop takes arrays
    plane: Array, spare: Array, kernel: Array, rows: Array, columns: Array, factor: Any
) -> None:
    """Smooth a plane in place and multiply it, in double precision along each axis as scipy does it."""
    radius = kernel.size // 2
    height, width = plane.shape
    line = np.empty(width, np.float64)
    for y in range(height):
        centre = plane[y]
        for x in range(width):
            line[x] = centre[x] * kernel[radius]
        for k in range(radius):
            before, after = plane[rows[y + k]], plane[rows[y + 2 * radius - k]]
            for x in range(width):
                line[x] += (np.float64(before[x]) + np.float64(after[x])) * kernel[k]
        for x in range(width):
            spare[y, x] = line[x]
    padded = np.empty(width + 2 * radius, np.float64)
    for y in range(height):
        for x in range(width + 2 * radius):
            padded[x] = spare[y, columns[x]]
        for x in range(width):
            line[x] = padded[x + radius] * kernel[radius]
        for k in range(radius):
            before, after = padded[k : k + width], padded[2 * radius - k : 2 * radius - k + width]
            for x in range(width):
                line[x] += (before[x] + after[x]) * kernel[k]
        for x in range(width):
            plane[y, x] = np.float32(line[x]) * factor


@compiled()
def _cluster(  # noqa: PLR0917 - a compiled loop takes arrays
    lab: Array, centres: Array, step: int, reach_y: int, reach_x: int, iterations: int, nearest: Array, distance: Array
) -> None:
    """Give every pixel the nearest of the centres whose window holds it, and move the centres, so many times.

    The sums are taken in single precision in the order of the pixels, as scikit-image does it.
    """
    height, width = nearest.shape
    weight = np.float32(1.0 / (step * step))
    zero, one, far_y, far_x = np.float32(0), np.float32(1), np.float32(reach_y), np.float32(reach_x)
    columns = np.arange(width).astype(np.float32)
    sizes = np.ones(len(centres), np.int64)
    window = np.empty((len(centres), 4), np.int64)
    for _ in range(iterations):
        for k in range(len(centres)):
            window[k] = 0
            if sizes[k]:
                cy, cx = centres[k, 0], centres[k, 1]
                window[k, 0], window[k, 1] = int(max(cy - far_y, zero)), int(min(cy + far_y + one, np.float32(height)))
                window[k, 2], window[k, 3] = int(max(cx - far_x, zero)), int(min(cx + far_x + one, np.float32(width)))
        for y in range(height):
            l0, l1, l2, best, label = lab[0, y], lab[1, y], lab[2, y], distance[y], nearest[y]
            best[:] = np.float32(np.inf)
            for k in range(len(centres)):
                if window[k, 0] <= y < window[k, 1]:
                    cy, cx, c0, c1, c2 = centres[k]
                    this = np.int32(k)
                    dy = cy - np.float32(y)
                    dy *= dy
                    for x in range(np.uint64(window[k, 2]), np.uint64(window[k, 3])):
                        dx, d0, d1, d2 = cx - columns[x], l0[x] - c0, l1[x] - c1, l2[x] - c2
                        d = (dy + dx * dx) * weight + (d0 * d0 + d1 * d1 + d2 * d2)
                        nearer = best[x] > d
                        label[x] = this if nearer else label[x]
                        best[x] = d if nearer else best[x]

        sizes[:] = 0
        centres[:] = 0
        for y in range(height):
            l0, l1, l2, label = lab[0, y], lab[1, y], lab[2, y], nearest[y]
            row, x = np.float32(y), 0
            while x < width:
                k, first = label[x], x
                sy, sx, s0, s1, s2 = centres[k]
                while x < width and label[x] == k:
                    sy += row
                    sx += columns[x]
                    s0 += l0[x]
                    s1 += l1[x]
                    s2 += l2[x]
                    x += 1
                sizes[k] += x - first
                centres[k, 0], centres[k, 1], centres[k, 2], centres[k, 3], centres[k, 4] = sy, sx, s0, s1, s2
        for k in range(len(centres)):
            if sizes[k]:
                for c in range(5):
                    centres[k, c] /= np.float32(sizes[k])


@compiled()
def _connect(nearest: Array, regions: Array, smallest: int, largest: int) -> None:
    """Number the connected regions in the order of their first pixels, found breadth first.

    One that reaches `largest` pixels ends there; one with fewer than `smallest` gets the number of the region met last around it.
    """
    height, width = nearest.shape
    regions[:] = -1
    queue = np.empty((largest, 2), np.int32)
    region = 0
    for y in range(height):
        for x in range(width):
            if regions[y, x] >= 0:
                continue
            label, beside = nearest[y, x], region
            regions[y, x] = region
            queue[0, 0], queue[0, 1] = y, x
            size, seen = 1, 0
            while seen < size < largest:
                qy, qx = queue[seen]
                seen += 1
                for side in range(4):
                    ny = qy + (side == 2) - (side == 3)
                    nx = qx + (side == 0) - (side == 1)
                    if not (0 <= nx < width and 0 <= ny < height):
                        continue
                    other = regions[ny, nx]
                    if other < 0:
                        if nearest[ny, nx] == label:
                            regions[ny, nx] = region
                            queue[size, 0], queue[size, 1] = ny, nx
                            size += 1
                            if size >= largest:
                                break
                    elif other != region:
                        beside = other
            if size < smallest:
                for i in range(size):
                    regions[queue[i, 0], queue[i, 1]] = beside
            else:
                region += 1


@compiled()
def _paint(picture: Array, regions: Array, sums: Array, painted: Array) -> None:
    height, width = regions.shape
    for y in range(height):
        for x in range(width):
            region = regions[y, x]
            for c in range(3):
                sums[region, c] += picture[c, y, x]
            sums[region, 3] += 1
    for region in range(len(sums)):
        for c in range(3):
            sums[region, c] /= sums[region, 3]
    for y in range(height):
        for x in range(width):
            for c in range(3):
                painted[c, y, x] = sums[regions[y, x], c]
