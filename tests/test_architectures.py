"""Names and parameters of other libraries' networks, as they are known without TensorFlow."""

import dataclasses
import subprocess
import sys

import pytest

from la_tf.architectures import PREFIXES, Architecture, parse
from la_tf.config import ConfigError, NetworkConfig
from la_tf.recipes import config_of


def test_a_name_and_its_parameters():
    assert parse("keras:MobileNetV3Small") == Architecture("keras", "MobileNetV3Small", {})
    text = "keras:MobileNetV3Small,alpha=.5,minimalistic=True"
    assert parse(text).parameters == {"alpha": 0.5, "minimalistic": True}
    text = "garden:resnet,model_id=26,stem_type=v1,activation=swish"
    parameters = {"model_id": 26, "stem_type": "v1", "activation": "swish"}
    assert parse(text) == Architecture("garden", "resnet", parameters)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keras:MobilenetV2", "is no network of tf.keras.applications .* choose .*MobileNetV2"),
        ("keras:", "docs/networks.md lists them"),
        ("garden:nothing", "choose mobilenet or efficientnet or mobiledet or resnet"),
        ("garden:vit", "has patches of one size"),
        ("garden:revnet", "has gradients of its own"),
        ("keras:NASNetMobile", "read two maps at a time"),
        ("keras:MobileNetV2,alfa=1", "has no parameter 'alfa': MobileNetV2 takes alpha"),
        ("keras:ResNet50,alpha=1", "has no parameter 'alpha': ResNet50 takes none"),
        ("keras:EfficientNetB0,drop_connect_rate=0.2", "has no parameter 'drop_connect_rate'"),
        ("keras:MobileNetV2,alpha", "needs alpha from 0.05 to 8"),
        ("keras:MobileNetV2,alpha=nan", "from 0.05 to 8"),
        ("keras:MobileNetV2,alpha=1,alpha=1", "gives alpha twice"),
        ("keras:MobileNetV3Small,minimalistic=1", "True, False"),
        ("garden:resnet,model_id=38", "of 10, 18, 26, 34, 50"),
    ],
)
def test_what_there_is_not_is_one_sentence_about_the_option(text, words):
    with pytest.raises(ConfigError, match=f"--network={text} .*({words})[^\n]*[.]$"):
        config_of({"network": text})


def test_the_option_takes_them_beside_its_choices():
    (field,) = [f for f in dataclasses.fields(NetworkConfig) if f.name == "network"]
    assert field.metadata["prefixes"] == PREFIXES
    text = "garden:mobilenet,model_id=MobileNetV2"
    assert config_of({"network": text}).network.network == text
    with pytest.raises(ConfigError, match=r"one of alexnet, .*, garden:NAME, keras:NAME"):
        config_of({"network": "MobileNetV2"})


def test_a_wrong_name_needs_no_tensorflow_to_be_refused():
    code = """
import sys
from la_tf.recipes import config_of
try:
    config_of({"network": "keras:MobilNetV2"})
except ValueError as error:
    print(error, "tensorflow" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "MobileNetV2" in output and output.endswith("False\n")
