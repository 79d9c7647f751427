"""Compiled blocks compute what the same blocks compute uncompiled, with whatever hooks and contexts they have.

Their graphs are counted by the bench `hot-path`; here the operations of a graph run as they are, so no bit may differ.
"""

from importlib.metadata import PackageNotFoundError

import pytest
import torch

from longtake.actors.load_options import load_options
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.errors import KernelError, SpecError
from longtake.pipeline.models import compiled
from longtake.pipeline.models.adapted import Applied
from longtake.pipeline.models.av_dit import AVDiT
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.provenance import check_same, numerics
from longtake.pipeline.sampling.guidance import PerStream, StreamScales
from longtake.pipeline.weights.lora import lora_of
from longtake.pipeline.weights.options import LoadOptions
from tests.attention.test_prompts_kept import SHAPES, built_in_film, same, wan_film
from tests.test_loras import tensors_for
from tests.tiny import tiny_model


@pytest.fixture
def compiling(monkeypatch):
    """From now on, denoisers are built with compiled blocks."""

    def start():
        for kind in (WanDenoiser, AVDiT):
            plain = kind.__init__

            def build(self, *args, plain=plain, **options):
                plain(self, *args, **options)
                compiled.compile_blocks(self.blocks, backend="eager")

            monkeypatch.setattr(kind, "__init__", build)

    return start


def lora_of_blocks():
    """A LoRA of the second scene, which changes layers and biases."""
    layout = {name: weight.shape for name, weight in tiny_model().denoiser.named_parameters()}
    tensors = tensors_for(tiny_model(torch.float32), seed=1)
    changes = lora_of({name.removeprefix("transformer."): x for name, x in tensors.items()}, layout).changes
    return [Applied(changes, scenes=(1,))]


def perturbed_film():
    """Passes of which some sites return their values, and others nothing."""
    scales = {name: StreamScales(prompt=2.0, stg=1.0) for name in SHAPES}
    return wan_film(causal=False, guidance=PerStream(scales, stg_layers=[0]))[0]


FILMS = {"LoRAs": lambda: built_in_film(lora_of_blocks()), "perturbed": perturbed_film}


@pytest.mark.parametrize("film", FILMS.values(), ids=FILMS)
def test_a_film_of_compiled_blocks_has_the_bits_of_the_plain_one(film, compiling):
    plain = film()
    compiling()
    assert same(plain, film())


def test_a_site_that_returns_nothing_is_attended_and_not_read():
    class Nothing(compiled.AttentionContext):
        asked = 0

        def attend(self, _site, _streams, _positions):
            self.asked += 1
            return {}

        def silent(self, _layer):
            return ("joint",)

    class Listening(torch.nn.Module):
        def prompts(self, _tokens):
            return {}

        def forward(self, tokens, context, layer):
            q = tokens["video"].x
            qkv = {"video": compiled.QKV(q, q, q)}
            return tokens if not context.attend(compiled.Site(layer, "joint"), qkv, {}) else {}

    block, context = Listening(), Nothing()
    compiled.compile_blocks([block], backend="aot_eager")
    x = torch.ones(1, 2, 3, 4)
    with torch.inference_mode():
        assert torch.equal(block({"video": compiled.Tokens(x, x, x, x)}, context, 0)["video"].x, x)
    assert context.asked == 1


def test_compiled_numerics_are_a_key_of_their_own():
    model = EmbeddedModel.untrained(TINY)
    plain, blocks = numerics(model), numerics(model, load=LoadOptions(compile="blocks"))
    assert "compile" not in plain
    assert {name: part for name, part in blocks.items() if name != "compile"} == plain
    with pytest.raises(Exception, match=r"compile is None, not blocks, .*g\+\+"):
        check_same(plain, blocks)


@pytest.mark.parametrize(("device", "expected"), [("cpu", "none"), ("cuda", "blocks")])
def test_auto_compiles_on_a_gpu_only(device, expected):
    assert load_options(device=device).compile == expected


@pytest.mark.parametrize(("value", "why"), [("graphs", "CUDA graphs are not built yet; use auto"), ("all", "use auto")])
def test_unknown_ways_to_compile_are_refused_in_one_sentence(value, why):
    with pytest.raises(SpecError, match=f"--compile is {value}; {why}, none or blocks"):
        load_options(compile=value)


def test_a_machine_without_a_compiler_is_told_so_before_work_starts(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(SpecError, match=r"--compile is blocks, and there is no C\+\+ compiler here; install g\+\+"):
        compiled.compiler(torch.device("cpu"))


def test_a_gpu_machine_without_triton_is_told_so(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(compiled, "version", missing)
    with pytest.raises(SpecError, match="no Triton here; pip install triton, or use --compile none"):
        compiled.compiler(torch.device("cuda"))


def test_a_block_that_cannot_be_compiled_is_named_in_one_sentence():
    class Printing(torch.nn.Module):
        def prompts(self, _tokens):
            return {}

        def forward(self, tokens, _context, _layer):
            torch._dynamo.graph_break()
            return tokens

    block = Printing()
    compiled.compile_blocks([block], backend="eager")
    with pytest.raises(KernelError, match=r"PyTorch cannot compile a block \(.*\); use --compile none"):
        block({}, compiled._OneOperation(torch.tensor(0), ()), 0)
