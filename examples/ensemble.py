"""An ensemble: one architecture, several seeds: python examples/ensemble.py

    +--------------------------------------------------------------------------+
    | Two models of one architecture need two seeds.                           |
    | A value depends on the seed and the name of its tensor. All members have |
    | the same names, so with one seed they would all be the same model.       |
    +--------------------------------------------------------------------------+

Prints:

    seeds 0 and 0: 1 model
    seeds 0 to 3: 4 models
    one member alone is the member of the ensemble: True
    inside the data the members differ by 0.03
    outside the data the members differ by 0.32
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss

import tritonparam as tp


def member(seed: int) -> nn.Module:
    """A model that depends on its seed alone: any process makes any member, in any order."""
    with tp.deferred_init():
        model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
        nn.init.normal_(model[0].weight, std=3.0)
    return tp.materialize(model, seed=seed)


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        mse_loss(model(x), y).backward()
        optimizer.step()


def main() -> None:
    equal = {tp.fingerprint(member(0)).total, tp.fingerprint(member(0)).total}
    print(f"seeds 0 and 0: {len(equal)} model")
    ensemble = [member(seed) for seed in range(4)]
    print(f"seeds 0 to 3: {len({tp.fingerprint(each).total for each in ensemble})} models")
    print("one member alone is the member of the ensemble:", tp.fingerprint(member(2)) == tp.fingerprint(ensemble[2]))

    x = torch.linspace(-2, 2, 40).unsqueeze(1)
    for model in ensemble:
        train(model, x, torch.sin(3 * x))
    for where, points in (("inside", (-1.5, 1.5)), ("outside", (3.5, 4.5))):
        with torch.no_grad():
            answers = torch.stack([model(torch.linspace(*points, 50).unsqueeze(1)) for model in ensemble])
        print(f"{where} the data the members differ by {answers.std(0).mean().item():.2f}")


if __name__ == "__main__":
    main()
