"""8-bit weights are nearly equal in a quarter of the memory; devices that do not support them are named."""

import importlib

import pytest
import torch
from torch import nn

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.models.fingerprint import weights_fingerprint
from longtake.pipeline.weights import quantize as quantizing
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.quantize import check_quantize, quantize
from longtake.pipeline.weights.save import save_shards
from longtake.pipeline.weights.tensors import fill, without_weights


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 512), nn.LayerNorm(512), nn.Linear(512, 64)).eval()


def num_bytes(tensor):
    """Bytes of a tensor, plain or quantized."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    return sum(num_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])


@pytest.mark.parametrize(("kind", "off"), [("int8", 0.02), ("float8", 0.06)])
@torch.inference_mode()
def test_quantized_matrices_take_a_quarter_and_give_nearly_the_same(kind, off):
    pytest.importorskip("torchao")
    module, x = build(), torch.randn(16, 256)
    expected, before = module(x), num_bytes(module[0].weight)
    quantize(module, LoadOptions(quantize=kind), full=["2"])
    assert num_bytes(module[0].weight) < 0.26 * before
    assert type(module[2].weight.data) is torch.Tensor
    relative = (module(x) - expected).norm() / expected.norm()
    assert 1e-5 < relative < off


@pytest.mark.parametrize("kind", ["int8", "float8"])
@torch.inference_mode()
def test_a_row_of_zeros_stays_zero(kind):
    pytest.importorskip("torchao")
    module, x = build(), torch.randn(16, 256)
    module[0].weight[3] = 0
    module[0].bias.zero_()
    quantize(module, LoadOptions(quantize=kind))
    assert (module[0](x)[:, 3] == 0).all()


def test_a_quantized_module_has_its_own_fingerprint():
    pytest.importorskip("torchao")
    prints = [weights_fingerprint(build())]
    for kind in ("int8", "float8", "int8"):
        module = build()
        quantize(module, LoadOptions(quantize=kind))
        prints.append(weights_fingerprint(module))
    assert len(set(prints)) == 3
    assert prints[1] == prints[3]


def test_a_denoiser_is_quantized_as_it_is_loaded_and_other_parts_are_not(tmp_path):
    pytest.importorskip("torchao")
    kinds = {}
    for part in ("transformer", "transformer_2", "text_encoder"):
        save_shards(build().state_dict(), tmp_path / part)
        network = fill(without_weights(build()), tmp_path / part, LoadOptions(quantize="int8"), float32=["2"])
        kinds[part] = [type(network[layer].weight.data).__name__ for layer in (0, 2)]
    assert kinds == {
        "transformer": ["Int8Tensor", "Tensor"],
        "transformer_2": ["Int8Tensor", "Tensor"],
        "text_encoder": ["Tensor", "Tensor"],
    }


def test_without_the_option_nothing_is_quantized():
    module = build()
    before = weights_fingerprint(module)
    quantize(module, LoadOptions())
    assert weights_fingerprint(module) == before


def test_a_missing_package_is_named_with_the_fix(monkeypatch):
    monkeypatch.setattr(quantizing, "find_spec", lambda _: None)
    with pytest.raises(WeightsError, match=r"pip install 'longtake\[quantize\]'"):
        check_quantize(LoadOptions(quantize="int8"))
    check_quantize(LoadOptions())


@pytest.mark.parametrize(
    ("device", "capability", "message"), [("mps", None, "mps does not support it"), ("cuda:0", (8, 6), "8.6")]
)
def test_an_unsupported_device_is_named_with_the_fix(monkeypatch, device, capability, message):
    monkeypatch.setattr(quantizing, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    with pytest.raises(WeightsError, match=message):
        check_quantize(LoadOptions(device=torch.device(device), quantize="float8"))
