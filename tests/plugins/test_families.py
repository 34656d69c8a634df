"""timm's and torchvision's networks as backbones."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch

from harness import registry
from harness.api import Backbone, Family
from harness.engine.model import build
from harness.errors import PluginNotFoundError
from harness.testing.conformance import check_backbone
from harness_plugins.backbones.torchvision import DenseNet121, InceptionV3
from support import Harness

# of every kind of network that both libraries have
DIVERSE = """
torchvision:alexnet torchvision:convnext_tiny torchvision:densenet169 torchvision:efficientnet_b0
torchvision:efficientnet_v2_s torchvision:googlenet torchvision:inception_v3 torchvision:maxvit_t
torchvision:mnasnet0_5 torchvision:mobilenet_v2 torchvision:mobilenet_v3_small torchvision:regnet_y_400mf
torchvision:resnet34 torchvision:resnext50_32x4d torchvision:shufflenet_v2_x0_5 torchvision:squeezenet1_1
torchvision:swin_t torchvision:swin_v2_t torchvision:vgg11_bn torchvision:vit_b_32 torchvision:wide_resnet50_2
timm:beit_base_patch16_224 timm:caformer_s18 timm:cait_xxs24_224 timm:coat_lite_tiny timm:convmixer_768_32
timm:convnextv2_atto timm:cspresnet50 timm:deit_tiny_patch16_224 timm:dla34 timm:dpn68
timm:edgenext_xx_small timm:efficientnet_lite0 timm:fbnetc_100 timm:gernet_s timm:ghostnet_100
timm:gmixer_24_224 timm:hardcorenas_a timm:hrnet_w18_small timm:lcnet_050 timm:mixer_b32_224
timm:mixnet_s timm:mobilenetv4_conv_small timm:mobilevit_xxs timm:nf_resnet50 timm:nfnet_l0 timm:pit_ti_224
timm:poolformer_s12 timm:pvt_v2_b0 timm:repvgg_a0 timm:res2net50_14w_8s timm:resnest14d timm:resnet18 timm:rexnet_100
timm:selecsls42b timm:seresnet18 timm:skresnet18 timm:swin_tiny_patch4_window7_224 timm:tf_efficientnet_lite0
timm:tinynet_e timm:tnt_s_patch16_224 timm:twins_svt_small timm:vit_tiny_patch16_224 timm:vovnet39a
timm:xcit_nano_12_p16_224 timm:xception41
""".split()  # noqa: SIM905


def _backbone(name: str) -> Backbone:
    return registry.load(registry.find("backbone", name), Backbone)


@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_each_name_of_a_family_says_what_harness_needs(family: str) -> None:
    loaded = registry.load(registry.find("family", family), Family)
    usable, refused = 0, []
    for name in loaded.names():
        try:
            backbone = loaded.backbone(name)
        except PluginNotFoundError as error:
            refused.append(str(error))
            continue
        usable += 1
        assert backbone.input_size >= 32
        assert 0 < backbone.crop_pct <= 1
        for published in backbone.pretrained().values():
            assert re.fullmatch("[0-9a-f]{8,}", published.sha256), name
            assert published.sha256 in published.filename
    assert usable >= {"timm": 1100, "torchvision": 80}[family]
    reasons = ("no single head", "looks at", "no settings", "no head to replace")
    assert all(any(reason in said for reason in reasons) for said in refused), refused


def test_a_member_is_recorded_under_its_familys_distribution() -> None:
    plugin = registry.find_any("timm:resnet18")
    assert vars(plugin.record) == {
        "kind": "backbone",
        "name": "timm:resnet18",
        "distribution": "transfer-harness",
        "version": plugin.version,
    }


def test_metadata_is_the_librarys_own() -> None:
    vit = _backbone("timm:vit_tiny_patch16_224")
    assert (vit.mean, vit.std, vit.head, vit.crop_pct) == ((0.5,) * 3, (0.5,) * 3, "head", 0.9)
    inception = _backbone("torchvision:inception_v3")
    assert (inception.input_size, inception.crop_pct) == (299, pytest.approx(299 / 342))
    assert _backbone("torchvision:efficientnet_b2").crop_pct == 1.0
    assert _backbone("torchvision:squeezenet1_1").head == "classifier.1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm:resnet81",
            r"timm has no network called 'resnet81'. Did you mean .*`harness plugins --family timm` lists",
        ),
        ("torchvision:resnet81", "torchvision has no network called 'resnet81'. Did you mean"),
        ("timm:deit_tiny_distilled_patch16_224", "no single head"),
    ],
)
def test_a_name_that_cannot_be_had_says_why(name: str, message: str) -> None:
    with pytest.raises(PluginNotFoundError, match=message):
        _backbone(name)


def test_there_is_no_such_family() -> None:
    with pytest.raises(PluginNotFoundError, match=r"no family plugin is called 'keras'. Available: timm, torchvision"):
        registry.find_any("keras:resnet50")


def test_densenets_weights_have_the_names_of_their_time() -> None:
    backbone = DenseNet121()
    module = backbone.architecture(auxiliary=False)
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in module.state_dict().items()
    }
    assert old.keys() != module.state_dict().keys()
    module.load_state_dict(backbone.adapt_state_dict(old, module))


def test_inceptions_auxiliary_head_is_there_when_asked_for() -> None:
    backbone = InceptionV3()
    whole = backbone.architecture(auxiliary=True).state_dict()
    plain = backbone.architecture(auxiliary=False)
    plain.load_state_dict(backbone.adapt_state_dict(whole, plain))
    module, _ = build(backbone, "inception_v3", weights="random", classes=2, auxiliary=True, seed=0, note=print)
    logits, (auxiliary,) = backbone.logits(module.train()(torch.randn(2, 3, 299, 299)))
    assert logits.shape == auxiliary.shape == (2, 2)


@pytest.mark.slow
def test_members_run_beside_each_other_and_short_names(harness: Harness) -> None:
    names = "timm:tf_efficientnet_lite0,torchvision:squeezenet1_1,densenet121"
    done = harness(
        "run", "--plugins", names, "--weights", "random", "--data", "phantom", "--set", "data.train=16",
        "--set", "data.val=8", "--set", "data.test=8", "--stages", "frozen", "--set", "frozen.epochs=1",
        "--no-latency", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [run["backbone"] for run in found["runs"]] == names.split(",")
    assert all(run["status"] == "completed" for run in found["runs"])
    pages = harness("report", "--out", "pages")
    assert pages.returncode == 0, pages.stderr


def test_names_are_listed(harness: Harness) -> None:
    done = harness("plugins", "--family", "torchvision")
    assert done.returncode == 0
    assert "torchvision:squeezenet1_1" in done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", DIVERSE)
def test_diverse_networks_conform(name: str) -> None:
    """HARNESS_SAMPLE=N takes every Nth of them."""
    if DIVERSE.index(name) % int(os.environ.get("HARNESS_SAMPLE", "1")):
        pytest.skip("HARNESS_SAMPLE leaves it out")
    failed = [result for result in check_backbone(_backbone(name)) if not result.passed]
    assert failed == []


def test_the_same_seed_gives_the_same_head_however_it_is_found() -> None:
    family = registry.load(registry.find("family", "torchvision"), Family)
    first = family.backbone("squeezenet1_1")  # which looks for its head while the network is built
    built = [
        build(first, "x", weights="random", classes=2, auxiliary=False, seed=0, note=print)[0].state_dict()
        for _ in range(2)
    ]
    head = f"{first.head}.weight"
    assert torch.equal(built[0][head], built[1][head])
