"""Meshes that need not exist: the sizes of their dimensions, by the names that trainers give them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tritonparam._arguments import got, integer, shown

MOST_RANKS = 1 << 20
_ENTRY = re.compile(r"\s*([^\s=,]+)\s*=\s*([+-]?\d{1,18})\s*")


@dataclass(frozen=True)
class MeshShape:
    """How many ranks lie along each dimension of a device mesh, outermost first, as torchtitan orders them.

    Ranks are numbered in row-major order, so those of one tensor-parallel group are neighbours.

    Attributes:
        pp: Stages of a pipeline.
        dp_replicate: Replicas of data parallelism (HSDP), which hold the same.
        dp_shard: Shards of data parallelism (`fully_shard`).
        cp: Context parallelism, over which parameters are sharded as over `dp_shard`.
        tp: Tensor parallelism.

    Raises:
        TypeError: A size is no int.
        ValueError: A size is less than 1, or there are more than 2**20 ranks.

    Examples:
        >>> mesh = MeshShape(dp_shard=4, tp=2)
        >>> mesh.ranks, mesh.coordinate(5)
        (8, {'pp': 0, 'dp_replicate': 0, 'dp_shard': 2, 'cp': 0, 'tp': 1})
        >>> print(mesh)
        dp_shard=4,tp=2
    """

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        for name in DIMENSIONS:
            size = integer(name, getattr(self, name))
            if not 1 <= size <= MOST_RANKS:
                raise ValueError(f"{name} must be from 1 to {MOST_RANKS:,}, got {shown(size)}")
            object.__setattr__(self, name, size)
        if self.ranks > MOST_RANKS:
            raise ValueError(f"a mesh must have at most {MOST_RANKS:,} ranks, got {self} with {self.ranks:,}")

    def __str__(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.sizes().items() if size > 1) or "1 rank"

    @classmethod
    def parse(cls, text: str, argument: str = "mesh") -> MeshShape:
        """The mesh that a text such as "dp_shard=128,tp=8" says; the order of its entries says nothing.

        Raises:
            TypeError: It is no string.
            ValueError: It is no such text, or names another dimension, or one twice; or as for the class.

        Examples:
            >>> MeshShape.parse("tp=8, dp_shard=128").ranks
            1024
        """
        if not isinstance(text, str):
            raise TypeError(f"{argument} must be a string such as 'dp_shard=128,tp=8', {got(text)}")
        sizes: dict[str, int] = {}
        for entry in text.split(","):
            found = _ENTRY.fullmatch(entry)
            if found is None:
                raise ValueError(f"{argument} must be sizes by name, such as 'dp_shard=128,tp=8', got {shown(text)}")
            if found[1] in sizes:
                raise ValueError(f"{argument} must name each dimension once, got {found[1]} twice in {shown(text)}")
            sizes[found[1]] = int(found[2])
        return cls.of(sizes, argument)

    @classmethod
    def of(cls, mesh: MeshShape | str | Mapping[str, int], argument: str = "mesh") -> MeshShape:
        """What a caller gives as a mesh: one, a text for `parse`, or sizes by name.

        Raises:
            TypeError: It is none of these, or a size is no int.
            ValueError: A dimension has another name; or as for the class.

        Examples:
            >>> MeshShape.of({"pp": 4, "tp": 2})
            MeshShape(pp=4, dp_replicate=1, dp_shard=1, cp=1, tp=2)
        """
        if isinstance(mesh, MeshShape):
            return mesh
        if isinstance(mesh, str):
            return cls.parse(mesh, argument)
        if not isinstance(mesh, Mapping):
            raise TypeError(f"{argument} must be a MeshShape, a string or a mapping of sizes, {got(mesh)}")
        values: Mapping[Any, Any] = mesh
        for name in values:
            if name not in DIMENSIONS:
                raise ValueError(f"{argument} must name dimensions among {', '.join(DIMENSIONS)}, got {shown(name)}")
        return cls(**values)

    @property
    def ranks(self) -> int:
        """How many there are."""
        return math.prod(self.sizes().values())

    @property
    def shards(self) -> int:
        """Into how many parts `fully_shard` cuts: over dp_shard and, within it, cp."""
        return self.dp_shard * self.cp

    def sizes(self) -> dict[str, int]:
        """The size of each dimension, outermost first."""
        return {name: getattr(self, name) for name in DIMENSIONS}

    def shard_of(self, at: Mapping[str, int]) -> int:
        """Which of `shards` a rank has, from where it is along each dimension."""
        return at["dp_shard"] * self.cp + at["cp"]

    def coordinate(self, rank: int) -> dict[str, int]:
        """Where a rank is along each dimension.

        Raises:
            TypeError: It is no int.
            ValueError: There is no such rank.
        """
        rest = integer("rank", rank)
        if not 0 <= rest < self.ranks:
            raise ValueError(f"rank must be from 0 to {self.ranks - 1}, got {shown(rank)}")
        found: dict[str, int] = {}
        for name, size in reversed(self.sizes().items()):
            rest, found[name] = divmod(rest, size)
        return {name: found[name] for name in DIMENSIONS}


DIMENSIONS = tuple(field.name for field in fields(MeshShape))
