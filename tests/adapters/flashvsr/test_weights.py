"""Every published tensor of FlashVSR has its place, and a folder that may be one of two variants is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longtake.pipeline.adapters.flashvsr.model import FlashVSR, FlashVSRSettings, FlashVSRSizes
from longtake.pipeline.adapters.flashvsr.weights import PARTS, PROJECTOR_SHA256, convert_flashvsr, load_flashvsr
from longtake.pipeline.errors import WeightsError
from tests.adapters.flashvsr.tiny import SIZES, film, tiny_flashvsr, upscaled

LAYOUT = json.loads(Path("tests/layouts/flashvsr_v1_1.json").read_text())["files"]


def published(part: str) -> dict[str, list[int]]:
    """Names and shapes of the published tensors of one file."""
    tensors = LAYOUT[part]["tensors"]
    return {key.replace("*", str(block)): shape for key, shape in tensors.items() for block in range(30)}


@pytest.mark.parametrize("part", LAYOUT)
def test_the_layout_has_as_many_tensors_and_parameters_as_the_published_file(part):
    shapes = published(part).values()
    assert len(shapes) == LAYOUT[part]["num_tensors"]
    assert sum(torch.Size(shape).numel() for shape in shapes) == LAYOUT[part]["num_parameters"]


@pytest.mark.parametrize("variant", ["v1", "v1.1"])
def test_every_published_tensor_has_its_place_and_none_is_missing(variant):
    with torch.device("meta"):
        model = FlashVSR(FlashVSRSizes(), variant, FlashVSRSettings())
    ours = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert ours == {PARTS[part] + key: shape for part in LAYOUT for key, shape in published(part).items()}


def test_the_checksum_that_tells_the_variant_is_the_published_one():
    assert {LAYOUT["LQ_proj_in"]["sha256"]: "v1.1"} == PROJECTOR_SHA256


def publish(folder: Path, model: FlashVSR | None = None) -> Path:
    """The files of `model` as they are published, in `folder`."""
    folder.mkdir()
    state = (model or tiny_flashvsr()).state_dict()
    for part, prefix in PARTS.items():
        tensors = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        file = folder / (part + LAYOUT[part]["suffix"])
        if file.suffix == ".safetensors":
            save_file(tensors, file)
        else:
            torch.save(tensors[""] if part == "posi_prompt" else tensors, file)
    return folder


@pytest.mark.parametrize("variant", ["v1", "v1.1"])
def test_a_converted_model_upscales_as_before(tmp_path, variant):
    model, file = tiny_flashvsr(variant), tmp_path / "out.safetensors"
    folder = publish(tmp_path / "weights", model)
    assert convert_flashvsr(folder, file, variant, SIZES, torch.float32) == variant
    loaded = load_flashvsr(file)
    assert loaded.variant == variant
    # Mapped tensors begin wherever the file has them, which may cost matrix products their last bit.
    loaded.load_state_dict({key: tensor.clone() for key, tensor in loaded.state_dict().items()}, assign=True)
    assert torch.equal(upscaled(loaded, film(30)), upscaled(model, film(30)))


def test_weights_are_written_in_bfloat16_and_run_in_it(tmp_path):
    convert_flashvsr(publish(tmp_path / "FlashVSR-v1"), tmp_path / "out.safetensors", sizes=SIZES)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out.safetensors").values()} == {torch.bfloat16}
    pictures = upscaled(load_flashvsr(tmp_path / "out.safetensors"), film(30))
    assert pictures.dtype == torch.float32
    assert (pictures - upscaled(tiny_flashvsr("v1"), film(30))).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["FlashVSR", "FlashVSR-v1.1", "FlashVSR_v1_1", "v11", "weights"])
def test_a_folder_that_may_be_either_variant_is_refused_with_the_cure(tmp_path, name):
    with pytest.raises(WeightsError, match=r"may be FlashVSR v1 or v1\.1.* say it: --variant v1 or v1\.1"):
        convert_flashvsr(publish(tmp_path / name), tmp_path / "out.safetensors", sizes=SIZES)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["FlashVSR-v1", "flashvsr_V1", "v1"])
def test_a_folder_named_v1_is_v1_where_the_checksum_does_not_object(tmp_path, name):
    assert convert_flashvsr(publish(tmp_path / name), tmp_path / "out.safetensors", sizes=SIZES) == "v1"


def test_the_checksum_tells_the_variant_whatever_the_folder_is_called(tmp_path, monkeypatch):
    folder = publish(tmp_path / "FlashVSR-v1")
    checksum = hashlib.sha256((folder / "LQ_proj_in.ckpt").read_bytes()).hexdigest()
    monkeypatch.setitem(PROJECTOR_SHA256, checksum, "v1.1")
    assert convert_flashvsr(folder, tmp_path / "out.safetensors", sizes=SIZES) == "v1.1"
    with pytest.raises(WeightsError, match=r"has the checksum of v1\.1, and v1 was asked for; leave the variant out"):
        convert_flashvsr(folder, tmp_path / "out.safetensors", "v1", sizes=SIZES)


def test_a_missing_file_is_named_with_where_it_is_to_be_had(tmp_path):
    folder = publish(tmp_path / "weights")
    (folder / "posi_prompt.pth").unlink()
    with pytest.raises(WeightsError, match=r"holds no posi_prompt.*copy it from examples/WanVSR/prompt_tensor"):
        convert_flashvsr(folder, tmp_path / "out.safetensors", "v1", SIZES)


def test_tensors_of_another_architecture_are_counted_and_named(tmp_path):
    with pytest.raises(
        WeightsError, match=r"899 tensors of .* do not fit FlashVSR, of 900 \(.*\(8,\) in place of \(512,\)"
    ):
        convert_flashvsr(publish(tmp_path / "weights"), tmp_path / "out.safetensors", "v1")


class Evil:
    """Unpickled as usual, it would write a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.write_text, (self.file, "unpickled")


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    folder = publish(tmp_path / "weights")
    torch.save({"decoder.1.weight": Evil(tmp_path / "evil")}, folder / "TCDecoder.ckpt")
    with pytest.raises(
        WeightsError, match=r"TCDecoder\.ckpt holds more than tensors \(its other contents may run code\)"
    ):
        convert_flashvsr(folder, tmp_path / "out.safetensors", "v1", SIZES)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("file", ["LQ_proj_in.ckpt", "posi_prompt.pth"])
def test_a_pickle_is_not_loaded_but_converted(tmp_path, file):
    with pytest.raises(WeightsError, match=r"`longtake convert FOLDER .*` makes one of the published folder"):
        load_flashvsr(publish(tmp_path / "weights") / file)


def test_published_safetensors_are_not_loaded_without_their_variant(tmp_path):
    with pytest.raises(WeightsError, match="its header does not name the variant"):
        load_flashvsr(publish(tmp_path / "weights") / "diffusion_pytorch_model_streaming_dmd.safetensors")
