"""ParameterTuple: parameters of different names, brought to life together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tritonparam._arguments import entries, got, shown
from tritonparam.dtype import DTypeLike
from tritonparam.parameter.clones import fill_clones
from tritonparam.parameter.flags import LONGEST_NAME, TABLE, checked_name, checked_prefix
from tritonparam.parameter.parameter import Parameter
from tritonparam.tensor import Device, Tensor, realize


class ParameterTuple(tuple[Parameter, ...]):
    """Parameters of different names, which become real together, in one plan. Slices and sums are plain tuples.

    One Parameter may come several times. (For two of one name, MindSpore 1.3 renames the caller's parameters, and may
    hit on a name that is taken; here it is an error, as in 2.10.)

    Args:
        parameters: Any iterable of Parameters.

    Raises:
        TypeError: It is not iterable, or holds anything else, or is itself a Tensor.
        ValueError: Two of the Parameters have the same name.

    Examples:
        >>> from tritonparam.initializer import initializer
        >>> layers = ParameterTuple(Parameter(initializer("he_normal", [4, 4]), name=f"w{i}") for i in range(3))
        >>> any(p.has_init for p in layers.init_data())
        False
    """

    __slots__ = ()

    def __new__(cls, parameters: Iterable[Parameter]) -> ParameterTuple:
        if isinstance(parameters, Tensor):
            raise TypeError(f"parameters must be an iterable of Parameters, got the single {shown(parameters)}")
        members = tuple(entries("parameters", parameters, "an iterable of Parameters"))
        for index, member in enumerate(members):
            if not isinstance(member, Parameter):
                raise TypeError(f"parameters must hold Parameters only, {got(member)} at {index}")
        places: dict[str, int] = {}
        for index, member in enumerate(members):
            first = places.setdefault(member.name, index)
            if members[first] is not member:
                raise ValueError(
                    f"parameters must have different names, got {shown(member.name)} at {first} and at {index}"
                )
        return super().__new__(cls, members)

    def init_data(self, *, device: Device = None, backend: str | None = None) -> ParameterTuple:
        """Make all lazy members real in one plan, so that CUDA launches do not grow in number with the members.

        Each gets the values that its own `init_data` would have given it.

        Args:
            device: A CPU or CUDA device; None for torch's default device. Members that are real already stay where they
                are.
            backend: What writes the values, as for `Plan`; None for the device's own.

        Returns:
            This tuple.

        Raises:
            ValueError: There is no such device or backend.
        """
        realize(self, device, backend)
        return self

    def clone(self, prefix: str, init: Any = "same", dtype: DTypeLike | None = None) -> ParameterTuple:
        """A tuple of clones called `prefix.name`; one that comes several times here comes as often there.

        Random numbers depend on the new names. Those that become real, because the originals are, lie one behind the
        other in one allocation on each device, each at a multiple of 256 bytes, and are written by one plan, with no
        copies between. Each has a storage of its own: one that is saved, pickled or copied takes its own bytes along
        and no others, and the memory is given back with the last of them. What such storages do not do: be resized,
        and on CUDA take note of other streams (`record_stream`) and go to other processes by `torch.multiprocessing`.

        Args:
            prefix: ASCII letters, digits, "_" and ".", at least one, the first not ".". One that ends in "." makes
                names with two, as in MindSpore.
            init: As for `Parameter.clone`; a Tensor must have the shape of every member.
            dtype: Of the clones, as for `Parameter.clone`; None for those of the members.

        Raises:
            TypeError: prefix is no string, or init of another type, or a Tensor of a dtype that a member does not take,
                or a member does not go into dtype.
            ValueError: prefix has other characters, a new name would be too long, or init is no name of an initializer
                or does not go with the shape of a member.
            RuntimeError: A member has cache_enable, and its new name does not end in "embedding_table".

        Examples:
            >>> weights = ParameterTuple([Parameter([1.0, 2.0], "w"), Parameter(3.0, "b")])
            >>> [(p.name, p.asnumpy().tolist()) for p in weights.clone("moments", init="zeros")]
            [('moments.w', [0.0, 0.0]), ('moments.b', 0.0)]
            >>> [str(p.dtype) for p in weights.clone("master", dtype="float64")]
            ['Float64', 'Float64']
        """
        before = checked_prefix(prefix)
        members = {id(member): member for member in self}
        made: dict[int, tuple[Parameter, Parameter]] = {}
        names: set[str] = set()
        for key, member in members.items():
            name = f"{before}.{member._name}"
            if len(name) > LONGEST_NAME:
                name = checked_name(name)
            if member.__dict__["cache_enable"] and not name.endswith(TABLE):
                raise RuntimeError(f"cache_enable must be False unless the name ends in {TABLE!r}, got {shown(name)}")
            made[key] = member, member._like(name)
            names.add(name)
        fill_clones(made.values(), init, dtype)
        clones = [made[id(member)][1] for member in self]
        # Members may have been renamed since they were put together.
        return tuple.__new__(ParameterTuple, clones) if len(names) == len(made) else ParameterTuple(clones)
