"""How fast superpixels are found, and how far from scikit-image's: the CPU's loops, and the tensor operations of a GPU.

    python -m benchmarks.superpixels --device cpu

Speed: a batch of 16 starter photographs at 256 px, the ways in turns: scikit-image in processes, one for every picture, and
`label2rgb`, as ModelScope's trainer does it; scikit-image in two threads; scikit-image in torch's threads; stylekit's own.
Agreement: photographs and what the packaged style makes of them, in B, G, R order. Loops are compared with scikit-image, tensors
with the loops. The content loss is that of the default recipe: how far apart are features of the result and of its superpixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import label2rgb
from skimage.segmentation import find_boundaries, slic
from torch import Tensor

from benchmarks.record import Record, table
from stylekit.assets import fetch, resolve
from stylekit.bundle import load_style
from stylekit.bundle.weights import unpack_generator
from stylekit.config.schema import ContentRecipe
from stylekit.data.slic import COMPACTNESS, SEGMENTS, SIGMA, labels_of, region_means
from stylekit.data.slic_torch import region_means as region_means_of_tensors
from stylekit.data.slic_torch import regions_of
from stylekit.data.superpixel import superpixels
from stylekit.images import list_images, read_rgb, resize, to_tensor
from stylekit.methods.dctnet import content_layers
from stylekit.nn.losses import feature_distance
from stylekit.nn.pretrained import load_pretrained
from stylekit.speed.machine import describe
from stylekit.speed.timing import alternate, median

SIDE, BATCH = 256, 16
LEVELS = 127.5


def photographs(count: int) -> Tensor:
    """Starter photographs, [N, 3, 256, 256]."""
    return to_tensor(np.stack([resize(read_rgb(path), (SIDE, SIDE)) for path in list_images(fetch("starter-photos"))[:count]]))


def stylized(photos: Tensor) -> Tensor:
    """What the packaged style's network makes of photographs, before clipping."""
    bundle = load_style("toon-head")
    network = unpack_generator(bundle, bundle.style.networks.face).eval()
    with torch.inference_mode():
        return torch.cat([network(photo[None]) for photo in photos]).clone()


def of_scikit_image(picture: NDArray[np.float32]) -> NDArray[Any]:
    """Labels of a picture [H, W, 3], from 1."""
    return slic(picture, SEGMENTS, COMPACTNESS, sigma=SIGMA, convert2lab=True, start_label=1, channel_axis=-1)  # type: ignore[no-any-return]


def as_upstream(picture: NDArray[np.float32]) -> NDArray[Any]:
    """What ModelScope's `simple_superpixel` does to each picture."""
    return label2rgb(of_scikit_image(picture), picture, kind="avg", bg_label=0)  # type: ignore[no-any-return]


