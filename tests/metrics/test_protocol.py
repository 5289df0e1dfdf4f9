import pytest

from stylekit.config.schema import EvalRecipe
from stylekit.data.manifest import ManifestLine, write_manifest
from stylekit.data.split import split_by_person
from stylekit.errors import DataError, TooFewError, UsageError
from stylekit.metrics.protocol import deviations, load_protocol, protocol_names, read_cartoons, read_photographs


def line(name, person=None, split=None, **changes):
    values = {"asset": "starter-photos", "template": "dctnet", "crop_size": 256, "face_index": 0, "status": "used"} | changes
    return ManifestLine(file=f"cropped/{name}.png", input=name, input_sha256=f"sha-{name}", person=person, split=split, **values)


def photographs(folder, lines):
    write_manifest(folder / "manifest.jsonl", lines)
    return read_photographs(folder)


HELD_OUT = [line(f"e{i}", f"p{i % 3}", "eval") for i in range(5)]
TRAINED_ON = [line(f"t{i}", f"q{i}", "train") for i in range(4)]


def test_photographs_are_divided_and_rejected_ones_left_out(tmp_path):
    rejected = line("r", None, None, status="rejected", reasons=["blurred"])
    trained_on, held_out = photographs(tmp_path, [*HELD_OUT, rejected, *TRAINED_ON])
    assert [each.input for each in held_out.lines] == ["e0", "e1", "e2", "e3", "e4"]
    assert [each.input for each in trained_on.lines] == ["t0", "t1", "t2", "t3"]


def test_a_person_in_both_splits_is_an_error_that_names_them(tmp_path):
    with pytest.raises(DataError, match="has p2 both among the held-out photographs and those trained on") as refused:
        photographs(tmp_path, [*HELD_OUT, *TRAINED_ON, line("again", "p2", "train")])
    assert not isinstance(refused.value, TooFewError)


def test_a_person_in_both_splits_is_found_where_training_is_not_spelled_out(tmp_path):
    with pytest.raises(DataError, match="has p1 both"):
        photographs(tmp_path, [*HELD_OUT, *TRAINED_ON, line("again", "p1", None)])


def test_a_picture_in_both_splits_under_two_persons_names_is_an_error(tmp_path):
    twin = TRAINED_ON[0].model_copy(update={"input_sha256": "sha-e3"})
    with pytest.raises(DataError, match="has the picture e3 both held out and trained on"):
        photographs(tmp_path, [*HELD_OUT, *TRAINED_ON, twin])


def test_pictures_of_nobody_known_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not say who is in cropped/x\.png"):
        photographs(tmp_path, [*HELD_OUT, *TRAINED_ON, line("x", None, "train")])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (HELD_OUT[:3] + TRAINED_ON, "holds out 3 photographs of 3 persons"),
        ([line(f"e{i}", "same", "eval") for i in range(6)] + TRAINED_ON, "holds out 6 photographs of 1 persons"),
        (TRAINED_ON, "holds out 0 photographs"),
        (HELD_OUT, "holds out every photograph"),
        ([], "holds out 0 photographs"),
    ],
)
def test_too_few_photographs_are_refused(tmp_path, lines, message):
    with pytest.raises(TooFewError, match=message):
        photographs(tmp_path, lines)


def test_missing_and_small_sets_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"There is no .*Run: stylekit align"):
        read_photographs(tmp_path)
    with pytest.raises(DataError, match=r"There is no .*Run: stylekit gen-data"):
        read_cartoons(tmp_path)
    write_manifest(tmp_path / "manifest.jsonl", TRAINED_ON[:3])
    with pytest.raises(TooFewError, match="has 3 usable cartoons"):
        read_cartoons(tmp_path)


def test_digest_says_which_pictures_whatever_their_order(tmp_path):
    _, first = photographs(tmp_path, [*HELD_OUT, *TRAINED_ON])
    _, turned = photographs(tmp_path, [*TRAINED_ON, *HELD_OUT[::-1]])
    _, fewer = photographs(tmp_path, [*TRAINED_ON, *HELD_OUT[:-1]])
    assert first.digest == turned.digest != fewer.digest
    assert first.manifest_sha256 != turned.manifest_sha256


def found_deviations(folder, photo_changes=None, cartoon_changes=None, settings=None, extractors=()):
    protocol = load_protocol("starter-v1")
    sides = split_by_person([f"p{i}" for i in range(20)], protocol.eval_fraction, protocol.split_seed)
    photos = [line(f"{person}", person, side, **(photo_changes or {})) for person, side in sides.items()]
    trained_on, held_out = photographs(folder, photos)
    write_manifest(folder / "manifest.jsonl", [line(f"c{i}", asset=None, **(cartoon_changes or {})) for i in range(4)])
    sets = {"trained_on": trained_on, "held_out": held_out, "cartoons": read_cartoons(folder)}
    return deviations(protocol, settings or EvalRecipe(), extractors=extractors or protocol.extractors, **sets)


def test_default_settings_keep_the_starter_protocol(tmp_path):
    assert protocol_names() == ["starter-v1"]
    assert found_deviations(tmp_path) == []


def test_every_deviation_is_named(tmp_path):
    assert found_deviations(tmp_path, {"asset": None}) == ["photographs: None instead of starter-photos"]
    assert found_deviations(tmp_path, cartoon_changes={"template": "ffhq"}) == ["template: dctnet, ffhq instead of dctnet"]
    assert found_deviations(tmp_path, {"crop_size": 128}) == ["crop_size: 128, 256 instead of 256"]
    assert found_deviations(tmp_path, settings=EvalRecipe(subsets=7)) == ["subsets: 7 instead of 100"]
    one, other = load_protocol("starter-v1").extractors
    assert found_deviations(tmp_path, extractors=[other, one]) == []
    assert found_deviations(tmp_path, extractors=[one]) == [f"extractors: {one} instead of {other}, {one}"]
    assert found_deviations(tmp_path, extractors=[other, "vgg16-hed@299"]) == [
        f"extractors: {other}, vgg16-hed@299 instead of {other}, {one}"
    ]


def test_another_split_deviates(tmp_path):
    trained_on, held_out = photographs(tmp_path, [*HELD_OUT, *TRAINED_ON])
    protocol = load_protocol("starter-v1")
    found = deviations(
        protocol,
        EvalRecipe(),
        extractors=protocol.extractors,
        trained_on=trained_on,
        held_out=held_out,
        cartoons=trained_on,
    )
    assert found == ["split: other persons than eval_fraction 0.2 and seed 0 hold out"]


def test_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'paper'.*starter-v1"):
        load_protocol("paper")
