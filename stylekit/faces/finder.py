"""Faces and their alignment points: stylekit's own networks, face-alignment's or dlib's."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.assets import CATALOGUE, fetch, is_available
from stylekit.errors import AssetError, MissingPartError, UsageError
from stylekit.faces.detect import PHOTO_THRESHOLD, Face, FaceDetector
from stylekit.faces.landmarks import FaceMesh, Mesh
from stylekit.faces.litert import Floats

_FAN_ASSET = "face-alignment"
_SEARCHED_SIDE = 1024  # long side at which S3FD and HOG search; their time and memory grow with the area
_HOG_SIDE = 80  # dlib's window in pixels: no smaller face is found, so small pictures are enlarged once

# The 68 points of iBUG 300-W: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67.
_EYES, _NOSE_TIP, _MOUTH_CORNERS, _JAW_ENDS = (slice(36, 42), slice(42, 48)), 30, (48, 54), (0, 16)


@dataclass(frozen=True, eq=False)
class FoundFace:
    """One face of a picture, in its pixels.

    Attributes:
        face: Box, score and key points.
        mesh: The face mesh; every measure comes from it, whatever found the points.
        landmarks_5: float32 [5,2], what the face is aligned by: eyes, nose tip and mouth corners, the picture's left first.
    """

    face: Face
    mesh: Mesh
    landmarks_5: Floats


class FaceFinder(Protocol):
    """Finds the faces of a picture and the points to align them by."""

    def find(self, rgb: NDArray[np.uint8], threshold: float = PHOTO_THRESHOLD) -> list[FoundFace]:
        """Return the faces of a picture, largest first.

        Args:
            rgb: uint8 [H,W,3].
            threshold: Least score in [0,1].
        """


def face_finder(landmarks: str = "mesh") -> FaceFinder:
    """Return the finder that a recipe names.

    Args:
        landmarks: `mesh` (BlazeFace and the face mesh), `face-alignment` (S3FD and FAN-4) or `dlib` (HOG and 68 points).

    Raises:
        UsageError: If there is none of that name.
        MissingPartError: If its package is not installed.
        AssetError: If its weights are missing or damaged.
    """
    known: dict[str, type[FaceFinder]] = {"mesh": MeshFinder, "face-alignment": FanFinder, "dlib": DlibFinder}
    if landmarks not in known:
        raise UsageError(f"There are no landmarks {landmarks!r}.", f"Use {', '.join(known)}.")
    return known[landmarks]()


class MeshFinder:
    """BlazeFace and MediaPipe's face mesh: fast, and good for cartoons too.

    Args:
        detector: Finds the faces; by default one with the catalogue's network.
        mesh: Fits the mesh; by default one with the catalogue's network.

    Raises:
        AssetError: If a network is missing or damaged.
    """

    def __init__(self, detector: FaceDetector | None = None, mesh: FaceMesh | None = None) -> None:
        self._detector = detector or FaceDetector()
        self._mesh = mesh or FaceMesh()

    def find(self, rgb: NDArray[np.uint8], threshold: float = PHOTO_THRESHOLD) -> list[FoundFace]:
        """Return the faces of a picture, largest first; see `FaceFinder`."""
        faces = self._detector.detect(rgb, threshold)
        meshes = [self._mesh.mesh(rgb, face) for face in faces]
        return [FoundFace(face, mesh, mesh.landmarks_5) for face, mesh in zip(faces, meshes, strict=True)]


class FanFinder:
    """S3FD and FAN-4 of the package face-alignment (Bulat and Tzimiropoulos 2017, arXiv:1703.07332), made for photographs.

    Weights are the asset `face-alignment`, a folder that the user brings, else what `$TORCH_HOME/hub/checkpoints` holds;
    nothing is downloaded. It runs on a GPU if there is one; on a CPU a picture takes seconds.

    Raises:
        MissingPartError: If face-alignment is not installed.
        AssetError: If the weights are missing or damaged.
    """

    def __init__(self) -> None:
        package = _import("face_alignment", "face-alignment", "Landmarks by face-alignment")
        from stylekit.nn.device import find_device

        detector, landmarks = _fan_weights()
        try:
            with _torch_hub_with(landmarks):
                self._network = package.FaceAlignment(
                    package.LandmarksType.TWO_D,
                    device=str(find_device()),
                    face_detector_kwargs={"path_to_detector": str(detector)},
                    compile=False,
                )
        except Exception as error:  # a cut pickle, another network, a file that cannot be read: each an error of its own
            raise AssetError(
                f"face-alignment cannot use the weights in {detector.parent}: {_first_line(error)}",
                f"Run: stylekit assets add {_FAN_ASSET} FOLDER",
            ) from error
        self._mesh = FaceMesh()

    def find(self, rgb: NDArray[np.uint8], threshold: float = PHOTO_THRESHOLD) -> list[FoundFace]:
        """Return the faces of a picture, largest first; see `FaceFinder`. The score is S3FD's."""
        small, scale = _shrink(rgb, _SEARCHED_SIDE)
        self._network.face_detector.filter_threshold = threshold
        boxes = np.array(self._network.face_detector.detect_from_image(small), np.float64).reshape(-1, 5)
        if not len(boxes):
            return []
        boxes[:, :4] /= scale
        points = self._network.get_landmarks_from_image(rgb, detected_faces=list(boxes))
        return _found(rgb, self._mesh, [(points_68, box[4]) for points_68, box in zip(points, boxes, strict=True)])


