"""The stages of every architecture are complete, disjoint and in order."""

import pytest
import torch
from torch import nn

import lit_cv.nn
from lit_cv.nn import BackboneStage, backbone_stages, create_backbone, find_stage
from tests.marks import first_quick


def stages_of(name):
    with torch.device("meta"):
        body = create_backbone(name).body
    return body, backbone_stages(body)


RESNET = ["stem", "layer1", "layer2", "layer3", "layer4"]
CONVNEXT = ["stem", "features.1", "features.3", "features.5", "features.7"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", RESNET),
        ("resnext50_32x4d", RESNET),
        ("convnext_tiny", CONVNEXT),
        ("swin_t", CONVNEXT),
        ("conv4", [f"blocks.{i}" for i in range(4)]),
        ("resnet9_small", ["stem", *(f"stages.{i}" for i in range(5))]),
        ("efficientnet_b0", ["stem", *(f"features.{i}" for i in range(1, 9))]),
        ("mobilenet_v3_small", ["stem", *(f"features.{i}" for i in range(1, 13)), "classifier"]),
        ("densenet121", ["stem", *(f"denseblock{i}" for i in range(1, 5))]),
        ("vgg11", ["stem", "features.3", "features.6", "features.11", "features.16", "classifier"]),
        ("vit_b_32", ["stem", *(f"encoder_layer_{i}" for i in range(12))]),
        ("shufflenet_v2_x1_0", ["stem", "stage2", "stage3", "stage4", "conv5"]),
    ],
)
def test_stage_names(name, expected):
    body, stages = stages_of(name)
    assert [stage.name for stage in stages] == expected
    listed = [parameter for stage in stages for parameter in stage.parameters]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(body.parameters())


@pytest.mark.parametrize(
    "name", first_quick(["regnet_y_400mf", "squeezenet1_0", "googlenet", "mnasnet0_5", "alexnet", "maxvit_t"])
)
def test_stages_of_other_families_are_complete(name):
    body = create_backbone(name, image_size=224).body
    stages = backbone_stages(body)
    assert len(stages) >= 4
    assert stages[0].name == "stem"
    assert len({stage.name for stage in stages}) == len(stages)
    assert sum(len(stage.parameters) for stage in stages) == len(list(body.parameters()))


def test_tokens_belong_to_first_stage_and_final_norms_to_last():
    body, stages = stages_of("vit_b_32")
    assert {body.class_token, body.encoder.pos_embedding, body.conv_proj.weight} <= set(stages[0].parameters)
    assert body.encoder.ln.weight in set(stages[-1].parameters)
    body, stages = stages_of("convnext_tiny")
    assert body.classifier[0].weight in set(stages[-1].parameters)
    assert body.features[2][1].weight in set(stages[2].parameters)  # downsampling belongs to the next stage


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "swin_t", "efficientnet_b0", "densenet121", "resnet9_small"])
def test_stages_run_in_order(name):
    """The modules of a stage run after those of all previous stages, as recorded by hooks."""
    with torch.device("meta"):
        backbone = create_backbone(name).eval()
    stages, order = backbone_stages(backbone.body), []
    place = {module: position for position, stage in enumerate(stages) for module in stage.modules}
    for module in place:
        module.register_forward_pre_hook(lambda module, args: order.append(place[module]))
    with torch.no_grad():
        backbone(torch.zeros(1, 3, 224, 224, device="meta"))
    assert order == sorted(order)
    assert set(order) == set(range(len(stages)))


def test_timm_networks():
    pytest.importorskip("timm")
    body, stages = stages_of("timm/vit_tiny_patch16_224")
    assert [stage.name for stage in stages] == ["stem", *(f"blocks.{i}" for i in range(12))]
    assert {body.cls_token, body.pos_embed, body.patch_embed.proj.weight} <= set(stages[0].parameters)
    assert body.norm.weight in set(stages[-1].parameters)
    assert [stage.name for stage in stages_of("timm/resnet18")[1]] == RESNET


def test_error_suggests_nearest_stage():
    stages = stages_of("resnet18")[1]
    assert find_stage(stages, "layer3") == 3
    with pytest.raises(ValueError, match=r"no stage 'layr3': did you mean 'layer3'.*The stages are: stem, layer1"):
        find_stage(stages, "layr3")


def test_network_without_parameters_is_refused():
    with pytest.raises(ValueError, match="Sequential has no layers with parameters"):
        backbone_stages(nn.Sequential(nn.Flatten()))


def test_former_name_of_backbone_stage_still_works() -> None:
    with pytest.warns(FutureWarning, match="`lit_cv.nn.Stage` is now `BackboneStage`"):
        assert lit_cv.nn.Stage is BackboneStage
