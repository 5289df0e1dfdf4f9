"""DCT-Net's published styles and ModelScope's data sets: names, the user's own, and what a ModelScope cache already holds."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from stylekit import assets
from stylekit.assets import catalogue, mscache, sources, store
from stylekit.assets.catalogue import ModelScopeDataset, ModelScopeFile, ModelScopeFolder
from stylekit.errors import AssetError, DataError, UsageError

MODEL = ("cartoon_h.pb", "cartoon_bg.pb", "detector.pb", "keypoints.pb", "alpha.jpg")
SUFFIXES = {
    "anime": "",
    **{name: f"-{name}" for name in ("3d", "handdrawn", "sketch", "artstyle", "sd-design", "sd-illustration")},
}


def model_id(style: str, owner: str = "damo") -> str:
    return f"{owner}/cv_unet_person-image-cartoon{SUFFIXES[style]}_compound-models"


def write_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture(autouse=True)
def ms_cache(tmp_path: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ModelScope cache, and no network."""
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    return tmp_path / "modelscope"


@pytest.mark.parametrize("style", SUFFIXES)
def test_a_style_has_many_names(style: str) -> None:
    names = (
        style,
        f"modelscope:{style}",
        f"modelscope-{style}",
        model_id(style),
        model_id(style, "iic"),
        f"ms:{model_id(style)}",
    )
    assert {catalogue.find_style(name).name for name in names} == {f"modelscope-{style}"}
    revision = "v1.0.0" if style.startswith("sd-") else "master"
    assert catalogue.find_style(style).sources == (ModelScopeFolder(model_id(style), revision),)


@pytest.mark.parametrize("name", ["sketc", "damo/cv_unet_person-image-cartoon-sketc_compound-models", "someone/sketch"])
def test_an_unknown_style_is_told_the_seven_and_the_nearest(name: str) -> None:
    with pytest.raises(UsageError) as refusal:
        assets.modelscope_style(name)
    assert refusal.value.hint == f"Did you mean sketch? There are: {', '.join(SUFFIXES)}."


def test_without_the_hub_the_files_to_bring_are_named() -> None:
    with pytest.raises(sources.SourceUnavailableError) as refusal:
        assets.modelscope_style("3d")
    assert f"modelscope-3d is not cached. ms:{model_id('3d')}@master" in refusal.value.message
    for named in (*MODEL, "tf_ckpts/", "vgg19.npy", "Run: stylekit assets add modelscope-style FOLDER --name modelscope-3d"):
        assert named in refusal.value.hint
    with pytest.raises(
        sources.SourceUnavailableError, match=r"vgg19\.npy of DCT-Net's model folder\. Run: .* --name vgg19-caffe"
    ):
        assets.fetch("vgg19-caffe")


def test_a_style_is_never_fetched_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.delenv("STYLEKIT_OFFLINE")
    monkeypatch.setattr(sources, "has_client", lambda source: True)
    monkeypatch.setattr(sources, "download", lambda source, folder: asked.append(source))
    for role in ("modelscope-style", "dataset"):
        with pytest.raises(AssetError, match=f"Nothing is available for {role}: every candidate must be asked for by name"):
            assets.resolve(role)
    assert asked == []


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_style_of_your_own_stands_in(tmp_path: Path, zipped: bool) -> None:
    own = write_files(
        tmp_path / "cv_unet_person-image-cartoon-3d_compound-models", *MODEL, "tf_ckpts/model-0.index", ".git/config"
    )
    if zipped:
        own = Path(shutil.make_archive(str(own), "zip", tmp_path, own.name))
    added = assets.add("modelscope-style", own)
    assert added.source == f"user:{own.name}"
    resolved = assets.modelscope_style("3d")
    assert resolved == added
    found = sorted(file.relative_to(resolved.path).as_posix() for file in resolved.path.rglob("*") if file.is_file())
    assert found == sorted([*MODEL, "tf_ckpts/model-0.index"])
    assert resolved.sha256 == assets.digest(resolved.path)
    assert next(s for s in assets.statuses() if s.name == "modelscope-3d").state == "user"