class DlibFinder:
    """dlib's HOG detector and 68 points (Kazemi and Sullivan 2014), for photographs from the front.

    Args:
        path: The shape predictor as `.dat`; the asset `dlib-landmarks` by default.

    Raises:
        MissingPartError: If dlib is not installed.
        AssetError: If the shape predictor is missing or damaged.
    """

    def __init__(self, path: Path | None = None) -> None:
        dlib = _import("dlib", "dlib-bin", "Landmarks by dlib")
        path = path or fetch("dlib-landmarks")
        try:
            self._predictor = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise AssetError(
                f"dlib cannot read the shape predictor {path}: {_first_line(error)}",
                "Run: stylekit assets add dlib-landmarks FILE",
            ) from error
        self._rectangle = dlib.rectangle
        self._hog = dlib.get_frontal_face_detector()
        self._mesh = FaceMesh()

    def find(self, rgb: NDArray[np.uint8], threshold: float = PHOTO_THRESHOLD) -> list[FoundFace]:
        """Return the faces of a picture, largest first; see `FaceFinder`.

        The score is the logistic function of HOG's margin, so that 0.5 is dlib's own limit. Faces below 80 px of a picture
        of 1024 px, or below 40 px of one of 512 px, are not found.
        """
        small, scale = _shrink(rgb, _SEARCHED_SIDE)
        enlarge = int(max(small.shape[:2]) * 2 <= _SEARCHED_SIDE)
        margin = float(np.log(threshold / (1 - threshold)))
        boxes, margins, _ = self._hog.run(small, enlarge, margin)
        shapes = [self._predictor(rgb, self._enlarged(box, 1 / scale)) for box in boxes]
        points = [np.array([(point.x, point.y) for point in shape.parts()], np.float32) for shape in shapes]
        scores = 1 / (1 + np.exp(-np.array(list(margins), np.float64)))
        return _found(rgb, self._mesh, list(zip(points, scores, strict=True)))

    def _enlarged(self, box: Any, scale: float) -> Any:
        return self._rectangle(*(round(edge * scale) for edge in (box.left(), box.top(), box.right(), box.bottom())))


def landmarks_5_of_68(points: NDArray[np.floating]) -> Floats:
    """Return eyes, nose tip and mouth corners, float32 [5,2], from the 68 points of iBUG 300-W, [68,2].

    An eye is the mean of the six points around it, as in FFHQ's script.
    """
    eyes = [points[each].mean(axis=0) for each in _EYES]
    return np.stack([*eyes, points[_NOSE_TIP], *points[list(_MOUTH_CORNERS)]]).astype(np.float32)


def _found(rgb: NDArray[np.uint8], mesher: FaceMesh, faces: list[tuple[NDArray[np.floating], float]]) -> list[FoundFace]:
    """Return the faces of 68 points and a score each, with their meshes, largest first."""
    found = []
    for points, score in faces:
        face = _face_of_68(points, score)
        found.append(FoundFace(face, mesher.mesh(rgb, face), landmarks_5_of_68(points)))
    return sorted(found, key=lambda each: each.face.size, reverse=True)


def _face_of_68(points: NDArray[np.floating], score: float) -> Face:
    """Return the face of 68 points: the square from brow to chin that BlazeFace would give, and its key points."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, max(float((high - low).max()), 1.0) / 2
    five = landmarks_5_of_68(points)
    keypoints = np.stack([*five[:3], five[3:].mean(axis=0), *points[list(_JAW_ENDS)]])
    return Face(np.concatenate([middle - half, middle + half]).astype(np.float32), float(score), keypoints.astype(np.float32))


def _shrink(rgb: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float]:
    """Return the picture with a long side of at most `side` px, and its scale."""
    scale = min(1.0, side / max(rgb.shape[:2]))
    if scale == 1:
        return np.ascontiguousarray(rgb), 1.0
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _import(module: str, package: str, purpose: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPartError(package, "faces", purpose) from error


def _fan_weights() -> list[Path]:
    """Return the files of S3FD and FAN-4: the user's asset, else those of torch's hub folder.

    Raises:
        AssetError: If neither has them.
    """
    import torch

    names = CATALOGUE[_FAN_ASSET].holds
    in_hub = [Path(torch.hub.get_dir()) / "checkpoints" / name for name in names]
    if not is_available(_FAN_ASSET) and all(path.is_file() for path in in_hub):
        return in_hub
    folder = fetch(_FAN_ASSET)
    return [folder / name for name in names]


@contextmanager
def _torch_hub_with(file: Path) -> Iterator[None]:
    """Let torch.hub find `file` as downloaded: face-alignment takes no path for FAN."""
    import torch

    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as hub:
        (Path(hub) / "checkpoints").mkdir()
        shutil.copy(file, Path(hub) / "checkpoints")
        torch.hub.set_dir(hub)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
