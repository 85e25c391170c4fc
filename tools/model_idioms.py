"""Constructors as people write them by hand, each around one idiom."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

IDIOMS: dict[str, Callable[[], nn.Module]] = {}


def _idiom(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    IDIOMS[build.__name__.replace("_", " ")] = build
    return build


def _holder(**tensors: torch.Tensor) -> nn.Module:
    """A module with parameters, and with buffers where a tensor is none."""
    module = nn.Module()
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(name, tensor)
        else:
            module.register_buffer(name, tensor)
    return module


@_idiom
def tied_embedding_and_head() -> nn.Module:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20, bias=False))
    model[1].weight = model[0].weight
    return model


@_idiom
def one_layer_used_twice() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


@_idiom
def views_of_one_parameter() -> nn.Module:
    flat = torch.randn(24)
    return _holder(flat=flat, weight=flat[:20].view(4, 5), bias=flat[20:])


@_idiom
def initialized_in_a_loop_by_kind() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return model


@_idiom
def initialized_by_apply() -> nn.Module:
    def init(module: nn.Module) -> None:
        if hasattr(module, "weight"):
            module.weight.data.normal_(0.0, 0.02)

    return nn.Sequential(nn.Linear(8, 8), nn.Embedding(6, 8)).apply(init)


@_idiom
def initialized_by_names_and_dimensions() -> nn.Module:
    model = nn.TransformerEncoderLayer(16, 2, 32)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, gain=0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model


@_idiom
def scaled_residual_layers() -> nn.Module:
    model = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    with torch.no_grad():
        for n, layer in enumerate(model):
            layer.weight.div_(math.sqrt(2.0 * (n + 1)))
    return model


@_idiom
def moving_average_by_deepcopy() -> nn.Module:
    model = nn.ModuleDict({"online": nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))})
    model["target"] = copy.deepcopy(model["online"]).requires_grad_(False)
    return model


@_idiom
def layers_by_deepcopy() -> nn.Module:
    layer = nn.TransformerDecoderLayer(8, 2, 16)
    return nn.ModuleList(copy.deepcopy(layer) for _ in range(3))


@_idiom
def momentum_encoder_by_copy() -> nn.Module:
    model = nn.ModuleDict({"query": nn.Linear(4, 4), "key": nn.Linear(4, 4)})
    for query, key in zip(model["query"].parameters(), model["key"].parameters(), strict=True):
        key.data.copy_(query.data)
        key.requires_grad = False
    model.register_buffer("queue", nn.functional.normalize(torch.randn(4, 16), dim=0))
    model.register_buffer("pointer", torch.zeros(1, dtype=torch.long))
    return model


@_idiom
def weights_from_a_state_dict() -> nn.Module:
    model = nn.Linear(3, 3)
    other = nn.Linear(3, 3)
    model.load_state_dict(other.state_dict())
    return model


@_idiom
def weight_norm() -> nn.Module:
    return parametrizations.weight_norm(nn.Linear(6, 4))


@_idiom
def weight_norm_by_hooks() -> nn.Module:
    return torch.nn.utils.weight_norm(nn.Conv1d(3, 4, 3), dim=None)


@_idiom
def spectral_norm() -> nn.Module:
    return parametrizations.spectral_norm(nn.Linear(6, 4))


@_idiom
def spectral_norm_by_hooks() -> nn.Module:
    return torch.nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))


@_idiom
def orthogonal_parametrization() -> nn.Module:
    return parametrizations.orthogonal(nn.Linear(5, 5))


@_idiom
def own_parametrization() -> nn.Module:
    class Symmetric(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight.triu() + weight.triu(1).transpose(-1, -2)

    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


@_idiom
def pruned() -> nn.Module:
    from torch.nn.utils import prune

    return prune.l1_unstructured(nn.Linear(6, 4), "weight", amount=0.5)


@_idiom
def sinusoids_by_slices() -> nn.Module:
    table = torch.zeros(16, 8)
    position = torch.arange(16).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, 8, 2) * (-math.log(10_000.0) / 8))
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return _holder(table=table.unsqueeze(0))


@_idiom
def sinusoids_from_numpy() -> nn.Module:
    angles = np.arange(16)[:, None] / np.power(10_000, 2 * (np.arange(8)[None] // 2) / 8)
    angles[:, 0::2], angles[:, 1::2] = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    return _holder(table=nn.Parameter(torch.FloatTensor(angles), requires_grad=False))


@_idiom
def rotary_by_outer() -> nn.Module:
    inverse = 1.0 / (10_000 ** (torch.arange(0, 8, 2, dtype=torch.float32) / 8))
    angles = torch.outer(torch.arange(16), inverse)
    return _holder(
        inverse=inverse, cos=torch.cat([angles, angles], -1).cos(), sin=torch.cat([angles, angles], -1).sin()
    )


@_idiom
def rotary_by_polar() -> nn.Module:
    angles = torch.outer(torch.arange(16.0), 1.0 / (10_000 ** (torch.arange(0, 8, 2).float() / 8)))
    return _holder(rotations=torch.polar(torch.ones_like(angles), angles))


@_idiom
def causal_mask_by_triu() -> nn.Module:
    return _holder(
        mask=torch.triu(torch.full((8, 8), float("-inf")), diagonal=1), tril=torch.tril(torch.ones(8, 8)).bool()
    )


@_idiom
def causal_mask_by_masked_fill() -> nn.Module:
    mask = (torch.triu(torch.ones(8, 8)) == 1).transpose(0, 1)
    return _holder(mask=mask.float().masked_fill(mask == 0, float("-inf")).masked_fill(mask == 1, 0.0))


@_idiom
def slopes_of_alibi() -> nn.Module:
    slopes = torch.tensor([2 ** (-8 * (n + 1) / 4) for n in range(4)])
    return _holder(bias=slopes.view(4, 1, 1) * -(torch.arange(8)[None] - torch.arange(8)[:, None]).abs())


@_idiom
def relative_positions_of_windows() -> nn.Module:
    grid = torch.stack(torch.meshgrid([torch.arange(4), torch.arange(4)], indexing="ij")).flatten(1)
    relative = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0).contiguous()
    relative[:, :, 0] += 3
    relative[:, :, 1] += 3
    relative[:, :, 0] *= 7
    table = nn.Parameter(torch.zeros(49, 2))
    nn.init.trunc_normal_(table, std=0.02)
    return _holder(table=table, index=relative.sum(-1))


@_idiom
def attention_mask_of_shifted_windows() -> nn.Module:
    image = torch.zeros((1, 8, 8, 1))
    slices = (slice(0, -4), slice(-4, -2), slice(-2, None))
    for n, (high, wide) in enumerate((a, b) for a in slices for b in slices):
        image[:, high, wide, :] = n
    windows = image.view(1, 2, 4, 2, 4, 1).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16)
    mask = windows.unsqueeze(1) - windows.unsqueeze(2)
    return _holder(mask=mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0))


@_idiom
def padding_row() -> nn.Module:
    layer = nn.Embedding(10, 4, padding_idx=3)
    nn.init.normal_(layer.weight, std=0.1)
    with torch.no_grad():
        layer.weight[layer.padding_idx].fill_(0)
    return layer


@_idiom
def embedding_of_given_weights() -> nn.Module:
    return nn.Embedding.from_pretrained(torch.rand(6, 3), freeze=False)


@_idiom
def orthogonal_and_chunks_of_a_recurrent_layer() -> nn.Module:
    layer = nn.LSTM(4, 6, num_layers=2, bidirectional=True)
    for name, parameter in layer.named_parameters():
        if "weight_hh" in name:
            for chunk in parameter.chunk(4, 0):
                nn.init.orthogonal_(chunk)
        elif "bias" in name:
            nn.init.zeros_(parameter)
            parameter.data[6:12].fill_(1.0)
    return layer


@_idiom
def dirac_eye_and_sparse() -> nn.Module:
    model = nn.ModuleList([nn.Conv1d(4, 4, 3), nn.Linear(4, 4), nn.Linear(20, 6)])
    nn.init.dirac_(model[0].weight)
    nn.init.eye_(model[1].weight)
    nn.init.sparse_(model[2].weight, 0.5)
    return model


@_idiom
def real_parameters_of_a_state_space() -> nn.Module:
    rates = torch.arange(1, 5, dtype=torch.float32).repeat(6, 1).contiguous()
    steps = torch.exp(torch.rand(6) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
    bias = steps + torch.log(-torch.expm1(-steps))
    return _holder(a_log=nn.Parameter(torch.log(rates)), bias=nn.Parameter(bias), d=nn.Parameter(torch.ones(6)))


@_idiom
def hippo_matrix() -> nn.Module:
    q = torch.arange(6, dtype=torch.float64)
    row, column = torch.meshgrid(q, q, indexing="ij")
    a = -torch.where(row > column, (2 * q + 1) ** 0.5 * row, torch.diag(q + 1))
    return _holder(a=nn.Parameter(a.float()), b=((2 * q + 1) ** 0.5).float())


@_idiom
def complex_parameters() -> nn.Module:
    return _holder(
        weight=nn.Parameter(0.02 * torch.randn(4, 3, dtype=torch.cfloat)), real=nn.Parameter(torch.randn(4, 3, 2))
    )


@_idiom
def schedule_of_a_diffusion() -> nn.Module:
    betas = torch.linspace(1e-4, 0.02, 20, dtype=torch.float64)
    cumulative = torch.cumprod(1.0 - betas, 0)
    previous = nn.functional.pad(cumulative[:-1], (1, 0), value=1.0)
    return _holder(betas=betas.float(), alphas=cumulative.sqrt().float(), posterior=(betas * (1 - previous)).float())


@_idiom
def random_features() -> nn.Module:
    blocks = [torch.linalg.qr(torch.randn(4, 4))[0].t() for _ in range(2)]
    return _holder(features=torch.cat(blocks)[:6] * torch.randn(6, 4).norm(dim=1, keepdim=True))


@_idiom
def codebook_of_a_quantizer() -> nn.Module:
    layer = nn.Embedding(8, 4)
    layer.weight.data.uniform_(-1.0 / 8, 1.0 / 8)
    layer.register_buffer("average", layer.weight.data.clone())
    layer.register_buffer("size", torch.zeros(8))
    return layer


@_idiom
def indices_by_lists_and_masks() -> nn.Module:
    table = torch.zeros(6, 6)
    table[[0, 2, 4]] = 1.0
    table[:, [1, 3]] = torch.tensor([2.0, 3.0])
    table[table.sum(1) > 6] *= -1
    table[torch.arange(6), torch.randperm(6)] = 9.0
    return _holder(table=table)


@_idiom
def values_asked_for() -> nn.Module:
    lengths = torch.tensor([3, 1, 2])
    rates = [each.item() for each in torch.linspace(0, 0.1, 3)]
    layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(rate)) for rate in rates)
    layers.register_buffer("offsets", lengths.cumsum(0))
    layers.register_buffer("owner", torch.repeat_interleave(torch.arange(3), lengths))
    return layers if lengths.max() == 3 else nn.Identity()


@_idiom
def lists_of_parameters() -> nn.Module:
    model = nn.Module()
    model.weights = nn.ParameterList([nn.Parameter(torch.randn(2, n + 1)) for n in range(3)])
    model.by_name = nn.ParameterDict({"a": torch.zeros(2), "b": nn.Parameter(torch.ones(1))})
    return model


@_idiom
def nested_lists_of_modules() -> nn.Module:
    return nn.ModuleList(nn.ModuleList(nn.ModuleDict({"a": nn.Linear(2, 2)}) for _ in range(2)) for _ in range(2))


@_idiom
def lazy_layers_of_known_shape() -> nn.Module:
    layer = nn.LazyLinear(4)
    layer(torch.zeros(1, 3))
    return layer


@_idiom
def frozen_and_in_another_dtype() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).to(torch.bfloat16)
    model[1].float()
    return model.requires_grad_(False)


@_idiom
def made_in_the_default_dtype() -> nn.Module:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return nn.Sequential(nn.Linear(3, 3), nn.Embedding(3, 3))
    finally:
        torch.set_default_dtype(before)


@_idiom
def factory_arguments() -> nn.Module:
    make = functools.partial(nn.Linear, device="cpu", dtype=torch.float16)
    return nn.Sequential(make(4, 4), make(4, 2, bias=False))


@_idiom
def batch_norm_folded_into_a_convolution() -> nn.Module:
    return torch.nn.utils.fuse_conv_bn_eval(nn.Conv2d(3, 4, 3).eval(), nn.BatchNorm2d(4).eval())


@_idiom
def low_rank_adapter() -> nn.Module:
    layer = nn.Linear(8, 8).requires_grad_(False)
    layer.lora_a = nn.Parameter(torch.empty(2, 8))
    layer.lora_b = nn.Parameter(torch.zeros(8, 2))
    nn.init.kaiming_uniform_(layer.lora_a, a=math.sqrt(5))
    layer.weight.data = layer.weight.data + layer.lora_b.data @ layer.lora_a.data
    return layer


@_idiom
def experts_stacked() -> nn.Module:
    return _holder(up=nn.Parameter(torch.stack([nn.Linear(4, 8).weight.detach() for _ in range(3)])))


@_idiom
def identity_plus_noise() -> nn.Module:
    return _holder(weight=nn.Parameter(torch.eye(6) + 0.01 * torch.randn(6, 6)))


@_idiom
def singular_values_clipped() -> nn.Module:
    layer = nn.Linear(6, 4)
    u, s, v = torch.linalg.svd(layer.weight.data, full_matrices=False)
    layer.weight.data = u @ torch.diag(s.clamp(max=0.5)) @ v
    return layer


@_idiom
def class_token_and_positions() -> nn.Module:
    model = _holder(token=nn.Parameter(torch.zeros(1, 1, 8)), positions=nn.Parameter(torch.randn(1, 17, 8) * 0.02))
    nn.init.normal_(model.token, std=1e-6)
    return model


@_idiom
def tensor_in_a_plain_attribute() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.scale = torch.ones(2) / 2
    return layer


@_idiom
def tensor_in_an_object_of_an_own_class() -> nn.Module:
    class Scale:
        def __init__(self) -> None:
            self.value = torch.ones(2) / 2

    layer = nn.Linear(2, 2)
    layer.scale = Scale()
    return layer
