from __future__ import annotations

from importlib.metadata import entry_points

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from harness.api import Backbone
from harness.engine.weights import load_weights
from harness_efficientnet_lite import EfficientNetLite0, EfficientNetLite1, EfficientNetLite2

MONASTERY, PALACE = 663, 698
VARIANTS = [EfficientNetLite0, EfficientNetLite1, EfficientNetLite2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pretrained_weights_recognise_a_photograph(variant: type[Backbone]) -> None:
    backbone = variant()
    module = backbone.architecture(auxiliary=False)
    record = load_weights(module, backbone, "efficientnet_lite", "imagenet", print)
    assert record.kind == "pretrained"
    assert record.sha256 == variant.sha256
    size = backbone.input_size
    photograph = np.array(Image.fromarray(load_sample_image("china.jpg")).resize((size, size)))
    image = torch.from_numpy(photograph).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    with torch.inference_mode():
        best = module.eval()((image - mean) / std)[0].topk(3).indices.tolist()
    assert {MONASTERY, PALACE} & set(best), "the picture shows the Summer Palace"


def test_a_checkpoint_in_timms_own_names_is_taken_as_it_is() -> None:
    backbone = EfficientNetLite0()
    module = backbone.architecture(auxiliary=False)
    state = module.state_dict()
    assert backbone.adapt_state_dict(state, module) is state


def test_a_checkpoint_of_another_network_is_refused() -> None:
    backbone = EfficientNetLite0()
    with pytest.raises(ValueError, match="zip"):
        backbone.adapt_state_dict({"weight": torch.zeros(1)}, backbone.architecture(auxiliary=False))


def test_entry_points() -> None:
    names = {
        point.name
        for point in entry_points(group="harness.backbones")
        if point.dist.name == "harness-efficientnet-lite"
    }
    assert names == {"efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"}