def test_one_graph_alone_is_a_style_in_a_folder(tmp_path: Path) -> None:
    added = assets.add("modelscope-style", write_files(tmp_path, "cartoon_h.pb") / "cartoon_h.pb", "modelscope-sketch")
    assert [file.name for file in added.path.iterdir()] == ["cartoon_h.pb"]


def test_a_folder_without_the_graph_is_refused_and_nothing_kept(tmp_path: Path) -> None:
    with pytest.raises(
        AssetError, match=r"^models holds no cartoon_h\.pb\. Put cartoon_h\.pb .* FOLDER --name modelscope-anime$"
    ):
        assets.add("modelscope-style", write_files(tmp_path / "models", "cartoon_bg.pb"), "modelscope-anime")
    assert not assets.is_available("modelscope-anime")
    with pytest.raises(UsageError, match=r"not clear what models is\. Say which with --name: modelscope-anime, modelscope-3d"):
        assets.add("modelscope-style", tmp_path / "models")


def test_a_hostile_zip_writes_nothing_outside(tmp_path: Path) -> None:
    path = tmp_path / "style.zip"
    with zipfile.ZipFile(path, "w") as stream:
        stream.writestr("cartoon_h.pb", b"fine")
        stream.writestr("../../../evil", b"evil")
    with pytest.raises(AssetError, match=r"style\.zip holds the unsafe path \.\./\.\./\.\./evil; nothing was taken"):
        assets.add("modelscope-style", path, "modelscope-3d")
    assert not list(tmp_path.rglob("evil"))
    assert not list(tmp_path.rglob("cartoon_h.pb"))


def test_a_torn_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "style.zip"
    with zipfile.ZipFile(path, "w") as stream:
        stream.writestr("cartoon_h.pb", bytes(9999))
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + b"\xff" * 40 + whole[80:])
    with pytest.raises(AssetError, match=r"style\.zip is damaged"):
        assets.add("modelscope-style", path, "modelscope-3d")


