"""Data sets in their true layouts: recognised, listed in one order, read by any process, refused plainly."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.assets import pairs_in
from stylekit.data import readers
from stylekit.data.archives import expand_braces
from stylekit.data.readers import Item, open_source, parse_identities, parse_partition, stem_of
from stylekit.errors import DataError, ImageError
from stylekit.images import list_images, read_rgb
from tests.data.layouts import CELEBA, FFHQ, IDENTITY, PARTITION, picture_bytes, write_pictures, write_zip


def names(source: str | Path, part: readers.Part | None = None) -> list[str]:
    return [item.name for item in open_source(source, part).items()]


def check_all_read(items: Sequence[Item]) -> None:
    for item in items:
        assert item.read() == picture_bytes(item.name.rsplit("/", 1)[-1])


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], end: bool = True) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        length = archive.offset
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue() if end else buffer.getvalue()[:length])
    return path


@pytest.mark.parametrize("folder", ["images1024x1024", "thumbnails128x128", "in-the-wild-images", "faces"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_ffhq_in_folders_of_a_thousand(tmp_path: Path, folder: str, wrapped: bool) -> None:
    write_pictures(tmp_path / "set" / folder, FFHQ)
    source = open_source(tmp_path / "set" if wrapped else tmp_path / "set" / folder)
    items = list(source.items())
    assert (source.layout, source.count()) == ("ffhq", 5)
    assert [item.stem for item in items] == ["00000", "00001", "00999", "01000", "69999"]
    check_all_read(items)


def test_ffhq_flat_and_of_several_sizes_the_largest(tmp_path: Path) -> None:
    write_pictures(tmp_path / "thumbnails128x128", [Path(name).name for name in FFHQ])
    assert (open_source(tmp_path).layout, len(names(tmp_path))) == ("ffhq", 5)
    write_pictures(tmp_path / "images1024x1024", FFHQ[:2])
    assert names(tmp_path) == ["images1024x1024/00000/00000.png", "images1024x1024/00000/00001.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", ["images1024x1024/", "ffhq/thumbnails128x128/", ""])
def test_ffhq_in_a_zip(tmp_path: Path, method: int, prefix: str) -> None:
    archive = write_zip(tmp_path / "images1024x1024.zip", [prefix + name for name in reversed(FFHQ)], method=method)
    source = open_source(archive)
    assert source.layout == "ffhq"
    assert [item.name for item in source.items()] == [prefix + name for name in FFHQ]
    check_all_read(list(source.items()))


CELEBA_FOUND = [("000001", "train", "2880"), ("000002", "train", "2937"), ("162771", "eval", "2880"), ("182638", "test", "10177")]


@pytest.mark.parametrize(
    ("pictures", "partition", "identity"),
    [
        ("img_align_celeba", "list_eval_partition.txt", "identity_CelebA.txt"),
        ("Img/img_align_celeba", "Eval/list_eval_partition.txt", "Anno/identity_CelebA.txt"),
        ("img_align_celeba/img_align_celeba", "list_eval_partition.txt", "identity_CelebA.txt"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_celeba_with_its_partition_and_persons(
    tmp_path: Path, pictures: str, partition: str, identity: str, zipped: bool
) -> None:
    texts = {partition: PARTITION, identity: IDENTITY}
    if zipped:
        source = open_source(write_zip(tmp_path / "archive.zip", [f"{pictures}/{name}" for name in CELEBA], texts))
    else:
        write_pictures(tmp_path / "set" / pictures, CELEBA)
        for name, text in texts.items():
            (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "set" / name).write_text(text)
        source = open_source(tmp_path / "set")
    items = list(source.items())
    assert source.layout == "celeba"
    assert source.description == "CelebA, with list_eval_partition.txt and identity_CelebA.txt"
    assert [(item.stem, item.split, item.person) for item in items] == CELEBA_FOUND
    check_all_read(items)


@pytest.mark.parametrize("place", ["Img", ""])
@pytest.mark.parametrize("named", ["folder", "zip"])
def test_celeba_as_it_is_fetched_a_zip_with_the_lists_beside_or_above(tmp_path: Path, place: str, named: str) -> None:
    root = tmp_path / "CelebA"
    archive = write_zip(root / place / "img_align_celeba.zip", [f"img_align_celeba/{name}" for name in CELEBA])
    (root / "list_eval_partition.txt").write_text(PARTITION)
    (root / "identity_CelebA.txt").write_text(IDENTITY)
    items = list(open_source(root if named == "folder" else archive).items())
    assert [(item.stem, item.split, item.person) for item in items] == CELEBA_FOUND


def test_celeba_without_lists_and_as_png(tmp_path: Path) -> None:
    write_pictures(tmp_path / "img_align_celeba_png", ["000001.png"])
    assert open_source(tmp_path).description == "CelebA, without its partition"
    (tmp_path / "list_eval_partition.csv").write_text("image_id,partition\n000001.jpg,1\n")
    assert [item.split for item in open_source(tmp_path).items()] == ["eval"]


@given(st.dictionaries(st.from_regex(r"[0-9]{1,7}", fullmatch=True), st.sampled_from("012"), max_size=20), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_partition_is_read_as_written(splits: dict[str, str], csv: bool) -> None:
    rows = [f"{name}.jpg{',' if csv else '  '}{value}\r\n" for name, value in splits.items()]
    text = "".join(["image_id,partition\n"] * csv + rows)
    assert parse_partition(text) == {name: {"0": "train", "1": "eval", "2": "test"}[value] for name, value in splits.items()}


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_is_a_partition_or_named_as_none(text: str) -> None:
    try:
        found = parse_partition(text)
    except DataError as error:
        said = error.message
    else:
        said = "line"
        assert set(found.values()) <= {"train", "eval", "test"}
    assert "line" in said


@pytest.mark.parametrize(("text", "line"), [("000001.jpg 0\n000002.jpg 3\n", 2), ("000001.jpg\n", 1), ("a b 0", 1)])
def test_a_damaged_partition_names_its_line(text: str, line: int) -> None:
    with pytest.raises(DataError, match=f"list_eval_partition.txt, line {line}: "):
        parse_partition(text)
    with pytest.raises(DataError, match=r"identity_CelebA.txt, line 1: 'x' is not a picture and a number"):
        parse_identities("x")


def test_photographs_and_cartoons_with_what_is_set_apart(tmp_path: Path) -> None:
    for folder in ("trainA", "trainB", "testA", "testB"):
        write_pictures(tmp_path / "set" / folder, ["1.png", "2.jpg"])
    source = open_source(tmp_path / "set", "photo")
    assert source.layout == "pair"
    assert [(item.name, item.split) for item in source.items()] == [
        ("trainA/1.png", "train"),
        ("trainA/2.jpg", "train"),
        ("testA/1.png", "test"),
        ("testA/2.jpg", "test"),
    ]
    assert names(tmp_path / "set", "cartoon") == ["trainB/1.png", "trainB/2.jpg", "testB/1.png", "testB/2.jpg"]
    with pytest.raises(DataError, match=r"holds photographs \(trainA/\) and cartoons \(trainB/\).*data add"):
        open_source(tmp_path / "set")


def test_modelscopes_pair_in_a_zip(tmp_path: Path) -> None:
    inside = [f"train/{part}/{n}.png" for part in ("face_photo", "face_cartoon") for n in range(2)]
    items = list(open_source(write_zip(tmp_path / "set.zip", inside), "cartoon").items())
    assert [(item.name, item.split) for item in items] == [
        ("train/face_cartoon/0.png", None),
        ("train/face_cartoon/1.png", None),
    ]
    check_all_read(items)


PLAIN = ["b.png", "a.jpg", "women/a.png", "women.2/x y.jpg", "Ünïcode/ä.webp", ".hidden/x.png", "__MACOSX/._a.jpg", "z.txt.png"]


def test_a_plain_folder_and_a_zip_of_it_give_the_same(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "mine", PLAIN)
    (folder / "notes.txt").write_text("x")
    (folder / "fake.png").mkdir()
    found = list(open_source(folder).items())
    assert [folder / item.name for item in found] == [path for path in list_images(folder) if "__MACOSX" not in path.parts]
    zipped = list(open_source(write_zip(tmp_path / "mine.zip", PLAIN)).items())
    assert [(item.name, item.stem) for item in zipped] == [(item.name, item.stem) for item in found]
    check_all_read([*found, *zipped])


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    disk = write_pictures(tmp_path / "disk", [f"images/{name}" for name in FFHQ])
    (disk / "images" / "again").symlink_to(disk / "images")
    ffhq = tmp_path / "ffhq"
    ffhq.mkdir()
    (ffhq / "images1024x1024").symlink_to(disk / "images")
    assert (open_source(ffhq).layout, len(names(ffhq))) == ("ffhq", 5)
    mine = write_pictures(tmp_path / "mine", ["b/1.png"])
    for link, target in (("a", "b"), ("b/up", ".."), ("c", "../disk"), ("d", "../disk"), ("e", "nowhere"), ("f", "f")):
        (mine / link).symlink_to(target if "/" not in link else mine)
    assert names(mine) == ["b/1.png", *(f"c/images/{name}" for name in FFHQ)]
    check_all_read(list(open_source(mine).items()))


@pytest.mark.parametrize("place", ["", "train", "selfie2anime", "ugatit/selfie2anime", "selfie2anime/train"])
def test_a_pair_is_seen_wherever_data_add_sees_one(tmp_path: Path, place: str) -> None:
    pictures = [f"{place}/trainA/1.png", f"{place}/trainB/2.png", "faces/3.png", "ugatit/4.png"]
    source = write_pictures(tmp_path / "set", [name.lstrip("/") for name in pictures])
    (pair,) = pairs_in(source)
    assert names(source, "photo") == [f"{pair.photos.relative_to(source).as_posix()}/1.png"]
    assert names(write_zip(tmp_path / "set.zip", [name.lstrip("/") for name in pictures]), "cartoon")[0].endswith("trainB/2.png")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("women/a.jpg", "women-a"),
        ("Zoe\u0301.png", "Zo\u00e9"),
        ("con.png", "_con"),
        ("AUX.old.jpg", "_AUX.old"),
        ("com1.webp", "_com1"),
        ("com/1.webp", "com-1"),
        ("console.png", "console"),
    ],
)
def test_a_stem_is_one_that_every_disk_takes(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_no_two_stems_are_alike_on_any_disk(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(archive, ["a/b.png", "a-b.jpg", "A/B.png", "c.png", "d.png", "d.png"])
    stems = [item.stem for item in open_source(archive).items()]
    assert len({stem.casefold() for stem in stems}) == len(stems) == 5
    assert stems[-2:] == ["c", "d"]
    members = [(f"{n}.png", picture_bytes(f"{n}.png")) for n in (0, 1, 0)]
    shards = [write_tar(tmp_path / "s" / f"{n}.tar", members) for n in range(2)]
    items = list(open_source(shards[0].parent).items())
    assert len({item.stem for item in items}) == len({item.name for item in items}) == len(items) == 6
    assert [item.stem for item in items] == [item.stem for item in open_source(shards[0].parent).items()]


def test_items_are_read_by_another_process(tmp_path: Path) -> None:
    write_zip(tmp_path / "z.zip", ["a.png"])
    write_tar(tmp_path / "t.tar", [("a.png", picture_bytes("a.png"))])
    write_pictures(tmp_path / "f", ["a.png"])
    items = [item for name in ("z.zip", "t.tar", "f") for item in open_source(tmp_path / name).items()]
    program = "import pickle, sys; [sys.stdout.buffer.write(i.read()) for i in pickle.load(sys.stdin.buffer)]"
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(items), capture_output=True, check=True)
    assert done.stdout == picture_bytes("a.png") * 3


def test_webdataset_shards_group_by_key(tmp_path: Path) -> None:
    notes = {"split": "val", "person": 7}
    first = [
        ("./0001.jpg", picture_bytes("1.jpg")),
        ("./0001.json", json.dumps(notes).encode()),
        ("./0001.txt", b"a face"),
        ("./0002.json", b"not json"),
        ("./0002.png", picture_bytes("2.png")),
        ("./0003.cls", b"4"),
        ("../up.png", b"passed over"),
    ]
    write_tar(tmp_path / "s" / "train-000000.tar", first)
    write_tar(tmp_path / "s" / "train-000001.tar", [("a/0004.seg.png", picture_bytes("4.png")), ("a/0004.json", b'{"split":[]}')])
    source = open_source(tmp_path / "s")
    assert source.layout == "shards"
    assert [(item.name, item.stem, item.split, item.person) for item in source.items()] == [
        ("train-000000.tar/./0001.jpg", "0001", "eval", "7"),
        ("train-000000.tar/./0002.png", "0002", None, None),
        ("train-000001.tar/a/0004.seg.png", "a-0004.seg", None, None),
    ]
    assert next(source.items()).read() == picture_bytes("1.jpg")
    assert names(f"{tmp_path}/s/train-{{000000..000001}}.tar") == names(tmp_path / "s")
    with pytest.raises(DataError, match=r"no shard .*train-000002.tar; 1 of 3 are missing"):
        open_source(f"{tmp_path}/s/train-{{000000..000002}}.tar")


@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_ranges_of_shards_are_padded_as_written(first: int, more: int, width: int) -> None:
    low, high = str(first).zfill(width), str(first + more).zfill(width)
    found = expand_braces(f"a/{{{low}..{high}}}-{{x,y}}.tar")
    assert found == [f"a/{n:0{len(low)}d}-{c}.tar" for n in range(first, first + more + 1) for c in "xy"]


@pytest.mark.parametrize("pattern", ["{5..2}.tar", "{0..9999999}.tar", "{0..9999}{0..9999}.tar"])
def test_senseless_ranges_are_refused(pattern: str) -> None:
    with pytest.raises(DataError):
        open_source(pattern)


def test_a_damaged_shard_gives_what_is_whole_and_is_named(tmp_path: Path) -> None:
    members = [(f"{n}.png", picture_bytes(f"{n}.png")) for n in range(3)]
    data = write_tar(tmp_path / "s" / "0.tar", members).read_bytes()
    second = data.index(b"1.png")
    for cut in (data[: second + 700], data[:second] + b"\xff" * 512 + data[second + 512 :], data[: second + 100]):
        (tmp_path / "s" / "0.tar").write_bytes(cut)
        write_tar(tmp_path / "s" / "1.tar", [("9.png", picture_bytes("9.png"))])
        items = list(open_source(tmp_path / "s").items())
        assert items[0].read() == picture_bytes("0.png")
        assert items[-1].read() == picture_bytes("9.png")
        with pytest.raises(ImageError, match="cut short"):
            items[-2].read()
    write_tar(tmp_path / "e" / "0.tar", members, end=False)
    assert [item.fault is None for item in open_source(tmp_path / "e").items()] == [True] * 3 + [False]


def test_hostile_zip_members_are_refused_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("bomb.png", bytes(3_000_000))
        writer.writestr("good.png", picture_bytes("good.png"))
        writer.writestr("liar.png", bytes(50_000))
        writer.writestr("packed.png", b"x" * 99, zipfile.ZIP_BZIP2)
        writer.writestr("secret.png", b"x")
        writer.writestr("../../up.png", b"x")
    data = bytearray(archive.read_bytes())
    listed = data.index(b"PK\1\2")
    liar, secret = data.index(b"liar.png", listed) - 46, data.index(b"secret.png", listed) - 46
    data[liar + 24 : liar + 28] = struct.pack("<I", 100)  # says 100 bytes, gives 50,000
    data[secret + 8] |= 1
    archive.write_bytes(data)
    monkeypatch.setattr(readers, "MAX_PICTURE_BYTES", 2_000_000)
    said = {}
    for item in open_source(archive).items():
        try:
            said[item.name] = item.read() == picture_bytes(item.name)
        except ImageError as error:
            said[item.name] = error.message
    assert said["good.png"] is True
    assert said.keys() == {"bomb.png", "good.png", "liar.png", "packed.png", "secret.png"}
    assert "the limit is 1 MB" in said["bomb.png"]
    assert "damaged" in said["liar.png"]
    assert "method 12" in said["packed.png"]
    assert "encrypted" in said["secret.png"]


def test_a_member_longer_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("liar.png", bytes(30_000_000))
    data = bytearray(archive.read_bytes())
    listed = data.index(b"PK\1\2")
    data[listed + 24 : listed + 28] = struct.pack("<I", 100)
    archive.write_bytes(data)
    item = next(open_source(archive).items())
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="damaged"):
            item.read()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_damaged_picture_in_a_zip_costs_only_itself(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", ["a.png", "b.png", "c.png"])
    data = bytearray(archive.read_bytes())
    data[data.index(b"b.png") + 100] ^= 0xFF
    archive.write_bytes(data)
    first, second, third = open_source(archive).items()
    assert read_rgb(first.read()).shape == read_rgb(third.read()).shape
    with pytest.raises(ImageError, match=r"b.png cannot be read: it is damaged or cut short in a.zip"):
        second.read()
    archive.unlink()
    with pytest.raises(ImageError, match="No such file"):
        third.read()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "holds nothing"),
        (["readme.txt", "sub/notes.md"], r"it holds readme.txt, sub/\. Expected: pictures, .*CelebA.*shards"),
        (["a.zip", "b.zip"], "several zip files: a.zip, b.zip. Name one"),
    ],
)
def test_unknown_layouts_say_what_was_seen_and_what_is_expected(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(DataError, match=said):
        open_source(tmp_path)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder or file"):
        open_source(tmp_path / "gone")
    (tmp_path / "a.tgz").write_bytes(b"\x1f\x8b123")
    with pytest.raises(DataError, match="not a folder, a zip file or an uncompressed tar file"):
        open_source(tmp_path / "a.tgz")
    write_zip(tmp_path / "a.zip", [], {"x.txt": "x"})
    with pytest.raises(DataError, match="no pictures in"):
        open_source(tmp_path / "a.zip")
    for folder in ("trainA", "trainB", "face_photo", "face_cartoon"):
        write_pictures(tmp_path / "both" / folder, ["1.png"])
    with pytest.raises(DataError, match="several sets of photographs: face_photo, trainA"):
        open_source(tmp_path / "both", "photo")


def test_pictures_come_before_archives_which_are_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png"])
    write_zip(tmp_path / "old.zip", ["b.png"])
    source = open_source(tmp_path)
    assert (source.notes, [item.name for item in source.items()]) == (("Passed over: old.zip.",), ["a.png"])


def test_pictures_of_a_kind_that_is_not_read_are_counted(tmp_path: Path) -> None:
    for name in ("a.HEIC", "sub/b.heic", "c.gif", ".hidden.heic", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    said = "2 HEIC and 1 GIF files are not read: convert them to JPEG or PNG."
    with pytest.raises(DataError, match=said):
        open_source(tmp_path)
    write_pictures(tmp_path, ["a.png"])
    assert open_source(tmp_path).notes == (said,)


def test_one_picture_is_a_source(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["me 00.jpg", "other.jpg"])
    source = open_source(tmp_path / "me 00.jpg", "photo")
    (item,) = source.items()
    assert (item.name, item.stem, source.count()) == ("me 00.jpg", "me-00", 1)
    assert item.read() == (tmp_path / "me 00.jpg").read_bytes()
