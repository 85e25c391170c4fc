"""A small GPT, built without memory, made real from a seed, and trained: python examples/nanogpt.py

Prints:

    meta, then cpu; 112,384 parameters
    step  0: loss 4.82
    step 10: loss 3.31
    step 20: loss 3.08
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

import tritonparam as tp


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, words: int = 128, width: int = 64, heads: int = 4, blocks: int = 2, context: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(words, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.head.weight = self.tokens.weight  # tied, as in GPT-2
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # GPT-2's law: smaller where a block writes to the residual stream
                nn.init.normal_(parameter, std=0.02 / (2 * blocks) ** 0.5 if "out" in name or "down" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def main() -> None:
    with tp.deferred_init():
        model = GPT()
    before = model.tokens.weight.device
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tp.materialize(model, seed=1337, device=device)
    print(f"{before}, then {device}; {sum(each.numel() for each in model.parameters()):,} parameters")

    text = torch.tensor(list((Path(__file__).parents[1] / "LICENSE").read_bytes()), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    starts = torch.Generator().manual_seed(0)  # of the data; the model has its own seed
    for step in range(21):
        rows = torch.stack([text[n : n + 65] for n in torch.randint(len(text) - 65, (16,), generator=starts).tolist()])
        loss = cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step:2}: loss {loss.item():.2f}")


if __name__ == "__main__":
    main()
