"""Builds the small models of one library, compresses each and writes down what became of it.

python zoo_worker.py LIBRARY OUT [NAME ...]

It is a process of its own because timm and braindecode import torchvision and torchaudio, whose wheels do not load
beside every build of torch; nothing else may find them. CLISONIX_ZOO names the folder that scripts/zoo.sh makes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clisonix.compress import Form, Plan, compress, converted, load, plan, save, survey
from clisonix.compress.batches import Feeder, tensors_in
from clisonix.compress.forms import KEEP
from clisonix.compress.layers import held_matrices
from clisonix.errors import ClisonixError

Pair = tuple[nn.Module, Any]


def words(*shape: int) -> Tensor:
    return torch.randint(2, 90, shape)


def transformer_models() -> dict[str, Callable[[], Pair]]:
    import transformers as t

    small = {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    bert = small | {"intermediate_size": 128, "max_position_embeddings": 32}
    llama = small | {"intermediate_size": 128, "num_key_value_heads": 2, "use_cache": False}
    text = {"input_ids": words(2, 12), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    vit = {k: v for k, v in bert.items() if k not in ("vocab_size", "max_position_embeddings")}
    mobile = small | {"intermediate_size": 128, "embedding_size": 32, "intra_bottleneck_size": 32}
    whisper = {
        "vocab_size": 160, "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_mel_bins": 16,
        "max_source_positions": 16, "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 1, "decoder_start_token_id": 1, "use_cache": False,
    }  # fmt: skip
    wave = vit | {
        "conv_dim": (32, 32), "conv_kernel": (10, 4), "conv_stride": (5, 4), "vocab_size": 40,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    t5 = {"vocab_size": 160, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4}
    return {
        "bert": lambda: (t.BertForSequenceClassification(t.BertConfig(**bert)), text),
        "distilbert": lambda: (
            t.DistilBertForMaskedLM(
                t.DistilBertConfig(vocab_size=160, dim=64, n_layers=1, n_heads=4, hidden_dim=128)
            ),
            text,
        ),
        "albert": lambda: (
            t.AlbertModel(t.AlbertConfig(**bert | {"embedding_size": 32, "num_hidden_layers": 2})),
            text,
        ),
        "mobilebert": lambda: (t.MobileBertModel(t.MobileBertConfig(**mobile)), text),
        "gpt2": lambda: (
            t.GPT2LMHeadModel(
                t.GPT2Config(vocab_size=160, n_positions=32, n_embd=64, n_layer=2, n_head=4, use_cache=False, **ends)
            ),
            text,
        ),
        "llama": lambda: (t.LlamaForCausalLM(t.LlamaConfig(**llama)), text),
        "mixtral": lambda: (
            t.MixtralForCausalLM(
                t.MixtralConfig(**llama | {"intermediate_size": 32}, num_local_experts=2, num_experts_per_tok=1)
            ),
            text,
        ),
        "t5": lambda: (
            t.T5ForConditionalGeneration(t.T5Config(**t5, use_cache=False, decoder_start_token_id=0)),
            text | {"decoder_input_ids": words(2, 6)},
        ),
        "mamba": lambda: (
            t.MambaForCausalLM(t.MambaConfig(vocab_size=160, hidden_size=64, state_size=8, num_hidden_layers=1)),
            {"input_ids": words(2, 4), "use_cache": False},
        ),
        "vit": lambda: (
            t.ViTForImageClassification(t.ViTConfig(**vit, image_size=32, patch_size=8)),
            {"pixel_values": torch.randn(2, 3, 32, 32)},
        ),
        "wav2vec2": lambda: (t.Wav2Vec2ForCTC(t.Wav2Vec2Config(**wave)), {"input_values": torch.randn(2, 800)}),
        "whisper": lambda: (
            t.WhisperForConditionalGeneration(t.WhisperConfig(**whisper)),
            {"input_features": torch.randn(2, 16, 32), "decoder_input_ids": words(2, 6)},
        ),
    }


def timm_models() -> dict[str, Callable[[], Pair]]:
    import timm
    from timm.models.efficientnet import _gen_efficientnet_lite
    from timm.models.mlp_mixer import MlpMixer

    def model(name: str, **settings: Any) -> Callable[[], Pair]:
        size = settings.get("img_size", 64)
        return lambda: (timm.create_model(name, num_classes=10, **settings), torch.randn(2, 3, size, size))

    return {
        "vit_tiny": model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, embed_dim=96),
        "resnet18": model("resnet18", channels=(8, 12, 16, 24)),
        "convnext_atto": model("convnext_atto", dims=(16, 32, 48, 64), depths=(1, 1, 2, 1)),
        "efficientnet_lite0": lambda: (
            _gen_efficientnet_lite("efficientnet_lite0", 0.25, 0.25, num_classes=10),
            torch.randn(2, 3, 32, 32),
        ),
        "mixer": lambda: (
            MlpMixer(10, img_size=32, patch_size=8, num_blocks=1, embed_dim=96),
            torch.randn(2, 3, 32, 32),
        ),
    }


def braindecode_models() -> dict[str, Callable[[], Pair]]:
    import braindecode.models as b

    def model(name: str, channels: int = 16, times: int = 400, **settings: Any) -> Callable[[], Pair]:
        shape = {"n_chans": channels, "n_times": times, "n_outputs": 4, "sfreq": 100}
        return lambda: (getattr(b, name)(**shape, **settings), torch.randn(2, channels, times))

    return {
        "eegnet": model("EEGNet", F1=16, D=4, F2=64),
        "shallow_fbcsp": model("ShallowFBCSPNet"),
        "deep4": model("Deep4Net", times=600),
        "eegconformer": model("EEGConformer", times=200, num_layers=1),
        "atcnet": model("ATCNet"),
        "labram": model("Labram", channels=128, num_layers=2, embed_dim=48, num_heads=4),
        "biot": model("BIOT", embed_dim=64, num_heads=4, num_layers=2),
        "sleep_stager": model("SleepStagerChambon2018", times=3000),
    }


LIBRARIES = {"transformers": transformer_models, "timm": timm_models, "braindecode": braindecode_models}
# Share of the dense file. What else a file of a small model holds (header, norms, what must be kept) bounds it.
BUDGETS = {
    "mixtral": 0.45,
    "shallow_fbcsp": 0.93,
    "atcnet": 0.75,
    "eegnet": 0.55,
    "biot": 0.5,
    "wav2vec2": 0.4,
    "sleep_stager": 0.5,
}
BUDGET = 0.3


def report(build: Callable[[], Pair], share: float) -> dict[str, Any]:
    """What `test_zoo` looks at, for one model."""
    torch.manual_seed(0)
    model, batch = build()
    model.eval()
    began = time.perf_counter()
    made = plan(model, budget=share, calibration=[batch])
    small = compress(model, made, calibration=[batch])
    seconds = {"compress": time.perf_counter() - began}
    found: dict[str, Any] = {"budget": made.budget, "planned": made.file_bytes, "seconds": seconds}
    feed, feed_small = Feeder(model), Feeder(small)
    out, out_small = tensors_in(feed.output(batch)), tensors_in(feed_small.output(batch))
    found["shapes"] = [[list(x.shape), str(x.dtype)] for x in out]
    found["shapes of the compressed"] = [[list(x.shape), str(x.dtype)] for x in out_small]
    found["finite"] = all(bool(x.isfinite().all()) for x in out_small)
    found["silent"] = silent(model, made)
    found["compressed"] = len(made.forms)
    found["kept"] = {layer.name: layer.reason for layer in made.layers if layer.form == KEEP}
    found["tied"] = [tied for layer in made.layers if layer.form != KEEP for tied in layer.tied]
    found["blind"] = blind(model, batch)
    found["untied"] = untied(small, made)
    found["without gradient"] = ungraded(model, small, made, batch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(small, path)
        found["bytes"] = path.stat().st_size
        torch.manual_seed(1)
        again = load(path, into=build()[0]).eval()
    states = small.state_dict(), again.state_dict()
    found["state differs"] = sorted(
        {name for one, other in (states, states[::-1]) for name in one if not same(one[name], other.get(name))}
    )
    with torch.no_grad():
        outputs = tensors_in(feed_small.output(batch)), tensors_in(Feeder(again).output(batch))
    found["output differs"] = not all(same(x, y) for x, y in zip(*outputs, strict=True))
    began = time.perf_counter()
    found |= compiled(model, small, batch, outputs[0])
    seconds["compile"] = time.perf_counter() - began
    return found


def same(x: Tensor, y: Tensor | None) -> bool:
    return y is not None and x.dtype == y.dtype and torch.equal(x, y)


def silent(model: nn.Module, made: Plan) -> list[str]:
    """Weights of two or more dimensions that are neither compressed nor kept for a reason."""
    told = {name for layer in made.layers if layer.form != KEEP or layer.reason for name in (layer.name, *layer.tied)}
    every = model.named_parameters(remove_duplicate=False)
    return [name for name, tensor in every if tensor.ndim >= 2 and name not in told]


def blind(model: nn.Module, batch: Any) -> str:
    """What goes wrong where every weight that may be compressed is; nothing is known of which layers are called."""
    forms = {site.name: (Form("binary"), site) for site in survey(model) if site.reason is None}
    small = converted(model, {name: form.empty(s.matrix_shape, s.tensor.dtype) for name, (form, s) in forms.items()})
    try:
        Feeder(small).output(batch)
    except ClisonixError as error:
        return str(error)
    return ""


def untied(small: nn.Module, made: Plan) -> list[str]:
    """Weights that were one tensor and are several."""
    matrices = {
        f"{name}.{weight}": matrix
        for name, module in small.named_modules(remove_duplicate=False)
        for weight, matrix in held_matrices(module)
    }
    return [
        tied
        for layer in made.layers
        if layer.form != KEEP
        for tied in layer.tied
        if matrices.get(tied) is not matrices[layer.name]
    ]


def ungraded(model: nn.Module, small: nn.Module, made: Plan, batch: Any) -> list[str]:
    """Tensors that the dense model has a gradient for and the compressed one has not, or not a finite one."""
    for each in (model, small):
        torch.stack([x.square().mean() for x in tensors_in(Feeder(each).output(batch))]).sum().backward()
    reached = {name for name, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
    forms = {name for layer in made.layers if layer.form != KEEP for name in (layer.name, *layer.tied)}
    missing = []
    for name, p in small.named_parameters():
        dense = next((form for form in forms if name.startswith(f"{form}.")), name)
        if dense in reached and (p.grad is None or not bool(p.grad.isfinite().all())):
            missing.append(name)
    return missing


def compiled(model: nn.Module, small: nn.Module, batch: Any, expected: list[Tensor]) -> dict[str, Any]:
    """Whether the compressed model compiles as the dense one does, and to what."""
    with torch.no_grad():
        found = {"fullgraph": True}
        torch.compiler.reset()
        try:
            out = call(torch.compile(small, backend="eager", fullgraph=True), small, batch)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"[:2000]
            if compiles_in_one_graph(model, batch):
                return {"fullgraph": False, "compile": f"the dense model compiles in one graph and this not: {why}"}
            torch.compiler.reset()
            found = {"fullgraph": False}
            out = call(torch.compile(small, backend="eager"), small, batch)
    close = all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(out, expected, strict=True))
    return found | {"compile": "" if close else "the outputs differ"}


def compiles_in_one_graph(model: nn.Module, batch: Any) -> bool:
    torch.compiler.reset()
    try:
        call(torch.compile(model, backend="eager", fullgraph=True), model, batch)
    except Exception:
        return False
    return True


def call(wrapped: Callable[..., Any], model: nn.Module, batch: Any) -> list[Tensor]:
    args, kwargs = Feeder(model)._arguments(batch)
    return tensors_in(wrapped(*args, **kwargs))


def main(library: str, out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    if library != "transformers":
        sys.path.append(os.environ["CLISONIX_ZOO"])
        # What torchvision's library defines, and its Python code expects, in a build of torch that it does not fit.
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    warnings.simplefilter("ignore")
    notes: dict[str, Any] = {}
    for name, build in LIBRARIES[library]().items():
        if names and name not in names:
            continue
        try:
            notes[name] = report(build, BUDGETS.get(name, BUDGET))
        except Exception:
            notes[name] = {"failed": traceback.format_exc(limit=-12)}
    out.write_text(json.dumps(notes, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
