"""Train one size: ``python -m training.train --size small``. A killed run goes on where its checkpoint is.

The run folder holds ``checkpoint.pt`` and ``log.jsonl``. Writing a number into ``end_at_step`` there (or passing
``--end-at-step``) ends the run at that step with a full learning-rate decay, which a usable model needs.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model import SHAPES, Amuse
from training.muon import Muon
from training.packing import Batch
from training.recipe import RECIPES, Recipe
from training.stream import Place, stream
from training.tokenizer import load

RUNS = Path("training/runs")
_CHECKPOINT_EVERY_S = 120.0
_LOG_EVERY_STEPS = 20
BLOCKED = -30_000.0


def attention_bias(documents: Tensor) -> Tensor:
    """[B, 1, L, L]: 0 where a position may look (its own conversation, not ahead), very negative elsewhere."""
    same = documents[:, :, None] == documents[:, None, :]
    allowed = same & torch.ones_like(same[0]).tril()
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, BLOCKED)[:, None]


def loss_of(model: Amuse, batch: Batch, device: torch.device) -> Tensor:
    """Mean cross entropy of the answer tokens, each predicted from the tokens before it."""
    tokens, documents, positions = (
        torch.from_numpy(part).to(device) for part in (batch.tokens, batch.documents, batch.positions)
    )
    wanted = torch.from_numpy(batch.answers).to(device)[:, 1:]
    with torch.autocast(device.type, torch.bfloat16):
        hidden = model(tokens, positions, attention_bias(documents))
        logits = model.logits(hidden[:, :-1][wanted])
    return F.cross_entropy(logits.float(), tokens[:, 1:][wanted])


class Optimizers:
    """Muon for the matrices, AdamW for the embedding and the gains, under one schedule."""

    def __init__(self, model: Amuse, recipe: Recipe) -> None:
        named = list(model.named_parameters())
        matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
        gains = [weight for _, weight in named if weight.ndim == 1]
        self._matrices = Muon(matrices, lr=recipe.matrix_lr)
        rest = [
            {"params": [model.embed_tokens.weight], "lr": recipe.embedding_lr},
            {"params": gains, "lr": recipe.gain_lr},
        ]
        self._rest = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0)
        self._groups = [*self._matrices.param_groups, *self._rest.param_groups]
        self._full = [float(group["lr"]) for group in self._groups]

    def step(self, scale: float) -> None:
        """Update all weights at a share of the full learning rates and clear the gradients."""
        for group, full in zip(self._groups, self._full, strict=True):
            group["lr"] = full * scale
        for optimizer in (self._matrices, self._rest):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps."""
        return [self._matrices.state_dict(), self._rest.state_dict()]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take over the state of a checkpoint."""
        self._matrices.load_state_dict(state[0])
        self._rest.load_state_dict(state[1])
        self._groups = [*self._matrices.param_groups, *self._rest.param_groups]


class Run:
    """One training run in its folder."""

    def __init__(self, size: str, recipe: Recipe, folder: Path, tokenizer: Path, compiled: bool = False) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.folder, self.size = recipe, folder, size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = Amuse(SHAPES[size]).to(self.device)
        self.optimizers = Optimizers(self.model, recipe)
        self.place, self.step, self.tokens = Place(), 0, 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            self._restore()
        self.batches: Iterator[Batch] = stream(load(tokenizer), recipe, self.place)
        if compiled:
            for layer in self.model.layers:
                layer.compile(dynamic=False)

    def _restore(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizers.restore(state["optimizers"])
        self.place = Place(**state["place"])
        self.step, self.tokens = state["step"], state["tokens"]

    def save(self) -> None:
        """Write the checkpoint beside the old one, then put it in its place."""
        state = {
            "model": self.model.state_dict(), "optimizers": self.optimizers.state(), "place": asdict(self.place),
            "step": self.step, "tokens": self.tokens, "size": self.size,
        }  # fmt: skip
        torch.save(state, self.folder / "checkpoint.new")
        (self.folder / "checkpoint.new").replace(self.folder / "checkpoint.pt")

    def end(self) -> int:
        """The last step: the recipe's, unless the folder's ``end_at_step`` says another."""
        override = self.folder / "end_at_step"
        return int(override.read_text()) if override.exists() else self.recipe.steps

    def advance(self) -> Tensor:
        """Train on one batch and return its loss."""
        batch = next(self.batches)
        loss = loss_of(self.model, batch, self.device)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers.step(self.recipe.scale(self.step, self.end()))
        self.step += 1
        self.tokens += int((batch.documents > 0).sum())
        return loss.detach()

    def train(self) -> None:
        """Train to the end, with progress on the terminal and in ``log.jsonl``."""
        saved = logged = time.monotonic()
        seen, losses = self.tokens, []
        while self.step < self.end():
            losses.append(self.advance())
            now = time.monotonic()
            if self.step % _LOG_EVERY_STEPS == 0 or self.step == self.end():
                self._report(float(torch.stack(losses).mean()), (self.tokens - seen) / (now - logged))
                logged, seen, losses = now, self.tokens, []
            if now - saved > _CHECKPOINT_EVERY_S:
                self.save()
                saved = now
        self.save()

    def _report(self, loss: float, tokens_per_s: float) -> None:
        left_s = (self.end() - self.step) * (self.tokens / self.step) / tokens_per_s
        entry = {"step": self.step, "tokens": self.tokens, "loss": round(loss, 4), "tokens_per_s": round(tokens_per_s)}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
        print(
            f"{self.size} {self.step}/{self.end()}  {self.tokens / 1e6:.2f}M tokens  loss {loss:.4f}  "
            f"{tokens_per_s:.0f} tokens/s  {left_s / 60:.0f} min left", flush=True,
        )  # fmt: skip


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SHAPES), default="small")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--end-at-step", type=int, help="end (and decay) here instead of at the recipe's last step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--eager", action="store_true", help="do not compile the layers (slower, no C++ compiler needed)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.runs / arguments.size
    if arguments.end_at_step:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "end_at_step").write_text(str(arguments.end_at_step))
    tokenizer = arguments.runs / "tokenizer" / "tokenizer.json"
    Run(arguments.size, RECIPES[arguments.size], folder, tokenizer, compiled=not arguments.eager).train()


if __name__ == "__main__":
    main()
