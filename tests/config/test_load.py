"""Recipes: read strictly, explained in a sentence, written back to equal themselves."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.config.explain import known_keys
from stylekit.config.load import (
    STUDENT_CHANGES,
    built_in_recipes,
    copy_recipe,
    dump_recipe,
    find_recipe,
    list_recipes,
    load_recipe,
    parse_recipe,
    save_recipe,
    set_key,
    set_keys,
    style_recipe,
)
from stylekit.config.schema import GenerateRecipe, NetworkRecipe, Recipe, TrainRecipe
from stylekit.errors import RecipeError, UsageError
from stylekit.generate.known import find
from stylekit.paths import Workspace

BUILT_IN = sorted(built_in_recipes().glob("*.yaml"))
STYLES = (
    "3d",
    "american-cartoon",
    "anime",
    "archer-style",
    "art-style",
    "design",
    "flat",
    "hand-drawn",
    "illustration",
    "ink-wash",
    "sketch",
    "watercolor",
)


def test_the_count_of_built_in_recipes() -> None:
    assert [path.stem for path in BUILT_IN] == sorted([*STYLES, "demo"])


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
def test_built_in_recipe_is_sound_opens_with_its_commands_and_round_trips(path: Path) -> None:
    recipe = load_recipe(path)
    assert f"stylekit run recipes/{path.name}" in path.read_text("utf-8").partition("\nstyle:")[0]
    assert recipe.description
    assert parse_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("name", STYLES)
def test_a_style_says_what_is_painted_and_leaves_the_rest_to_the_defaults(name: str) -> None:
    text = (built_in_recipes() / f"{name}.yaml").read_text("utf-8")
    recipe, known = load_recipe(name), set(known_keys())
    generate = recipe.generate
    assert recipe.style == name
    assert "{person}" in (generate.prompt or "")
    assert (find(generate.model or "") is None) == ("/" in (generate.model or "")), "a known style, or an id of a hub"
    assert generate.engine != "modelscope" or find(generate.model or "") is not None
    assert generate.negative
    assert 0.5 <= recipe.stylize.strength <= 1
    assert "licence" in text.lower()
    assert f"{generate.count * generate.steps / 10 / 3600:.1f} hours at 10 steps a second" in text
    assert f"{round(recipe.train.max_steps / 5 / 3600)} hours at 5 steps a second" in text
    said = {f"{key}.{inner}" for key, value in yaml.safe_load(text).items() if isinstance(value, dict) for inner in value}
    assert {"generate.people", "generate.negative", "stylize.strength"} <= said <= known


def test_archer_is_the_full_size_path() -> None:
    recipe = load_recipe("archer-style")
    assert (recipe.generate.engine, recipe.generate.model) == ("diffusers", "clipart")
    assert "{person}" in (recipe.generate.prompt or "")
    assert (recipe.align.size, recipe.train.size, recipe.train.batch_size, recipe.train.max_steps) == (256, 256, 16, 300_000)


numbers = st.floats(1e-12, 1e6, allow_subnormal=False)
ODD = [
    "no",
    "2e-4",
    "1_0",
    "010",
    "~",
    "",
    "null",
    "a: b",
    "- x",
    "# c",
    "'",
    '"',
    "a\nb",
    "\x85",
    "a\u2028b",
    " a",
    "1:30",
    "2024-01-01",
    "<<",
    "=",
    "照片",
]
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(ODD)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    train = TrainRecipe(
        network=NetworkRecipe(width=draw(st.integers(4, 256))),
        learning_rate=draw(st.floats(1e-12, 0.99, allow_subnormal=False)),
        gradient_clip=draw(numbers),
        max_steps=draw(st.integers(1, 10**9)),
        mixed_precision=draw(st.sampled_from(["no", "fp16", "bf16"])),
    )
    generate = GenerateRecipe(
        prompt=draw(st.none() | words),
        negative=draw(words),
        guidance=draw(numbers),
        options=draw(
            st.dictionaries(words, words | st.integers() | st.booleans() | numbers | st.lists(words, max_size=3), max_size=3)
        ),
    )
    return Recipe(
        style="toon", description=draw(words), authors=tuple(draw(st.lists(words, max_size=3))), train=train, generate=generate
    )


@settings(max_examples=100, deadline=None)
@given(recipe=recipes())
def test_a_dumped_recipe_reads_back_equal(recipe: Recipe) -> None:
    assert parse_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("text", ODD)
def test_odd_text_survives_in_a_dumped_recipe(text: str) -> None:
    recipe = Recipe(style="toon", description=text, generate=GenerateRecipe(options={text: [text]}))
    assert parse_recipe(dump_recipe(recipe)) == recipe


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60) | st.text("abstyle:{}[],&*!|>-# \n\t'\"0.e", max_size=60))
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    with suppress(RecipeError):
        assert isinstance(parse_recipe(text), Recipe)


def test_every_described_key_carries_its_comment() -> None:
    text = dump_recipe(Recipe(style="toon"))
    for section in (Recipe, GenerateRecipe, TrainRecipe, NetworkRecipe):
        for name, field in section.model_fields.items():
            if field.description:
                comment, _, key = text.partition(f"# {field.description}\n")[2].partition(":")[0].rpartition(" ")
                assert key == name, (comment, name)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("train: {learning_rate: 2e-4}", "learning_rate", 2e-4),
        ("train: {mixed_precision: no}", "mixed_precision", "no"),
        ("train: {max_steps: 300_000}", "max_steps", 300_000),
    ],
)
def test_scalars_mean_what_they_look_like(line: str, key: str, value: object) -> None:
    assert getattr(parse_recipe(f"style: toon\n{line}").train, key) == value


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("train.max_step=3", "train.max_step is not a known key.", "Did you mean train.max_steps?"),
        ("max_steps=5", "max_steps is not a known key.", "Did you mean train.max_steps?"),
        ("max_stepz=5", "max_stepz is not a known key.", "Did you mean train.max_steps?"),
        ("align.sise=5", "align.sise is not a known key.", "Did you mean align.size?"),
        ("train.zzz.qqq=5", "train.zzz is not a known key.", "Known keys: method, engine"),
        ("train.size=20", "train.size is 20, but must be a whole number from 32 to 1024, a multiple of 8.", ""),
        ("train.size=abc", "train.size is 'abc', but must be a whole number from 32 to 1024", ""),
        ("train.batch_size=0", "train.batch_size is 0, but must be a whole number of at least 1.", ""),
        ("train.learning_rate=2", "train.learning_rate is 2, but must be a number above 0 and below 1.", ""),
        ("train.learning_rate=inf", "train.learning_rate is 'inf', but must be a number above 0", ""),
        ("photos.eval_fraction=1.5", "photos.eval_fraction is 1.5, but must be a number from 0.0 to 1.0.", ""),
        ("train.preset=upstrem", "train.preset is 'upstrem', but must be one of upstream, default.", "Did you mean upstream?"),
        (
            "train.method=templat",
            "train.method is 'templat', but must be one of dctnet, student, template.",
            "Did you mean template?",
        ),
        ("train.content.layers=[block2]", "train.content: layers go with a network, and auto names none.", "Set train.content"),
        ("train.content={network: vgg16-hed, layers: [conv5_4]}", "vgg16-hed has no layer conv5_4.", "Did you mean conv5_"),
        ("train.content={network: vgg19-caffe, layers: [x]}", "vgg19-caffe has no layer x.", "Its layers: conv1_1, conv1_2"),
        (
            "train.content={network: efficientnet-lite0, layers: [block4, blok2]}",
            "train.content: efficientnet-lite0 has no layer blok2.",
            "Did you mean block2?",
        ),
        ("export.formats=[onnx, tflite]", "export.formats[1] is 'tflite', but must be one of onnx", ""),
        ("train.augment.flip=maybe", "train.augment.flip is 'maybe', but must be true or false.", ""),
        ("train.augment.scale=[2, 1]", "train.augment: scale must be two positive numbers, the smaller first.", ""),
        ("train.augment.scale=[2]", "train.augment.scale has too few entries.", ""),
        ("train=3", "train is 3, but must be a section of keys.", ""),
        ("authors=Me", "authors is 'Me', but must be a list.", ""),
        ("generate.revision=5", "generate.revision is 5, but must be text (put it in quotes).", ""),
        ("generate.options.hair={a: {b: c}}", "generate.options.hair is {'a': {'b': 'c'}}, but must be", ""),
        ("style=My Style", "style is 'My Style', but must be lower-case letters and digits, joined by single hyphens.", ""),
        ("train.size=", "train.size is empty, but must be a whole number", ""),
        ("train.size", "is not of the form key=value.", "--set train.max_steps=1000"),
        ("train.size=[", "line 1:", ""),
    ],
)
def test_a_wrong_override_is_explained(override: str, message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("style: toon", [override])
    assert caught.value.message.startswith(f"--set {override}")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("way", ["train.preset=upstream", "train.engine=modelscope"])
@pytest.mark.parametrize("text", [dump_recipe(Recipe(style="toon")), "style: toon", "style: toon\ntrain: {warm_start: identity}"])
def test_upstream_takes_the_place_of_the_defaults_that_a_written_recipe_spells_out(way: str, text: str) -> None:
    train = parse_recipe(text, [way]).train
    assert (train.preset, train.warm_start, train.ema_half_life_images, train.superpixels) == ("upstream", "none", 0, "stylized")
    assert (train.augment.flip, train.augment.scale, train.augment.rotate_deg) == (False, (1, 1), 0)
    weights = {key: value for key, value in train.loss.model_dump().items() if value}
    assert weights == {"lambda_surface": 0.1, "lambda_texture": 0.1, "lambda_content": 200, "lambda_tv": 1e4}
    recipe = parse_recipe(text, [way])
    assert parse_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.preset=upstream", "train.superpixels=photo"], "train: preset upstream fixes superpixels."),
        (["train.preset=upstream", "train.gradient_clip=1"], "train: preset upstream fixes gradient_clip."),
        (
            ["train.loss.lambda_tv=3", "train.network.width=16", "train.engine=modelscope"],
            "train: preset upstream fixes network.width, loss.lambda_tv.",
        ),
        (["train.engine=modelscope", "train.mixed_precision=bf16"], "engine modelscope knows no mixed_precision bf16."),
        (["train.engine=modelscope", "train.method=template"], "engine modelscope knows no method template."),
        (["train.engine=modelscope", "train.content.network=vgg16-hed"], "engine modelscope knows no content.network vgg16-hed."),
        (
            ["train.engine=modelscope", "train.content={network: vgg19-caffe, layers: [conv3_4]}"],
            "engine modelscope knows no content.layers ['conv3_4'].",
        ),
        (["train.engine=modelscope", "train.share_fake=true"], "engine modelscope knows no share_fake True."),
        (["train.engine=modelscope", "train.cache_photo_features=true"], "engine modelscope knows no cache_photo_features True."),
        (["train.engine=modelscope", "train.low_vram=true"], "engine modelscope knows no low_vram True."),
        (["train.engine=modelscope", "train.compile=no"], "engine modelscope knows no compile no."),
        (["train.engine=modelscope", "train.allow_tf32=false"], "engine modelscope knows no allow_tf32 False."),
        (["train.preset=upstream", "train.size=20"], "train.size is 20, but must be a whole number from 32"),
    ],
)
def test_what_upstream_does_otherwise_is_refused_when_it_was_set_by_hand(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(dump_recipe(Recipe(style="toon")), overrides)
    assert message in caught.value.message


@pytest.mark.parametrize("text", ["style: toon", dump_recipe(Recipe(style="toon"))])
def test_shortcuts_go_with_preset_upstream_where_they_are_asked_for(text: str) -> None:
    upstream = parse_recipe(text, ["train.preset=upstream"]).train
    assert (upstream.shares_fake, upstream.cache_photo_features) == (False, False)
    assert parse_recipe(text).train.shares_fake
    asked = parse_recipe(text, ["train.preset=upstream", "train.share_fake=true", "train.cache_photo_features=true"])
    assert (asked.train.shares_fake, asked.train.cache_photo_features, asked.train.augment.scale) == (True, True, (1, 1))
    assert parse_recipe(dump_recipe(asked)) == asked
    assert not parse_recipe(text, ["train.share_fake=false"]).train.shares_fake


@pytest.mark.parametrize("turned", ["train.augment.scale=[0.9, 1]", "train.augment.rotate_deg=1"])
def test_photographs_that_are_zoomed_or_turned_have_no_features_to_keep(turned: str) -> None:
    still = ["train.augment.scale=[1, 1]", "train.augment.rotate_deg=0", "train.cache_photo_features=true"]
    assert parse_recipe("style: toon", still).train.augment.flip
    with pytest.raises(RecipeError, match="neither zoomed nor turned") as refused:
        parse_recipe("style: toon", [*still, turned])
    assert "leave train.cache_photo_features out" in refused.value.hint


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.superpixels=photo", 'Set train.superpixels to "off".'),
        ("train.warm_start_steps=5", "Set train.warm_start_steps to 0."),
        ("train.share_fake=true", "Set train.share_fake to null."),
        ("train.cache_photo_features=true", "Set train.cache_photo_features to false."),
    ],
)
def test_what_a_student_would_not_heed_is_refused(override: str, hint: str) -> None:
    student = "style: toon\ntrain: {method: student, student_of: run, augment: {scale: [1, 1], rotate_deg: 0}}"
    assert parse_recipe(student).train.superpixels == "off"
    assert parse_recipe(dump_recipe(parse_recipe(student))) == parse_recipe(student)
    with pytest.raises(RecipeError, match="method student knows no") as refused:
        parse_recipe(student, [override])
    assert hint in refused.value.hint
    mended = [override, *STUDENT_CHANGES, "train.student_of=run"]
    assert parse_recipe("style: toon\ntrain: {share_fake: false}", mended).train.method == "student"


def test_upstreams_trainer_takes_its_own_content_network() -> None:
    content = {"network": "vgg19-caffe", "layers": ["conv4_4"]}
    train = TrainRecipe.model_validate({"engine": "modelscope", "content": content})
    assert (train.preset, train.content.network) == ("upstream", "vgg19-caffe")
    assert TrainRecipe(preset="upstream") == TrainRecipe.model_validate({"preset": "upstream"})


def test_a_mistyped_key_in_a_file_names_file_path_and_what_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("style: toon\ntrain:\n  max_step: 5\n  size: 20\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    faults = sorted(str(caught.value).replace("Also wrong: ", "").replace("\n", " ").split(f"{path}: ")[1:])
    assert [fault.strip() for fault in faults] == [
        "train.max_step is not a known key. Did you mean train.max_steps?",
        "train.size is 20, but must be a whole number from 32 to 1024, a multiple of 8.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("style: a\nstyle: b", ", line 2: the key style stands here twice"),
        ("style: a\ntrain:\n  size: 64\n  size: 32", ", line 4: the key size stands here twice"),
        ("- a", "a recipe is a list of keys and values"),
        ("", "style is missing"),
        ("style: [", ", line 1:"),
        ("[a]: 1", ", line 1: a key must be a word"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("style: &x [*x]", "style is [[...]]"),
        ("style: " + "[" * 5000, "not YAML"),
    ],
)
def test_unsound_yaml_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, source="x.yaml")
    assert caught.value.message.startswith("x.yaml")
    assert message in caught.value.message


def test_a_recipe_that_is_not_utf8_or_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"style: \xff\xfe")
    with pytest.raises(RecipeError, match=r"x\.yaml cannot be read"):
        load_recipe(path)
    with pytest.raises(RecipeError, match="There is no recipe file"):
        load_recipe(tmp_path)


def test_overrides_split_at_the_first_equals_sign_and_later_ones_win() -> None:
    recipe = parse_recipe(
        "style: toon", ["generate.prompt=a=b", "train.size=64", "train.size=96", "train.augment.scale=[1, 1.5]"]
    )
    assert recipe.generate.prompt == "a=b"
    assert recipe.train.size == 96
    assert recipe.train.augment.scale == (1.0, 1.5)


def test_the_workspace_comes_before_the_built_in_recipes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert find_recipe("demo", workspace) == built_in_recipes() / "demo.yaml"
    workspace.recipes.mkdir()
    (workspace.recipes / "demo.yaml").write_text("style: mine")
    assert load_recipe("demo", workspace=workspace).style == "mine"


def test_unknown_recipes_are_answered_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"There is no recipe named archr-style\. Did you mean archer-style\?"):
        load_recipe("archr-style")
    with pytest.raises(RecipeError, match="To use the built-in recipe, say demo alone"):
        load_recipe(tmp_path / "demo.yaml")


def test_a_style_finds_its_recipe_by_file_by_content_or_gets_the_defaults(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert style_recipe("toon-head", ["train.size=64"], workspace) == load_recipe("demo", ["train.size=64"])
    assert style_recipe("my-own", ["seed=3"], workspace) == Recipe(style="my-own", seed=3)
    save_recipe(Recipe(style="toon-head", seed=9), workspace)
    assert style_recipe("toon-head", workspace=workspace).seed == 9


def test_copying_keeps_the_settings_but_not_what_is_said_of_the_pictures_and_never_replaces(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = copy_recipe("archer-style", "My Archer", workspace)
    assert path == tmp_path / "recipes" / "my-archer.yaml"
    source = load_recipe("archer-style")
    assert load_recipe(path) == source.model_copy(
        update={"style": "my-archer", "description": "", "licence": None, "authors": ()}
    )
    assert load_recipe(copy_recipe("archer-style", source.style, workspace)) == source
    mine = load_recipe(copy_recipe("demo", "mine", workspace, ["licence=MIT", "authors=[Me]"]))
    assert (mine.description, mine.licence, mine.authors) == ("", "MIT", ("Me",))
    assert copy_recipe("archer-style", "my-archer", workspace) == path
    with pytest.raises(UsageError, match="already there"):
        copy_recipe("demo", "my-archer", workspace)


def test_one_bad_recipe_is_listed_with_its_error_beside_the_good_ones(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    save_recipe(Recipe(style="good"), workspace)
    (workspace.recipes / "bad.yaml").write_text("stile: bad")
    entries = list_recipes(workspace)
    assert [(entry.name, entry.built_in, entry.recipe is None) for entry in entries] == [
        ("bad", False, True),
        ("good", False, False),
        *((path.stem, True, False) for path in BUILT_IN),
    ]
    assert "stile is not a known key" in entries[0].error or "style is missing" in entries[0].error


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("style: a # mine\n", "style: a # mine\n\nphotos:\n  source: 'x: y'\n"),
        ("style: a", "style: a\n\nphotos:\n  source: 'x: y'\n"),
        (
            "# whose\nphotos: # ours\n  eval_fraction: 0.2\n  # where\n  source: old\n\nstyle: a\n",
            "# whose\nphotos: # ours\n  eval_fraction: 0.2\n  # where\n  source: 'x: y'\n\nstyle: a\n",
        ),
        ("photos:\n  eval_fraction: 0.2\nstyle: a\n", "photos:\n  source: 'x: y'\n  eval_fraction: 0.2\nstyle: a\n"),
        (
            "generate:\n  model: b\nstyle: a\nphotos:\n  source: old",
            "generate:\n  model: b\nstyle: a\nphotos:\n  source: 'x: y'\n",
        ),
    ],
)
def test_one_key_is_set_and_the_rest_of_the_file_stays_as_it_was(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(before)
    set_ = set_key(path, "photos.source", "x: y")
    assert path.read_text() == after.replace("'", '"')
    assert set_ == load_recipe(path)
    assert set_.photos.source == "x: y"


def test_a_key_that_cannot_be_set_by_itself_is_left_to_the_user(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("style: a\nphotos: {source: old}\n")
    with pytest.raises(UsageError, match=r'Set in it by hand: photos\.source: "new"'):
        set_key(path, "photos.source", "new")
    assert path.read_text() == "style: a\nphotos: {source: old}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("style: a\n", 'seed: 5\nstyle: a\n\nphotos:\n  source: "new"\n\ngenerate:\n  lora: ["x", "y"]\n'),
        (
            "# mine\nstyle: a\nseed: 1  # one\nphotos:\n  # where\n  source: >\n    old\n",
            '# mine\nstyle: a\nseed: 5  # one\nphotos:\n  # where\n  source: "new"\n\ngenerate:\n  lora: ["x", "y"]\n',
        ),
        (
            "generate:\n    lora:\n        - z\n    count: 3\nphotos:\n    eval_fraction: 0.2\nseed: 2\nstyle: a\n",
            'generate:\n    lora: ["x", "y"]\n    count: 3\n'
            'photos:\n    source: "new"\n    eval_fraction: 0.2\nseed: 5\nstyle: a\n',
        ),
    ],
)
def test_keys_are_set_in_their_places_and_the_rest_stays(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(before)
    recipe = set_keys(path, {"seed": 5, "photos.source": "new", "generate.lora": ["x", "y"]})
    assert path.read_text() == after
    assert (recipe.seed, recipe.photos.source, recipe.generate.lora) == (5, "new", ("x", "y"))


def test_a_value_that_is_not_sound_is_not_set(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("style: a\n")
    with pytest.raises(RecipeError, match=r"photos\.eval_fraction"):
        set_key(path, "photos.eval_fraction", "much")
    assert path.read_text() == "style: a\n"


def test_a_key_of_the_same_name_in_another_section_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("train:\n  engine: torch\nstyle: a\ngenerate:\n  count: 3\nalign:\n  size: 128\n")
    set_key(path, "generate.engine", "dicebear")
    set_key(path, "generate.model", "micah")
    assert path.read_text() == (
        'train:\n  engine: torch\nstyle: a\ngenerate:\n  model: "micah"\n  engine: "dicebear"\n  count: 3\nalign:\n  size: 128\n'
    )
    path.write_text("style: a\ngenerate:\n  count: 3\ntrain:\n  engine: torch\n")
    set_key(path, "generate.engine", "dicebear")
    assert path.read_text() == 'style: a\ngenerate:\n  engine: "dicebear"\n  count: 3\ntrain:\n  engine: torch\n'
