from dataclasses import replace

import pytest
import torch

from hybrid.deep.classification.networks import (
    CLASSIFIERS,
    ClassifierArchitecture,
    architecture_of,
    build_classifier,
    classifier_architecture,
    load_pretrained,
)
from hybrid.errors import InputError, WeightsError


def small(dims=3, name="resnet10", channels=1, classes=2):
    return classifier_architecture(name, dims=dims, in_channels=channels, classes=classes, widen=0.125)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(("dims", "channels", "classes"), [(2, 3, 2), (3, 1, 5), (3, 4, 2)])
def test_networks_give_one_score_per_class(name, dims, channels, classes):
    network = build_classifier(small(dims, name, channels, classes))
    with torch.inference_mode():
        assert network(torch.zeros(2, channels, *(32,) * dims)).shape == (2, classes)


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)]
)
def test_2d_networks_have_torchvisions_number_of_parameters(name, parameters):
    # torchvision's documentation, ResNet*_Weights.IMAGENET1K_V1: num_params
    network = build_classifier(classifier_architecture(name, dims=2, in_channels=3, classes=1000))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.weight", "fc.weight"} <= set(network.state_dict())


def test_start_weights_follow_the_seed_and_leave_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (build_classifier(small(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_pretrained_trunk_is_loaded_and_the_last_layer_is_new(tmp_path):
    source = build_classifier(small(2, "resnet18", 3, classes=1000), seed=1)
    torch.save(source.state_dict(), tmp_path / "imagenet.pth")
    network = build_classifier(small(2, "resnet18", 3, classes=4), seed=2)
    head = network.fc.weight.clone()
    assert load_pretrained(network, tmp_path / "imagenet.pth").coverage == 1
    assert torch.equal(network.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert torch.equal(network.fc.weight, head)


def test_medicalnet_file_fits_a_3d_network(tmp_path):
    source = build_classifier(small(3, "resnet18"), seed=1)
    tensors = {f"module.{name}": value for name, value in source.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": tensors}, tmp_path / "resnet_18.pth")
    network = build_classifier(small(3, "resnet18"), seed=2)
    report = load_pretrained(network, tmp_path / "resnet_18.pth")
    assert (report.convention, report.coverage) == ("medicalnet", 1)
    assert torch.equal(network.conv1.weight, source.conv1.weight)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_keep_the_response_to_equal_channels(tmp_path, channels):
    source = build_classifier(small(2, "resnet18", 3), seed=1)
    torch.save(source.state_dict(), tmp_path / "rgb.pth")
    network = build_classifier(small(2, "resnet18", channels), seed=2)
    assert load_pretrained(network, tmp_path / "rgb.pth").coverage == 1
    grey = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    expected, found = source.conv1(grey.expand(-1, 3, -1, -1)), network.conv1(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("name", "dims"), [("resnet10", 2), ("resnet18", 3)])
def test_weights_of_another_network_are_refused(tmp_path, name, dims):
    torch.save(build_classifier(small(dims, name)).state_dict(), tmp_path / "other.pth")
    network = build_classifier(small(2, "resnet18"), seed=1)
    before = network.conv1.weight.clone()
    with pytest.raises(WeightsError, match="at least 95 % are needed"):
        load_pretrained(network, tmp_path / "other.pth")
    assert torch.equal(network.conv1.weight, before)


def test_architecture_survives_its_dictionary_and_names_itself():
    architecture = small(2, "resnet50", 3, 7)
    assert ClassifierArchitecture.from_dict(architecture.to_dict()) == architecture
    assert architecture_of(build_classifier(architecture)) == architecture
    assert architecture.variant == "resnet50-stride2-wide0.125-2d"


def test_nonsense_is_refused():
    with pytest.raises(InputError, match="Unknown network 'resnet101'"):
        classifier_architecture("resnet101", dims=2, in_channels=1, classes=2)
    with pytest.raises(InputError, match="Unknown network option 'width'"):
        classifier_architecture("resnet10", dims=2, in_channels=1, classes=2, width=2)
    with pytest.raises(InputError, match="at least two classes"):
        small(classes=1)
    with pytest.raises(InputError, match="dims=4"):
        replace(small(), dims=4)
    with pytest.raises(InputError, match="no classifier"):
        architecture_of(torch.nn.Linear(2, 2))