LAYOUTS = {
    "models/damo/{name}": "",
    "hub/models/iic/{name}": "",
    "damo/{name}": "",
    "hub/damo/{name}": "",
    "models/damo--{name}/snapshots/v1.0.0": "@v1.0.0",
    "models/iic--{name}/snapshots/master": "@master",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_modelscope_client_has_fetched_is_used(ms_cache: Path, layout: str) -> None:
    owner, _, name = model_id("sd-design", "iic" if "iic" in layout else "damo").partition("/")
    fetched = write_files(ms_cache / layout.format(name=name), *MODEL, ".msc", "vgg19.npy.incomplete")
    resolved = assets.modelscope_style("sd-design")
    assert resolved.source == f"ms-cache:{owner}/{name}{LAYOUTS[layout]}"
    assert sorted(file.name for file in resolved.path.iterdir()) == sorted(MODEL)
    shutil.rmtree(fetched)
    assert assets.modelscope_style("sd-design") == resolved


def test_the_wanted_revision_comes_before_others(ms_cache: Path) -> None:
    snapshots = ms_cache / f"models/{model_id('sd-design').replace('/', '--')}/snapshots"
    for revision in ("master", "v1.0.0", "v9"):
        write_files(snapshots / revision, *MODEL)
    assert assets.modelscope_style("sd-design").source.endswith("@v1.0.0")


@pytest.mark.parametrize("reached", [True, False])
def test_a_pinned_style_comes_from_the_hub_where_the_cache_has_another_revision(
    ms_cache: Path, tmp_path: Path, reached: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(ms_cache / f"models/{model_id('sd-design').replace('/', '--')}/snapshots/v9", *MODEL)
    if reached:
        fetched = write_files(tmp_path / "fetched", *MODEL)
        monkeypatch.setattr(sources, "download", lambda source, folder: fetched)
    resolved = assets.modelscope_style("sd-design")
    pinned, other = f"ms:{model_id('sd-design')}@v1.0.0", f"ms-cache:{model_id('sd-design')}@v9"
    assert resolved.source == (pinned if reached else other)
    assert (f"Another revision is taken: {other}." in caplog.text) == (not reached)


def test_an_unknown_revision_comes_before_the_hub(ms_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "download", lambda source, folder: pytest.fail("the hub was asked"))
    write_files(ms_cache / f"models/{model_id('sd-design').replace('/', '--')}/snapshots/v9", *MODEL)
    write_files(ms_cache / f"hub/{model_id('sd-design')}", *MODEL)
    assert assets.modelscope_style("sd-design").source == f"ms-cache:{model_id('sd-design')}"


def test_dots_in_a_name_are_found_as_older_clients_write_them(ms_cache: Path) -> None:
    write_files(ms_cache / "models/me/net-1___5", "a.bin")
    found = mscache.find(ModelScopeFile("me/net-1.5", "a.bin"), ())
    assert found == (ms_cache / "models/me/net-1___5/a.bin", "ms-cache:me/net-1.5/a.bin")


def test_an_interrupted_download_of_another_client_is_passed_over(ms_cache: Path) -> None:
    write_files(ms_cache / f"models/{model_id('3d')}", *MODEL[:-1])
    with pytest.raises(AssetError, match="STYLEKIT_OFFLINE"):
        assets.modelscope_style("3d")
    assert mscache.find(ModelScopeDataset(model_id("3d")), ()) is None


def test_the_content_network_comes_from_that_cache_too_and_unasked(ms_cache: Path) -> None:
    write_files(ms_cache / f"models/{model_id('anime')}", "vgg19.npy")
    resolved = assets.resolve("content")
    assert (resolved.name, resolved.source) == ("vgg19-caffe", f"ms-cache:{model_id('anime')}/vgg19.npy")


def test_the_content_network_comes_from_a_style_that_was_brought(tmp_path: Path, ms_cache: Path) -> None:
    write_files(ms_cache / f"models/{model_id('sketch')}", "vgg19.npy", "detector.pb")
    assert assets.find_in_styles("vgg19.npy") == (ms_cache / f"models/{model_id('sketch')}", f"ms-cache:{model_id('sketch')}")
    own = write_files(tmp_path / "mine", *MODEL, "vgg19.npy")
    assets.add("modelscope-style", own, "modelscope-3d")
    shutil.rmtree(own)
    found = assets.find_in_styles("vgg19.npy", "keypoints.pb")
    assert found == (assets.modelscope_style("3d").path, "user:mine")
    assert assets.find_in_styles("vgg19.npy", "nothing") is None
    resolved = assets.resolve("content")
    assert (resolved.name, resolved.source) == ("vgg19-caffe", "user:mine/vgg19.npy")
    assert resolved.path.read_bytes() == b"vgg19.npy"
    (found[0] / "vgg19.npy").unlink()
    assert assets.find_in_styles("keypoints.pb") is None, "a damaged style counts as missing"


def test_another_models_file_is_not_taken_from_a_style(ms_cache: Path, tmp_path: Path) -> None:
    assets.add("modelscope-style", write_files(tmp_path / "mine", *MODEL, "a.bin"), "modelscope-3d")
    part = catalogue.Part(ModelScopeFile("me/net", "a.bin"), (("", "a.bin"),))
    own = replace(catalogue.CATALOGUE["vgg19-caffe"], name="own", parts=(part,))
    with pytest.raises(AssetError, match="STYLEKIT_OFFLINE"):
        store._obtain(part.source, own, tmp_path / "fetched")


@pytest.mark.parametrize(
    ("text", "names"),
    [("modelscope:3d", True), (model_id("3d"), True), (model_id("3d", "iic"), True), ("3d", False), ("runs/damo/3d", False)],
)
def test_what_names_a_style_is_told_from_a_file(text: str, names: bool) -> None:
    assert assets.names_style(text) == names


DATASET = "menyifang/dctnet_train_clipart_mini_ms"


def test_a_data_set_is_remembered_under_its_name(tmp_path: Path) -> None:
    own = write_files(
        tmp_path / "mini", "README.md", "train/face_photo/a.jpg", "train/face_cartoon/b.jpg", "test/face_photo/c.jpg"
    )
    assert assets.dataset_folder(DATASET) is None
    added = assets.add("dataset", own, f"ms:{DATASET}")
    shutil.rmtree(own)
    folder = assets.dataset_folder(DATASET)
    assert folder == added.path / "train"
    assert (folder / "face_cartoon/b.jpg").is_file()
    assert [s.name for s in assets.statuses()][-1] == f"ms:{DATASET}"
    assert assets.remove(f"ms:{DATASET}")
    assert assets.dataset_folder(DATASET) is None
    assert f"ms:{DATASET}" not in [s.name for s in assets.statuses()]


def test_a_damaged_data_set_counts_as_missing(tmp_path: Path) -> None:
    assets.add("dataset", write_files(tmp_path / "mini", "face_photo/a.jpg", "face_cartoon/b.jpg"), f"ms:{DATASET}")
    folder = assets.dataset_folder(DATASET)
    assert folder is not None
    (folder / "face_photo/a.jpg").unlink()
    assert assets.dataset_folder(DATASET) is None


def test_archives_in_a_data_set_are_unpacked(tmp_path: Path) -> None:
    write_files(tmp_path / "packed", "face_photo/a.jpg", "face_cartoon/b.jpg", "__MACOSX/face_photo/._a.jpg")
    shutil.make_archive(str(write_files(tmp_path / "mini", "meta.json") / "train"), "zip", tmp_path, "packed")
    assets.add("dataset", tmp_path / "mini", f"ms:{DATASET}")
    folder = assets.dataset_folder(DATASET)
    assert folder is not None
    assert sorted(child.name for child in folder.iterdir()) == ["face_cartoon", "face_photo"]
    assert not list(folder.parent.rglob("*.zip"))


def test_a_data_set_of_another_layout_is_refused_and_not_kept(tmp_path: Path) -> None:
    own = write_files(tmp_path / "mini", "README.md", "images/a.jpg")
    with pytest.raises(
        DataError, match=r"mini holds README\.md, images/, but not face_photo/ and face_cartoon/ or trainA/ and trainB/"
    ):
        assets.add("dataset", own, f"ms:{DATASET}")
    assert assets.dataset_folder(DATASET) is None


@pytest.mark.parametrize("name", ["ms:", "ms:mini", "ms:a/b/c", "ms:../../etc", "ms:a/..", "ms:a/b c"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ms:NAMESPACE/NAME"):
        assets.add("dataset", tmp_path, name)


@pytest.mark.parametrize(
    ("files", "photos"),
    [
        (("face_photo/a", "face_cartoon/b"), "face_photo"),
        (("x/trainA/a", "x/trainB/b", "x/testA/c", "x/testB/d"), "x/trainA"),
        (("d/train/face_photo/a", "d/train/face_cartoon/b", "d/val/face_photo/a", "d/val/face_cartoon/b"), "d/train/face_photo"),
        ((".git/face_photo/a", ".git/face_cartoon/b", "y/face_photo/a", "y/face_cartoon/b"), "y/face_photo"),
    ],
)
def test_pairs_of_folders_are_found(tmp_path: Path, files: tuple[str, ...], photos: str) -> None:
    assert assets.find_pair(write_files(tmp_path / "set", *files)).photos == tmp_path / "set" / photos


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            ("a/face_photo/1", "a/face_cartoon/1", "b/trainA/1", "b/trainB/1"),
            "several sets of photographs: a/face_photo, b/trainA",
        ),
        (("face_photo/1", "trainB/1"), "holds face_photo/, trainB/, but not"),
        (("w/x/y/face_photo/1", "w/x/y/face_cartoon/1"), "holds w/, but not"),
        (tuple(f"{n:02}.txt" for n in range(11)), "06.txt, 07.txt and 3 more, but not"),
    ],
)
def test_other_layouts_are_refused_with_what_is_there(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        assets.find_pair(write_files(tmp_path / "set", *files))
