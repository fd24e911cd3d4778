"""A network of the user's own, torchvision's ResNet-18, cut in three and its middle made to obey the rotation law."""

import copy
import warnings

import pytest
import torch
from torch import nn

import cvkernels.nn as cnn
from models.cost import multiply_adds, parameters
from models.split import OpenModel, SplitModel
from tests.close import assert_close
from tests.models.steps import assert_law, one_step

torchvision = pytest.importorskip("torchvision")
IMAGE, CLASSES = (3, 64, 64), 10


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=CLASSES)


def cut(net, model=OpenModel, processor=None):
    """Encoder to the end of layer1, processor layer2 and layer3, decoder the rest."""
    net = copy.deepcopy(net)
    encoder = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
    decoder = nn.Sequential(net.layer4, net.avgpool, nn.Flatten(), net.fc)
    return model(encoder, processor or nn.Sequential(net.layer2, net.layer3), decoder)


def converted(net, weights="real"):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dropped, because an offset breaks the rotation law")
        return cut(net, SplitModel, cnn.convert(cut(net).processor, weights))


def test_cut_without_a_key_is_the_network_itself(resnet18):
    x = torch.randn(2, *IMAGE)
    with torch.no_grad():
        assert_close(cut(resnet18).eval()(x), copy.deepcopy(resnet18).eval()(x), torch.float32, "network")


def test_validate_lists_what_breaks_the_law(resnet18):
    found = cnn.validate(cut(resnet18).processor, torch.randn(2, 2, 64, 8, 8))
    layers = {name: type(layer) for name, layer in cut(resnet18).processor.named_modules()}
    faulty = {name for name, kind in layers.items() if kind in (nn.BatchNorm2d, nn.ReLU)}
    assert {fault.name for fault in found if fault.name} >= faulty
    convolutions = {name for name, kind in layers.items() if kind is nn.Conv2d}  # none has a bias
    assert {fault.name for fault in found} == faulty | convolutions
    assert len(faulty) == 2 * (5 + 2)  # a stage of two blocks: four norms, one more on the shortcut, two ReLUs


def test_convert_names_every_offset_it_drops(resnet18):
    with pytest.warns(UserWarning, match="dropped, because an offset breaks the rotation law") as caught:
        cnn.convert(cut(resnet18).processor)
    assert len(caught) == 1
    dropped = str(caught[0].message).partition(": ")[2].partition(";")[0].split(", ")
    assert len(dropped) == 2 * 5
    assert "0.0.downsample.1.bias" in dropped


@pytest.mark.parametrize("weights", ["real", "complex"])
def test_converted_middle_obeys_and_the_key_does_not_matter(resnet18, weights):
    model = converted(resnet18, weights)
    example = torch.randn(2, 2, 64, 8, 8)
    assert cnn.validate(model.processor, example) == []
    assert_law(copy.deepcopy(model.processor), (64, 8, 8), batches=(2,))
    x, b = torch.randn(3, *IMAGE), torch.tensor([1, 2, 0])
    model.eval()
    with torch.no_grad():
        assert_close(model(x, torch.linspace(0.2, 6, 3), b), model(x, torch.zeros(3), b), kind="network")


@pytest.mark.parametrize("weights", ["real", "complex"])
def test_converted_network_keeps_its_kernels_and_trains(resnet18, weights):
    model, before = converted(resnet18, weights), cut(resnet18)
    name = "weight" if weights == "real" else "weight_re"
    assert getattr(model.processor[0][0].conv1, name).equal(before.processor[0][0].conv1.weight)
    sizes = parameters(model)["processor"], parameters(before)["processor"]
    kernels = sum(p.numel() for p in before.processor.parameters() if p.ndim == 4)
    scales = sum(p.numel() for p in before.processor.parameters() if p.ndim == 1) // 2
    assert scales == 5 * 128 + 5 * 256  # and as many offsets, which are gone
    assert sizes == ((1 if weights == "real" else 2) * kernels + scales, kernels + 2 * scales)
    one_step(model, IMAGE, CLASSES)


def test_cost_of_the_cut(resnet18):
    real = multiply_adds(cut(resnet18).to("meta"), IMAGE)
    assert multiply_adds(converted(resnet18).to("meta"), IMAGE) == {**real, "processor": 2 * real["processor"]}
    assert multiply_adds(converted(resnet18, "complex").to("meta"), IMAGE)["processor"] == 4 * real["processor"]
