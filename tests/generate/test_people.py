"""Who is in the pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit import assets
from stylekit.errors import AssetError, GenerationError
from stylekit.generate.people import describe, people, traits
from stylekit.generate.prompts import Prompts

BALANCED = {
    "age": ("young", "middle-aged", "elderly"),
    "skin": ("very fair", "fair", "olive", "tan", "brown", "dark brown", "deep dark"),
    "expression": ("smiling", "laughing", "calm", "serious", "surprised"),
    "lighting": ("soft light", "daylight", "warm light", "light from the left", "light from the right"),
    "pose": (
        "facing forward",
        "looking at the viewer",
        "head turned slightly to the left",
        "head turned slightly to the right",
        "head tilted",
    ),
}
seeds = st.integers(0, 2**31 - 1)
runs = st.tuples(st.integers(0, 10_000), st.integers(1, 60)).map(lambda run: range(run[0], run[0] + run[1]))


def test_people_are_the_same_on_every_machine():
    assert [describe(0, 0), describe(7, 5)] == [
        "an elderly man with very fair skin, medium-length straight silver hair, glasses and stubble, calm, "
        "looking at the viewer, soft light",
        "a middle-aged man with olive skin, a bald head and stubble, surprised, facing forward, light from the left",
    ]


@settings(deadline=None, max_examples=60)
@given(seeds, runs)
def test_every_trait_is_balanced_in_any_run(seed: int, run: range):
    said = [traits(seed, index) for index in run]
    for name, values in BALANCED.items():
        counts = Counter(person[name] for person in said)
        assert counts.keys() <= set(values)
        assert all(abs(counts[value] - len(run) / len(values)) < 2 for value in values), name
    gender = Counter(person.get("gender", "person") for person in said)
    shares = {"woman": 3 / 7, "man": 3 / 7, "person": 1 / 7}
    assert all(abs(gender[value] - share * len(run)) < 4 for value, share in shares.items())
    assert abs(sum("glasses" in person for person in said) - len(run) / 4) < 2


@settings(deadline=None, max_examples=60)
@given(seeds, runs)
def test_beards_are_balanced_among_men_and_hair_among_those_of_one_age(seed: int, run: range):
    said = [traits(seed, index) for index in run]
    assert all(person.get("gender") == "man" for person in said if "beard" in person)
    men = [person for person in said if person.get("gender") == "man"]
    counts = Counter(person.get("beard", "") for person in men)
    assert abs(counts[""] - len(men) / 3) < 4
    for beard in ("a short beard", "a full beard", "a moustache", "stubble"):
        assert abs(counts[beard] - len(men) / 6) < 2
    assert abs(sum(person["hair"] == "bald" for person in men) - len(men) / 5) < 2
    old = [person["hair"] for person in said if person["age"] == "elderly" and person["hair"] != "bald"]
    assert all(hair.endswith(("white", "grey", "silver")) for hair in old)


@given(seeds, st.integers(0, 10_000))
def test_a_description_says_its_traits_and_no_more_than_a_text_encoder_reads(seed: int, index: int):
    text = describe(seed, index)
    for name, value in traits(seed, index).items():
        assert (name if name == "glasses" else value) in text
    assert ("glasses" in text) == ("glasses" in traits(seed, index))
    # CLIP reads 75 tokens, and the words here are one token each or two, as is each comma and hyphen.
    assert 1.3 * len(text.replace(",", " ,").replace("-", " - ").split()) + 15 < 75


def test_many_people_are_hardly_ever_the_same():
    assert len({describe(3, index) for index in range(1000)}) > 990


def test_a_list_names_one_a_line_and_goes_round(tmp_path: Path):
    file = tmp_path / "crew.txt"
    file.write_bytes("\ufeff# the crew\n\n  Ada Lovelace \r\nÉmilie du Châtelet\n   \n#nobody\n".encode())
    crew = people(str(file), 3)
    assert [crew.describe(index) for index in range(3)] == ["Ada Lovelace", "Émilie du Châtelet", "Ada Lovelace"]
    assert crew.traits(0) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read: No such file"), (b"", "names nobody"), (b"#x\n\n", "names nobody"), (b"\xff", "UTF-8")],
)
def test_a_list_that_names_nobody_is_refused(tmp_path: Path, content: bytes | None, said: str):
    file = tmp_path / "crew.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(GenerationError, match=said) as caught:
        people(str(file), 0)
    assert "--people takes" in caught.value.hint
    assert Prompts("a cat", str(file), 0).text(0) == "a cat"


@pytest.mark.usefixtures("empty_home")
def test_celebrities_are_those_the_user_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    with pytest.raises(AssetError, match="STYLEKIT_OFFLINE") as caught:
        people("celebrities", 0)
    assert "stylekit assets add celebrities FILE" in caught.value.hint
    (tmp_path / "mine.txt").write_text("Ada Lovelace\n")
    assets.add("celebrities", tmp_path / "mine.txt")
    assert people("celebrities", 0).describe(7) == "Ada Lovelace"
    assert Prompts("sks style, a painting of a {person}, no text", "celebrities", 0).text(0) == (
        "sks style, a painting of a Ada Lovelace, no text"  # as the model card's own recipe has it
    )


@pytest.mark.usefixtures("empty_home")
def test_celebrities_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    class Answer:
        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self) -> bytes:
            return "Émilie du Châtelet\n".encode()

    def urlopen(url: str, timeout: float) -> Answer:
        asked.append(url)
        return Answer()

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert [people("celebrities", 0).describe(0) for _ in range(2)] == ["Émilie du Châtelet"] * 2
    assert len(asked) == 1
    assert asked[0].endswith("/menyifang/DCT-Net/a9ccb3d0c97d5da0bcaf81d0823a8670d4dd0663/celeb.txt")