def by_bincount(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Labels of scikit-image and means by counting."""
    flat = of_scikit_image(picture).ravel()
    counts = np.maximum(np.bincount(flat), 1)
    return np.stack([(np.bincount(flat, picture[..., c].ravel()) / counts)[flat] for c in range(3)], -1).astype(np.float32)


def speed(photos: Tensor, device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of a batch by every way."""
    from joblib import Parallel, delayed

    pictures = list(photos.flip(1).permute(0, 2, 3, 1).contiguous().numpy())
    pool = ThreadPoolExecutor(2)
    there = photos.to(device)
    ways: dict[str, Callable[[], object]] = {
        "scikit-image, a process a picture": lambda: Parallel(n_jobs=BATCH)(delayed(as_upstream)(p) for p in pictures),
        "scikit-image, two threads": lambda: list(pool.map(by_bincount, pictures)),
        "engine scikit-image": lambda: superpixels(photos, bgr=True, engine="scikit-image"),
        "engine auto": lambda: superpixels(photos, bgr=True),
    }
    if device.type == "cuda":
        compiled = torch.compile(superpixels, dynamic=False)
        ways |= {"tensors": lambda: superpixels(there, bgr=True), "tensors, compiled": lambda: compiled(there, bgr=True)}
    found = {name: median(times) for name, times in alternate(ways, rounds, device).items()}
    pool.shutdown()
    return found


def outside(labels: NDArray[Any], others: NDArray[Any]) -> float:
    """Share of pixels outside the region of the others that overlaps theirs most."""
    pairs, pixels = np.unique(np.stack([labels.ravel(), others.ravel()]), axis=1, return_counts=True)
    most: dict[int, int] = {}
    for mine, count in zip(pairs[0], pixels, strict=True):
        most[mine] = max(most.get(mine, 0), int(count))
    return 1 - sum(most.values()) / labels.size


def recall(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Share of the expected regions' boundary pixels with a boundary pixel of the found ones at most two pixels away."""
    from scipy.ndimage import binary_dilation

    edges, near = find_boundaries(expected, mode="inner"), binary_dilation(find_boundaries(found, mode="inner"), np.ones((5, 5)))
    return float(near[edges].mean())


def agreement(pictures: Tensor, device: torch.device) -> dict[str, dict[str, float]]:
    """How far the loops are from scikit-image, and the tensors from the loops: means over pictures, and the worst of them."""
    seen = pictures.flip(1).contiguous()
    arrays = seen.numpy()
    expected = np.stack([of_scikit_image(picture.transpose(1, 2, 0)) for picture in arrays])
    loops = labels_of(arrays)
    tensors = torch.cat([regions_of(picture[None].to(device)).cpu() for picture in seen])
    of_loops = torch.from_numpy(region_means(pictures.contiguous().numpy(), loops))
    of_tensors = region_means_of_tensors(pictures, tensors)

    content = ContentRecipe(network="efficientnet-lite0")
    network, layers = load_pretrained(resolve("content", prefer=content.network)), content_layers(content)
    changes = []
    with torch.inference_mode():
        for picture, one, other in zip(pictures, of_loops, of_tensors, strict=True):
            made, first, second = (
                {k: v[None] for k, v in network.features(p[None], layers).items()} for p in (picture, one, other)
            )
            distances = [float(feature_distance(target, made)) for target in (first, second)]
            changes.append(abs(distances[1] / distances[0] - 1))
    moved = [max(outside(a, b), outside(b, a)) for a, b in zip(loops, tensors.numpy(), strict=True)]
    apart = (of_loops - of_tensors).abs().mean((1, 2, 3)) * LEVELS
    recalls = [recall(a, b) for a, b in zip(loops, tensors.numpy(), strict=True)]
    differing = (loops + 1 != expected).mean((1, 2))
    return {
        "loops": {"pixels": float(differing.mean()), "worst": float(differing.max())},
        "tensors": {
            "pixels": float(np.mean(moved)),
            "pixels_worst": float(np.max(moved)),
            "boundary_recall": float(np.mean(recalls)),
            "boundary_recall_worst": float(np.min(recalls)),
            "mean_colour_levels": float(apart.mean()),
            "mean_colour_levels_worst": float(apart.max()),
            "content_loss": float(np.mean(changes)),
            "content_loss_worst": float(np.max(changes)),
        },
    }


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=32, help="of each kind, for the agreement")
    options = parser.parse_args()
    device = torch.device(options.device)
    protocol = {"batch": BATCH, "size_px": SIDE, "rounds": options.rounds, "pictures": options.pictures}
    record = Record("superpixels", describe(device), protocol)
    photos = photographs(max(options.pictures, BATCH))

    times = speed(photos[:BATCH], device, options.rounds)
    slowest = next(iter(times.values()))
    speeds = table(("way", "ms", "times as fast"), [(name, f"{s * 1e3:.0f}", f"{slowest / s:.1f}") for name, s in times.items()])
    head = (
        f"Superpixels of {BATCH} pictures at {SIDE} px, {torch.get_num_threads()} threads, medians of {options.rounds} rounds:\n"
    )
    record.data["seconds"] = times
    record.write(f"{head}\n{speeds}")
    kinds = {"photographs": photos[: options.pictures], "packaged style": stylized(photos[: options.pictures])}
    found = {kind: agreement(pictures, device) for kind, pictures in kinds.items()}
    record.data["agreement"] = found
    lines = [
        head,
        speeds,
        f"Agreement over {options.pictures} pictures of each kind, mean (worst):\n",
        table(
            (
                "pictures",
                "loops: other labels",
                "tensors: other regions",
                "boundary recall",
                "mean colour, levels",
                "content loss",
            ),
            [
                (
                    kind,
                    f"{of['loops']['pixels']:.2%} ({of['loops']['worst']:.2%})",
                    f"{of['tensors']['pixels']:.2%} ({of['tensors']['pixels_worst']:.2%})",
                    f"{of['tensors']['boundary_recall']:.2%} ({of['tensors']['boundary_recall_worst']:.2%})",
                    f"{of['tensors']['mean_colour_levels']:.2f} ({of['tensors']['mean_colour_levels_worst']:.2f})",
                    f"{of['tensors']['content_loss']:.3%} ({of['tensors']['content_loss_worst']:.3%})",
                )
                for kind, of in found.items()
            ],
        ),
    ]
    text = "\n".join(lines)
    record.write(text)
    print(text)


if __name__ == "__main__":
    main()
