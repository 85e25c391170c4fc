"""The Parameter class; `tritonparam.parameter` has it, and what groups of them are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from tritonparam._flags import TABLE, Flag, Group, checked_bool, checked_name
from tritonparam._layout import box_of
from tritonparam._set_data import cloned_data, copy_of, copy_of_input, declared, device_of, drawn, incoming, overlap
from tritonparam._views import Box
from tritonparam.dtype import DType
from tritonparam.generator import get_generator
from tritonparam.tensor import _REALIZING, Device, Tensor, TorchTensor, realize

_CLONED = ("layerwise_parallel", "parallel_optimizer", "comm_fusion", "cache_enable", "is_param_ps", "init_in_server")


class Parameter(Tensor):
    """A named tensor, lazy if it is made from an initializer: then it holds no data until its values are asked for.

    What it will hold is settled when it is made. Its random numbers depend on the seed of the generator in use then, on
    its name then, and on how many lazy parameters of that name that generator has seen before; they do not depend on
    other names, on device, backend or the order in which parameters become real, nor on later renaming or seeding.

    `.torch` of a floating-point parameter is a `torch.nn.Parameter`, on the meta device while this is lazy. It stays
    the same object when this becomes real, so an optimizer may be made before or after. What torch writes into it while
    this is lazy does not last; `copy_`, and so a module's `load_state_dict`, says so (RuntimeError): give `set_data`
    the values, or make this real first. With assign=True, `load_state_dict` puts other objects into the module, which
    are not this parameter's. A module that is copied or pickled keeps its tie to a lazy parameter if that goes along.

    MindSpore makes the parameter real at once unless a parallel mode is set, and the tensor that it is made from with
    it. Here both stay as they are.

    Args:
        default_input: What `initializer(...)` returns; or data, which is copied: a Tensor, a torch tensor, a NumPy
            array or scalar, an int (Int32), a float (Float32), or a list of numbers (Int64, Float32 or Bool). Another
            Parameter gives its values, data or drawn later, and nothing else.
        name: At most 1024 characters, blanks at the ends not counted. None or blank means "Parameter".
        requires_grad: Whether gradients are wanted. Integers have none, whatever this says.
        layerwise_parallel: Each process has its own: gradients are not to be averaged over processes.
        parallel_optimizer: An optimizer may shard its state.

    Attributes:
        layerwise_parallel, parallel_optimizer: As given; bools.
        comm_fusion: An int >= 0, 1 at first: communication of parameters with one number may be fused; 0 for none.
        cache_enable: A bool, False at first: an embedding table is cached.
        is_param_ps, init_in_server: False at first; what `set_param_ps` sets.
        unique: False at first: sparse indices are known to be unique. Not checked.
        sliced: Whether this holds a slice of a larger whole, as `init_data` and `set_data` were told. Not checked.
        is_init: Nothing here sets it: in MindSpore it tells that a device still has to copy its data back, and here
            values are written in the order of the device's stream, like those of any torch operation. Not checked.

    Raises:
        TypeError: default_input is of another type, or a flag is no bool.
        ValueError: default_input is a bool or an int beyond Int32, or name is too long or no string.

    Examples:
        >>> from tritonparam.initializer import initializer
        >>> w = Parameter(initializer("normal", [2, 3]), name="w")
        >>> print(w, w.has_init)
        Parameter (name=w, shape=(2, 3), dtype=Float32, requires_grad=True) True
        >>> optimizer = torch.optim.SGD([w.torch], lr=0.1)
        >>> w.init_data() is w, optimizer.param_groups[0]["params"][0] is w.torch
        (True, True)
    """

    layerwise_parallel = Flag()
    parallel_optimizer = Flag()
    cache_enable = Flag()
    comm_fusion = Group()

    def __init__(
        self,
        default_input: Any,
        name: str | None = None,
        requires_grad: bool = True,
        layerwise_parallel: bool = False,
        parallel_optimizer: bool = True,
    ) -> None:
        self._name = checked_name(name)
        self._requires_grad = checked_bool("requires_grad", requires_grad)
        self.layerwise_parallel = layerwise_parallel
        self.parallel_optimizer = parallel_optimizer
        self.comm_fusion, self.cache_enable, self.cache_shape = 1, False, []
        self.is_param_ps = self.init_in_server = False
        if not isinstance(default_input, Tensor) or not default_input.has_init:
            self._start(copy_of_input(default_input))
            return
        with _REALIZING:  # it may be becoming real
            lazy = default_input.has_init
            self._start(self._own(default_input, default_input.dtype) if lazy else copy_of_input(default_input))

    def _start(self, source: Tensor | TorchTensor) -> None:
        """Hold `source`, a lazy tensor or storage that nobody else has, and be new in all that is not copied."""
        self.unique = self.sliced = self.is_init = False
        self._was_lazy = isinstance(source, Tensor)
        if isinstance(source, Tensor):
            self._hold(source._torch, source._law, source._key)
        else:
            self._hold(source, None, 0)

    def _own(self, source: Tensor | TorchTensor, dtype: DType, device: Device = None) -> Tensor | TorchTensor:
        """`source` as this parameter has it: a Parameter's values are its own, other lazy tensors' are drawn anew."""
        if not isinstance(source, Tensor):
            return source
        if not isinstance(source, Parameter):
            return declared(source, dtype, get_generator().key(self._name))
        # What another dtype has rounded stays so.
        return declared(source, dtype, source._key) if source.dtype is dtype else drawn(source, device)

    def _dressed(self, storage: TorchTensor) -> TorchTensor:
        if not storage.is_floating_point():
            return storage
        with torch.inference_mode(False):
            return torch.nn.Parameter(storage, requires_grad=self.requires_grad)

    @property
    def name(self) -> str:
        """The name; setting it follows the rules of the constructor and changes no value."""
        return self._name

    @name.setter
    def name(self, name: str | None) -> None:
        self._name = checked_name(name)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are wanted; the same as that of `.torch` where that is a `torch.nn.Parameter`."""
        return self._torch.requires_grad if isinstance(self._torch, torch.nn.Parameter) else self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        self._requires_grad = checked_bool("requires_grad", requires_grad)
        if isinstance(self._torch, torch.nn.Parameter):
            self._torch.requires_grad_(requires_grad)

    @property
    def cache_shape(self) -> list[Any]:
        """The shape of the cache of an embedding table; set as a tuple or list, kept as a list."""
        return self._cache_shape

    @cache_shape.setter
    def cache_shape(self, cache_shape: list[Any] | tuple[Any, ...]) -> None:
        given: object = cache_shape
        if not isinstance(given, (list, tuple)):
            raise TypeError(f"cache_shape must be a list or tuple, got {given!r} of type {type(given).__name__}")
        self._cache_shape = list(given)

    @property
    def data(self) -> Parameter:
        """The parameter itself, as in MindSpore 1.3."""
        return self

    @property
    def inited_param(self) -> Parameter | None:
        """The parameter that holds the values of one that was lazy, which is itself; None before, and if made of data.

        Examples:
            >>> from tritonparam.initializer import initializer
            >>> w = Parameter(initializer("ones", [2]))
            >>> w.inited_param is None, w.init_data().inited_param is w
            (True, True)
        """
        return self if self._was_lazy and not self.has_init else None

    @property
    def init_mode(self) -> Tensor | None:
        """While this is lazy, a lazy tensor of the same values; None once it is real."""
        with _REALIZING:
            return declared(self, self.dtype, self._key) if self.has_init else None

    def init_data(
        self,
        layout: tuple[Any, ...] | None = None,
        set_sliced: bool = False,
        *,
        rank: int | None = None,
        device: Device = None,
        backend: str | None = None,
    ) -> Parameter:
        """Make this parameter real, in place; one that is real already stays as and where it is, whatever is asked.

        The values are those that the class describes: they do not depend on layout, device or backend. With a layout
        this becomes the box that it says of them: putting the boxes of all ranks together gives, bit for bit, what it
        would be without. (MindSpore draws every slice for itself, from the shape of the slice.)

        Args:
            layout: MindSpore's tuple (device_matrix, tensor_map, slice_shape, field_size, uniform_split,
                opt_shard_group): `device_matrix` is how the processes are arranged, `tensor_map` the axis of it,
                counted from the last, along which each dimension is cut (-1: not), `slice_shape` what comes of it.
                field_size must be 0, uniform_split true and opt_shard_group None, "", a torch ProcessGroup or a pair
                (rank, size), by which the first dimension is cut again. Or torch's pair (DeviceMesh, placements), with
                a Shard or Replicate for each dimension of the mesh: this becomes the local tensor of the DTensor that
                `distribute_tensor` would make. Such shards may be uneven, and empty.
            set_sliced: What `sliced` becomes.
            rank: The process; None for that of torch.distributed, or of this process in the mesh. Goes with layout.
            device: A CPU or CUDA device; None for torch's default device.
            backend: What writes the values, as for `Plan`; None for the device's own.

        Returns:
            This parameter.

        Raises:
            TypeError: An argument has none of these types.
            ValueError: There is no such device, backend or rank, MindSpore's layout cuts unevenly or contradicts
                itself, or placements are of another kind or do not go with the mesh, which may be without this process,
                or with the shape.
            RuntimeError: MindSpore's layout without rank, and torch.distributed is not initialized; or device is a CUDA
                device and this process is the fork of one that had used CUDA.

        Examples:
            >>> from tritonparam.initializer import initializer
            >>> Parameter(initializer("ones", [2]), name="scale").init_data().asnumpy()
            array([1., 1.], dtype=float32)
            >>> layout = ([2], [0, -1], [2, 3], 0, True, "")
            >>> print(Parameter(initializer("normal", [4, 3])).init_data(layout, True, rank=1))
            Parameter (name=Parameter, shape=(2, 3), dtype=Float32, requires_grad=True)
        """
        with _REALIZING:
            if not self.has_init:
                return self
            checked_bool("set_sliced", set_sliced)
            if layout is None and rank is not None:
                raise ValueError(f"rank goes with layout; without one it must be None, got {rank!r}")
            box = Box.whole(self.shape) if layout is None else box_of(layout, self.shape, rank)
            realize([self], device, backend, {self: box})
            self.sliced = set_sliced
        return self

    def set_data(self, data: Any, slice_shape: bool = False) -> Parameter:
        """Copy the values of `data`, cast to this parameter's dtype, into it; a call that raises changes nothing.

        `.torch` stays the same object. Where the shape stays, a real parameter's values are overwritten where they are,
        so views of it, its gradient and an optimizer's state remain; where it changes, the gradient is dropped, and
        an optimizer's state no longer fits. A real parameter stays on its device.

        A lazy parameter becomes real by data, on their device, and stays lazy by a lazy tensor. (MindSpore 1.3 refuses
        the first; 2.10 checks neither shape nor dtype; both share memory with a Tensor of the same dtype.)

        Args:
            data: A Tensor, a torch tensor, a NumPy array, an int or a float (shape ()); an Initializer for this
                parameter's shape; or a lazy tensor, whose initializer is drawn from as at construction, by this
                parameter's name. A lazy Parameter gives its own values.
            slice_shape: Whether the shape may change; `sliced` becomes this.

        Returns:
            This parameter.

        Raises:
            TypeError: data is of another type, or of a dtype that this one's does not take. From low to high: Bool,
                Int8, UInt8, Int16, UInt16, Int32, UInt32, Int64, UInt64, the 8-bit floats, Float16 and BFloat16,
                Float32, Float64. Lower ones are taken, and of Python's numbers an int by all, a float by floats.
            ValueError: data has another shape and slice_shape is False, or is a number that does not fit.
            RuntimeError: The shape changes, or this is lazy, while autograd holds on to `.torch`.

        Examples:
            >>> w = Parameter([1.0, 2.0])
            >>> w.set_data(Tensor([3, 4])).asnumpy()
            array([3., 4.], dtype=float32)
        """
        checked_bool("slice_shape", slice_shape)
        with _REALIZING, torch.inference_mode(False), torch.no_grad():
            device = device_of(self._torch)
            source = self._own(incoming("data", data, self, slice_shape), self.dtype, device)
            if isinstance(source, Tensor) and self.has_init:
                if source.shape != self.shape:
                    self._become(source._torch)
                self._law, self._key = source._law, source._key
            else:
                storage = drawn(source, device) if isinstance(source, Tensor) else source
                if device is not None and storage.shape == self._torch.shape:
                    self._torch.copy_(storage.clone() if overlap(storage, self._torch) else storage)
                else:
                    self._become(copy_of(storage, device, self.dtype))
            self.sliced = slice_shape
        return self

    def _cloned(self, source: Tensor | TorchTensor, name: str) -> Parameter:
        """A parameter of this one's flags, with what `source` gives it: lazy where that is."""
        other = Parameter.__new__(Parameter)
        other._name, other._requires_grad, other.cache_shape = name, self.requires_grad, self.cache_shape
        for flag in _CLONED:
            setattr(other, flag, getattr(self, flag))
        device = device_of(self._torch)
        own = other._own(source, self.dtype, device)
        other._start(own if isinstance(own, Tensor) else copy_of(own, device, self.dtype))
        return other

    def clone(self, init: Any = "same") -> Parameter:
        """A new parameter of the same name, shape and dtype, with data of its own, on the same device.

        It has this one's requires_grad, layerwise_parallel, parallel_optimizer, comm_fusion, cache_enable, cache_shape,
        is_param_ps and init_in_server; `unique`, `sliced`, `is_init`, `inited_param`, attributes that the user added,
        the gradient and the hooks are not taken along.

        It is lazy if this one is and `init` is no data. With "same" it then has the values that this one has
        or will have. (In MindSpore only one of the two can be made real.)

        Args:
            init: "same"; or what `initializer` takes: the name of an initializer, a number, an Initializer, or a Tensor
                of this shape, of a dtype that `set_data` takes. Random numbers are those of a further parameter of
                this name.

        Raises:
            TypeError: init is of another type, or a Tensor of a dtype that this one's does not take.
            ValueError: init is no name of an initializer, or does not go with the shape.

        Examples:
            >>> w = Parameter([1.0, 2.0], name="w")
            >>> print(w.clone("zeros"), w.clone("zeros").asnumpy())
            Parameter (name=w, shape=(2,), dtype=Float32, requires_grad=True) [0. 0.]
        """
        return clones([(self, self.name)], init)[0]

    def copy(self) -> Parameter:
        """`clone()`, as in MindSpore 2.

        Examples:
            >>> Parameter([1.0], name="w").copy()
            Parameter (name=w, shape=(1,), dtype=Float32, requires_grad=True)
        """
        return self.clone()

    def set_param_ps(self, init_in_server: bool = False) -> None:
        """Say that a parameter server is to hold and update this parameter. There is no way back but the attributes.

        Args:
            init_in_server: The server also makes the first values; for embedding tables only.

        Raises:
            TypeError: init_in_server is no bool.
            RuntimeError: It is True, and the name does not end in "embedding_table".

        Examples:
            >>> table = Parameter([1.0], name="net.embedding_table")
            >>> table.set_param_ps(init_in_server=True)
            >>> table.is_param_ps, table.init_in_server
            (True, True)
        """
        if checked_bool("init_in_server", init_in_server) and not self.name.endswith(TABLE):
            raise RuntimeError(f"init_in_server must be False unless the name ends in {TABLE!r}, got {self.name!r}")
        self.is_param_ps, self.init_in_server = True, init_in_server

    def __repr__(self) -> str:
        return (
            f"Parameter (name={self.name}, shape={self.shape}, dtype={self.dtype}, requires_grad={self.requires_grad})"
        )

    __str__ = __repr__


def clones(members: Iterable[tuple[Parameter, str]], init: Any) -> list[Parameter]:
    """A clone of each parameter under the name beside it; those of real ones become real in one plan a device.

    Raises:
        TypeError, ValueError: init goes with none or not with all of them; then no key has been taken.
    """
    with _REALIZING, torch.inference_mode(False), torch.no_grad():
        work = [(each, name, cloned_data(init, each)) for each, name in members]
        made = [each._cloned(source, name) for each, name, source in work]
        places = [device_of(each._torch) for each, _, _ in work]
        for device in {*places} - {None}:
            group = [other for other, place in zip(made, places, strict=True) if place == device]
            realize(group, device)
            for other in group:
                other._was_lazy = False
    return made
