import pytest

from stylekit.config.schema import CONTENT_LAYERS, TrainRecipe
from stylekit.errors import RecipeError
from stylekit.methods.base import create_method, method_names
from stylekit.nn.efficientnet import EfficientNetLite0
from stylekit.nn.vgg import VGG16_HED_MEAN_BGR, VGG19_MEAN_BGR, Vgg


def test_the_recipe_knows_every_registered_method_and_no_other():
    allowed = TrainRecipe.model_json_schema()["properties"]["method"]["enum"]
    assert tuple(allowed) == method_names()
    for name in method_names():
        assert create_method(name) is not create_method(name)
    with pytest.raises(RecipeError, match="no method 'dctnt'"):
        create_method("dctnt")


def test_the_recipe_knows_every_layer_of_the_content_networks_and_no_other():
    assert tuple(Vgg(19, VGG19_MEAN_BGR, last="conv5_4").order) == CONTENT_LAYERS["vgg19-caffe"]
    assert tuple(Vgg(16, VGG16_HED_MEAN_BGR, last="conv5_3").order) == CONTENT_LAYERS["vgg16-hed"]
    blocks = len(EfficientNetLite0().blocks)
    assert tuple(f"block{index}" for index in range(blocks)) == CONTENT_LAYERS["efficientnet-lite0"]
