"""The model of these examples, and what they say about it."""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from tritonparam import fingerprint


class Block(nn.Module):
    """Attention and a feed-forward network of two layers; as many heads as the projections have, so that TP may cut."""

    def __init__(self, width: int = 64, head: int = 16) -> None:
        super().__init__()
        self.head = head
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.o = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.q, self.k, self.v, self.o, self.up, self.down):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        q, k, v = (layer(h).unflatten(-1, (-1, self.head)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.o(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class TinyGPT(nn.Module):
    """A small GPT. A stage of a pipeline has no embedding, some of the blocks, or no head."""

    def __init__(self, vocabulary: int = 251, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.embedding: nn.Module | None = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleDict({str(number): Block(width) for number in range(blocks)})
        self.norm: nn.Module | None = nn.RMSNorm(width)
        self.head: nn.Module | None = nn.Linear(width, vocabulary, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.embedding is None else self.embedding(x)
        for block in self.blocks.values():
            x = block(x)
        return x if self.head is None or self.norm is None else self.head(self.norm(x))


def begin() -> str:
    """Join the processes that torchrun has started; returns the kind of device that each has."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group()
    torch.manual_seed(torch.distributed.get_rank())  # as badly as can be: every process has random numbers of its own
    return kind


def train(model: nn.Module) -> None:
    """A training step."""
    ids = torch.arange(64, device=next(model.parameters()).device).view(2, 32)
    loss = cross_entropy(model(ids).flatten(0, 1), (ids + 1).flatten())
    loss.backward()
    torch.optim.AdamW(model.parameters()).step()
    if torch.distributed.get_rank() == 0:
        print(f"loss {loss.item():.4f}")


def tell(model: nn.Module) -> None:
    """Print what the first process holds of the model, and the fingerprint of what all hold together."""
    whole = fingerprint(model, group=torch.distributed.group.WORLD)
    here = sum(
        (each.to_local() if isinstance(each, DTensor) else each).untyped_storage().nbytes()
        for each in model.parameters()
    )
    if torch.distributed.get_rank() == 0:
        print(f"{torch.distributed.get_world_size()} processes, {here:,} bytes in the first, fingerprint {whole}")
