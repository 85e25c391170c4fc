"""The files of a checkpoint: which tensors go into which, what the files are called, and the index that says so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from tritonparam.checkpoint.files import WHOLE_NAME


class Sized(Protocol):
    """Anything that has a size in bytes."""

    @property
    def nbytes(self) -> int:
        """The size."""


AnySized = TypeVar("AnySized", bound=Sized)


def in_groups(items: Iterable[AnySized], max_size: int) -> list[list[AnySized]]:
    """The items, in order, in groups of at most `max_size` bytes; a larger one gets its own. At least one group."""
    groups: list[list[AnySized]] = [[]]
    filled = 0
    for item in items:
        if groups[-1] and filled + item.nbytes > max_size:
            groups.append([])
            filled = 0
        groups[-1].append(item)
        filled += item.nbytes
    return groups


def shard_names(total: int, rank: int | None = None) -> list[str]:
    """What transformers calls the files of a checkpoint of `total` files.

    Where several processes save together, `rank` has `total` of them, called as torch's distributed checkpoint does.

    Examples:
        >>> shard_names(1), shard_names(2)[0], shard_names(1, rank=3)[0]
        (['model.safetensors'], 'model-00001-of-00002.safetensors', 'shard-00004-model-00001-of-00001.safetensors')
    """
    if total == 1 and rank is None:
        return [WHOLE_NAME]
    prefix = "" if rank is None else f"shard-{rank + 1:05}-"
    return [f"{prefix}model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]


def index_text(files: Mapping[str, str], parameters: int, nbytes: int) -> str:
    """The index of a checkpoint of several files: which file has which tensor."""
    metadata = {"total_parameters": parameters, "total_size": nbytes}
    return json.dumps({"metadata": metadata, "weight_map": dict(files)}, indent=2) + "\n"
