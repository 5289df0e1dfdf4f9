"""The verb `stylize`: picture files and folders in, stylized files out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stylekit.bundle import Bundle
from stylekit.errors import ImageError, StylekitError, UsageError
from stylekit.images import Rgb, list_images, read_rgb, write_image
from stylekit.paths import Workspace
from stylekit.progress import Progress, silent
from stylekit.stylizer.stylizer import Stylizer

Mode = Literal["face", "full"]
Format = Literal["png", "jpg", "webp"]
Draw = Callable[[Path], tuple[list[Rgb], int]]


@dataclass(frozen=True)
class StylizedFile:
    """One input that was stylized.

    Attributes:
        input: The picture.
        outputs: What was written: one file, or in mode `face` one for every face.
        faces: Faces found; with none, mode `full` draws the background alone.
    """

    input: Path
    outputs: tuple[Path, ...]
    faces: int


@dataclass(frozen=True)
class StylizeReport:
    """What `stylize` did.

    Attributes:
        style: Name of the style.
        done: Inputs stylized.
        failed: Inputs that were not, with the reason.
    """

    style: str
    done: tuple[StylizedFile, ...]
    failed: dict[Path, str]

    @property
    def faceless(self) -> tuple[Path, ...]:
        """Pictures stylized without a face being found in them."""
        return tuple(file.input for file in self.done if not file.faces)

    @property
    def exit_code(self) -> int:
        """0 when everything was done, 3 when a part was, 1 when nothing was."""
        return 0 if not self.failed else 3 if self.done else 1


def stylize(
    inputs: Sequence[Path],
    *,
    style: str | Path | Bundle | None = None,
    output: Path | None = None,
    mode: Mode = "full",
    size: int | None = None,
    strength: float | None = None,
    file_format: Format = "png",
    quality: int = 92,
    device: str = "auto",
    fast: bool = False,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> StylizeReport:
    """Stylize pictures; one that cannot be is reported, and the rest goes on.

    Args:
        inputs: Picture files and folders of them.
        style: As for `Stylizer`.
        output: A folder, or a file name when there is one input file; `stylized/` in the workspace by default.
        mode: `full` keeps the picture and stylizes all of it; `face` writes the aligned crop of every face.
        size: Mode `full`: short side in pixels at which the network sees the picture. Mode `face`: side of the crops.
        strength: As for `Stylizer`.
        file_format: Format of the files in an output folder.
        quality: 1 to 100, for `jpg` and `webp`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        fast: As for `Stylizer`.
        workspace: The project; the current folder by default.
        progress: Shows rate and time left.

    Raises:
        UsageError: If there is nothing to do, an output would replace an input, the device is not there, or `strength` is not
            from 0 to 1.
        ExportError: If there is no such style, or it is damaged.
    """
    workspace = workspace or Workspace()
    pairs = pair_files(inputs, output or workspace.root / "stylized", file_format)
    seen = size if mode == "full" else None
    stylizer = Stylizer(style, size=seen, strength=strength, device=device, fast=fast, workspace=workspace)

    def draw(file: Path) -> tuple[list[Rgb], int]:
        photo = read_rgb(file)
        if mode == "full":
            picture, faces = stylizer.picture(photo)
            return [picture], faces
        crops = [face.crop for face in stylizer.faces(photo, size)]
        if not crops:
            raise ImageError(f"{file} shows no face.", "Use --mode full to stylize the whole picture.")
        return crops, len(crops)

    return stylize_files(pairs, draw, style=stylizer.name, quality=quality, progress=progress)


def pair_files(inputs: Sequence[Path], output: Path, file_format: Format) -> list[tuple[Path, Path]]:
    """Return each picture with the file that its result goes to.

    Args:
        inputs: Picture files and folders of them.
        output: A folder, or a file name when there is one input file.
        file_format: Format of the files in an output folder.

    Raises:
        UsageError: If there is nothing to do, or an output would replace an input.
    """
    to_file = bool(output.suffix) and not output.is_dir() and len(inputs) == 1 and not Path(inputs[0]).is_dir()
    files = list(_expand(inputs, None if to_file else output))
    if not files:
        raise UsageError("There are no pictures to stylize.", "Name picture files or folders of them.")
    targets = [output] if to_file else [output / f"{name}.{file_format}" for name in _names(files)]
    _protect(files, targets)
    return list(zip(files, targets, strict=True))


def stylize_files(
    pairs: Sequence[tuple[Path, Path]], draw: Draw, *, style: str, quality: int = 92, progress: Progress = silent
) -> StylizeReport:
    """Draw pictures one after the other and write the results; one that cannot be drawn is reported, and the rest goes on.

    Args:
        pairs: From `pair_files`.
        draw: Returns the results of one picture, and how many faces were found in it.
        style: Name of the style.
        quality: 1 to 100, for `jpg` and `webp`.
        progress: Shows rate and time left.
    """
    done: list[StylizedFile] = []
    failed: dict[Path, str] = {}
    taken = {target for _, target in pairs}
    with progress("Stylizing", total=len(pairs)) as bar:
        for file, target in pairs:
            try:
                results, faces = draw(file)
                outputs = (target, *_further(target, len(results) - 1, taken))
                for path, result in zip(outputs, results, strict=True):
                    write_image(path, result, quality=quality)
                done.append(StylizedFile(file, outputs, faces))
            except StylekitError as error:
                failed[file] = str(error)
            bar.advance()
    return StylizeReport(style, tuple(done), failed)


def _expand(inputs: Iterable[Path], output: Path | None) -> Iterator[Path]:
    """Yield the files, those in folders sorted, each once, and none that an earlier call wrote into `output`."""
    seen = set()
    for given in inputs:
        path = Path(given)
        listed = (
            [p for p in list_images(path) if output is None or output.resolve() not in p.resolve().parents]
            if path.is_dir()
            else [path]
        )
        for file in listed:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _names(files: Sequence[Path]) -> list[str]:
    """Name the outputs: the stem, behind its folder's name where two stems are equal, and numbered where those are too."""
    stems = [file.stem.casefold() for file in files]
    taken: set[str] = set()
    names = []
    for file, stem in zip(files, stems, strict=True):
        base = file.stem if stems.count(stem) == 1 else f"{file.resolve().parent.name}-{file.stem}"
        names.append(_free(base, taken))
    return names


def _free(base: str, taken: set[str]) -> str:
    name, number = base, 2
    while name.casefold() in taken:
        name, number = f"{base}-{number}", number + 1
    taken.add(name.casefold())
    return name


def _further(target: Path, count: int, taken: set[Path]) -> Iterator[Path]:
    """Yield names for the second face and those after it: `group-face2.png`."""
    number = 2
    for _ in range(count):
        while (path := target.with_stem(f"{target.stem}-face{number}")) in taken:
            number += 1
        taken.add(path)
        yield path


def _protect(files: Sequence[Path], targets: Sequence[Path]) -> None:
    sources = {file.resolve() for file in files}
    if replaced := [target for target in targets if target.resolve() in sources]:
        raise UsageError(f"{replaced[0]} is an input and would be replaced.", "Choose another folder with --output.")
