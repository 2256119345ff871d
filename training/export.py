"""Write a trained model in the Hugging Face layout, and read one back.

``python -m training.export --size small`` puts the run's weights, in bfloat16, where the package looks for them.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from servery import amuse
from training.chat import END, PAD
from training.model import SHAPES, Amuse, Shape
from training.tokenizer import save as save_tokenizer
from training.tokenizer import token_id
from training.train import RUNS

_INNER = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"), "self_attn") | dict.fromkeys(
    ("gate_proj", "up_proj", "down_proj"), "mlp"
)
CONTEXT = 4096


def published_name(name: str) -> str:
    """The Hugging Face name of one of our parameters."""
    parts = name.split(".")
    if parts[0] == "layers" and parts[2] in _INNER:
        parts.insert(2, _INNER[parts[2]])
    return ".".join(["model", *parts])


def config(shape: Shape, pad: int, end: int) -> dict[str, Any]:
    """The model's ``config.json``."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "use_cache": True,
        "torch_dtype": "bfloat16",
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def export(model: Amuse, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights, configuration, tokenizer and chat template into ``folder``, replacing it as a whole."""
    pad, end = token_id(tokenizer, PAD), token_id(tokenizer, END)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".staging-"))
    staging.chmod(0o755)
    weights = {
        published_name(k): v.detach().cpu().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()
    }
    save_file(weights, staging / "model.safetensors", metadata={"format": "pt"})
    _write_json(staging / "config.json", config(model.shape, pad, end))
    _write_json(staging / "generation_config.json", {"do_sample": False, "eos_token_id": end, "pad_token_id": pad})
    save_tokenizer(tokenizer, staging, CONTEXT)
    _replace(staging, folder)


def _replace(staging: Path, folder: Path) -> None:
    old = staging.with_name(staging.name + ".old")
    if folder.exists():
        folder.replace(old)
    staging.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def read(folder: Path) -> Amuse:
    """A published model as our own network, in float32."""
    told = json.loads((folder / "config.json").read_text())
    shape = Shape(
        width=told["hidden_size"], layers=told["num_hidden_layers"], heads=told["num_attention_heads"],
        kv_heads=told["num_key_value_heads"], ffn=told["intermediate_size"], vocab=told["vocab_size"],
        head_width=told["head_dim"], rope_theta=told["rope_theta"], eps=told["rms_norm_eps"],
    )  # fmt: skip
    model = Amuse(shape)
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: weights[published_name(name)].float() for name in model.state_dict()})
    return model.eval()


def main() -> None:
    """Export the checkpoint of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SHAPES), default="small")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--to", type=Path, help="the folder to write; the package's own by default")
    arguments = parser.parse_args()
    model = Amuse(SHAPES[arguments.size])
    state = torch.load(arguments.runs / arguments.size / "checkpoint.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    tokenizer = Tokenizer.from_file(str(arguments.runs / "tokenizer" / "tokenizer.json"))
    folder = arguments.to or amuse.HOME / arguments.size
    export(model, tokenizer, folder)
    print(f"wrote {folder} after step {state['step']}, {state['tokens'] / 1e6:.1f}M tokens")


if __name__ == "__main__":
    main()
