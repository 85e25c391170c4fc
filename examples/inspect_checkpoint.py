"""Write a checkpoint, inspect it, and look at one of its tensors: python examples/inspect_checkpoint.py [PICTURE.png]

Prints:

    embed.weight  normal(0, 0.02)           ok
    head.weight   uniform(-0.125, 0.125)    ok
    head.bias     uniform(-0.125, 0.125)    ok
    -0.09
    -0.07 #
    -0.05 ######
    -0.03 #########################
    -0.01 ########################################
    +0.01 #########################
    +0.03 ######
    +0.05 #
    +0.07
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import tritonparam as tp


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(1000, 64), nn.Linear(64, 1000)
        nn.init.normal_(self.embed.weight, std=0.02)


def command(*arguments: str) -> str:
    """What `tritonparam` prints; it finds `Net` in the folder that it is started in."""
    whole = [sys.executable, "-m", "tritonparam", *arguments]
    return subprocess.run(whole, cwd=Path(__file__).parent, check=True, text=True, stdout=subprocess.PIPE).stdout


def bars(values: torch.Tensor) -> None:
    """A histogram in text."""
    counts, edges = torch.histogram(values.flatten(), bins=9, range=(-0.09, 0.09))
    for count, edge in zip(counts.tolist(), edges.tolist(), strict=False):
        print(f"{edge:+.2f} {'#' * round(40 * count / counts.max().item())}".rstrip())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command("init", "inspect_checkpoint:Net", "--out", f"{folder}/net", "--seed", "3")
        picture = ["--plot", str(Path(sys.argv[1]).absolute())] if sys.argv[1:] else []
        found = json.loads(command("inspect", f"{folder}/net", "--json", *picture))
        for each in found["tensors"]:
            print(f"{each['name']:12}  {each['expected']:24}  {each['verdict']}")

        with tp.deferred_init():
            model = Net()
        tp.load(model, f"{folder}/net")
    bars(model.embed.weight.detach())


if __name__ == "__main__":
    main()
