"""Parameter: a named tensor that is declared first and brought to life later."""

from __future__ import annotations

from typing import Any

import torch

from tritonparam._arguments import checked_bool, shown
from tritonparam.dtype import DTypeLike
from tritonparam.parameter.attributes import Attributes
from tritonparam.parameter.clones import fill_clones
from tritonparam.parameter.flags import checked_name
from tritonparam.parameter.set_data import copy_of_input, device_of, incoming, incoming_box
from tritonparam.plan import Box, box_in, box_of_box, checked_device
from tritonparam.tensor import REALIZING, Device, Tensor, Writes, box_of, empty, lazy_like, realize, refuse_in_modules


class Parameter(Attributes):
    """A named tensor, lazy if it is made from an initializer: then it holds no data until its values are asked for.

    What it will hold is settled when it is made. Its random numbers depend on the seed of the generator in use then, on
    its name then, and on how many lazy parameters of that name that generator has seen before; they do not depend on
    other names, on device, backend or the order in which parameters become real, nor on later renaming or seeding.

    `.torch` of a floating-point parameter is a `torch.nn.Parameter`, on the meta device while this is lazy. It stays
    the same object when this becomes real, so an optimizer may be made before or after. What torch writes into it while
    this is lazy does not last; `copy_`, and so a module's `load_state_dict`, says so (RuntimeError): give `set_data`
    the values, or make this real first. With assign=True, `load_state_dict` puts other objects into the module, which
    are not this parameter's. A module takes `.torch`, and refuses the Parameter itself. Copy or pickle a module
    together with its lazy parameter: otherwise the link is lost.

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

    def __init__(
        self,
        default_input: Any,
        name: str | None = None,
        requires_grad: bool = True,
        layerwise_parallel: bool = False,
        parallel_optimizer: bool = True,
    ) -> None:
        refuse_in_modules(Tensor)
        self._name = checked_name(name)
        self._requires_grad = checked_bool("requires_grad", requires_grad)
        self.layerwise_parallel = layerwise_parallel
        self.parallel_optimizer = parallel_optimizer
        self.comm_fusion, self.cache_enable, self.cache_shape = 1, False, []
        self.is_param_ps = self.init_in_server = False
        with torch.inference_mode(False):
            if not isinstance(default_input, Tensor) or not default_input.has_init:
                self._start(copy_of_input(default_input))
                return
            with REALIZING:  # it may be becoming real
                lazy = default_input.has_init
                self._start(self._own(default_input, default_input.dtype) if lazy else copy_of_input(default_input))

    def _like(self, name: str) -> Parameter:
        """A parameter of this one's flags that is new in all else and has no storage yet; `_start` or so comes next."""
        other, mine = Parameter.__new__(Parameter), self.__dict__
        storage = mine["_torch"]
        own = type(storage) is torch.nn.Parameter
        other.__dict__ = {
            "_name": name,
            "_requires_grad": storage.requires_grad if own else self.requires_grad,
            "layerwise_parallel": mine["layerwise_parallel"],  # each was checked when it was set
            "parallel_optimizer": mine["parallel_optimizer"],
            "comm_fusion": mine["comm_fusion"],
            "cache_enable": mine["cache_enable"],
            "_cache_shape": [*mine["_cache_shape"]],
            "is_param_ps": mine["is_param_ps"],
            "init_in_server": mine["init_in_server"],
            "unique": False,
            "sliced": False,
            "is_init": False,
            "_within": None,
            "_was_lazy": False,
            "_law": None,
            "_key": 0,
        }
        return other

    @property
    def init_mode(self) -> Tensor | None:
        """While this is lazy, a lazy tensor of the same values; None once it is real."""
        with REALIZING:
            return lazy_like(self) if self.has_init else None

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
        with REALIZING:
            if not self.has_init:
                return self
            checked_bool("set_sliced", set_sliced)
            if layout is None and rank is not None:
                raise ValueError(f"rank goes with layout; without one it must be None, got {shown(rank)}")
            box = Box.whole(self.shape) if layout is None else box_of(layout, self.shape, rank)
            whole = self.shape
            realize([self], device, backend, {self: box})
            self._within = None if layout is None else (box, whole)
            self.sliced = set_sliced
        return self

    def set_data(self, data: Any, slice_shape: bool = False, *, box: Any = None) -> Parameter:
        """Copy the values of `data`, cast to this parameter's dtype, into it; a call that raises changes nothing.

        `.torch` stays the same object. Where the shape stays, a real parameter's values are overwritten where they are,
        so views of it, its gradient and an optimizer's state remain; where it changes, the gradient is dropped, and
        an optimizer's state no longer fits. A real parameter stays on its device. Data may be views of its own memory.

        A lazy parameter becomes real by data, on their device, and stays lazy by a lazy tensor. (MindSpore 1.3 refuses
        the first; 2.10 checks neither shape nor dtype; both share memory with a Tensor of the same dtype.)

        Args:
            data: A Tensor, a torch tensor, a NumPy array, an int or a float (shape ()); an Initializer for this
                parameter's shape (of one that is a slice: for `global_shape`); or a lazy tensor, whose initializer is
                drawn from as at construction, by this parameter's name. A lazy Parameter gives its own values.
            slice_shape: Whether the shape may change; `sliced` becomes this.
            box: Overwrite this box only: a Box of this parameter, or what has `offsets` and `sizes`. A lazy
                parameter becomes real by its own values first. Data have the shape of the box, but a number goes
                everywhere in it, and an Initializer gives what it would give there to the whole parameter. `sliced`
                stays as it is.

        Returns:
            This parameter.

        Raises:
            TypeError: data is of another type, or of a dtype that this one's does not take. From low to high: Bool,
                Int8, UInt8, Int16, UInt16, Int32, UInt32, Int64, UInt64, the 8-bit floats, Float16 and BFloat16,
                Float32, Float64. Lower ones are taken, and of Python's numbers an int by all, a float by floats.
            ValueError: data has another shape and slice_shape is False, or is a number that does not fit; or box does
                not lie in this parameter, or comes with slice_shape.
            RuntimeError: The shape changes, or this is lazy, while autograd holds on to `.torch`.

        Examples:
            >>> w = Parameter([1.0, 2.0])
            >>> w.set_data(Tensor([3, 4])).asnumpy()
            array([3., 4.], dtype=float32)
            >>> w.set_data(7, box=Box((1,), (1,))).asnumpy()
            array([3., 7.], dtype=float32)
        """
        checked_bool("slice_shape", slice_shape)
        with REALIZING, torch.inference_mode(False), torch.no_grad():
            if box is None:
                self._set_whole(data, slice_shape)
                self.sliced = slice_shape
            elif slice_shape:
                raise ValueError("slice_shape must be False where box is given: a box has the shape that it has")
            else:
                self._set_box(data, box_in("box", box, self.shape))
        return self

    def _set_whole(self, data: Any, any_shape: bool) -> None:
        values, device = incoming("data", data, self, any_shape), device_of(self._torch)
        if isinstance(values.source, Tensor):
            values = values.of(self._own(values.source, self.dtype))
        if device is None and isinstance(values.source, Tensor):
            if values.shape != self.shape:
                self._become(values.source._torch)
            self._law, self._key = values.source._law, values.source._key
            return
        writes, stays = Writes(), device is not None and values.shape == self.shape
        out = self._torch if stays else empty(values.shape, self.dtype, device or values.device)
        values.put(writes, out, fresh=not stays)
        writes.run()
        if not stays:
            self._become(out)
            self._within = None

    def _set_box(self, data: Any, box: Box) -> None:
        values = incoming_box("data", data, self, box)
        if self.has_init:
            draft = lazy_like(self)  # so that nothing has changed if a write should fail
            realize([draft])
            storage = draft._torch
        else:
            storage = self._torch
        if isinstance(values.source, Tensor):
            values = values.of(self._own(values.source, self.dtype))
        writes = Writes()
        values.put(writes, box.of(storage.detach()), fresh=False)
        writes.run()
        if self.has_init:
            self._become(storage)

    def slice(self, box: Any, *, device: Device = None, backend: str | None = None) -> Parameter:
        """A new, real parameter of the values in a box of this one, with data of its own.

        It has this one's name and what `clone` takes along; `sliced` is True, and `box` and `global_shape` say where
        it lies, in the whole of which this one is a slice if it is one. Of a lazy parameter only the box is drawn, and
        it stays lazy: it may be larger than any memory.

        Args:
            box: A Box of this parameter, or what has `offsets` and `sizes`.
            device: A CPU or CUDA device; None for that of this parameter, or torch's default device if this is lazy.
            backend: What writes the values, as for `Plan`; None for the device's own.

        Raises:
            TypeError: box is no box.
            ValueError: It does not lie in this parameter, or there is no such device or backend.

        Examples:
            >>> from tritonparam.initializer import initializer
            >>> table = Parameter(initializer("normal", [2_500_000, 1_000_000]), name="table")
            >>> rows = table.slice(Box((1_000_000, 0), (2, 3)))
            >>> rows.shape, rows.sliced, rows.box.offsets, table.has_init
            ((2, 3), True, (1000000, 0), True)
        """
        with REALIZING, torch.inference_mode(False), torch.no_grad():
            part = box_in("box", box, self.shape)
            here = device_of(self._torch)
            out = empty(part.sizes, self.dtype, here if here and device is None else checked_device(device, backend))
            writes = Writes()
            if self._law is None:
                writes.copy(out, part.of(self._torch.detach()).resolve_neg())
            else:
                writes.law(out, self._law, self._key, self.shape, part.offsets)
            writes.run(backend)
            other = self._like(self.name)
            other._start(out)
            other.sliced, other._within = True, (box_of_box(self.box, part), self.global_shape)
        return other

    def clone(self, init: Any = "same", dtype: DTypeLike | None = None) -> Parameter:
        """A new parameter of the same name and shape, with data of its own, on the same device.

        It has this one's requires_grad, layerwise_parallel, parallel_optimizer, comm_fusion, cache_enable, cache_shape,
        is_param_ps and init_in_server, and lies where this one does in a larger whole; `unique`, `sliced`, `is_init`,
        `inited_param`, attributes that the user added, the gradient and the hooks are not taken along.

        It is lazy if this one is and `init` is no data. With "same" it then has the values that this one has
        or will have. (In MindSpore only one of the two can be made real.)

        Args:
            init: "same"; or what `initializer` takes: the name of an initializer, a number, an Initializer, or a Tensor
                of this shape, of a dtype that `set_data` takes. Random numbers are those of a further parameter of
                this name; of one that is a slice, they are those of its box of the whole.
            dtype: Of the clone; None for that of this parameter. Any float, or a dtype that this one's goes into, as
                for `set_data`. With "same", the values are cast as by torch's `to`.

        Raises:
            TypeError: init is of another type, or a Tensor of a dtype that the clone's does not take, or dtype is none,
                or such that floats would become integers, or integers narrower ones.
            ValueError: init is no name of an initializer, or does not go with the shape.

        Examples:
            >>> w = Parameter([1.0, 2.0], name="w")
            >>> print(w.clone("zeros"), w.clone("zeros").asnumpy())
            Parameter (name=w, shape=(2,), dtype=Float32, requires_grad=True) [0. 0.]
            >>> w.clone(dtype="bfloat16")
            Parameter (name=w, shape=(2,), dtype=BFloat16, requires_grad=True)
        """
        other = self._like(self.name)
        fill_clones([(self, other)], init, dtype)
        return other

    def copy(self) -> Parameter:
        """`clone()`, as in MindSpore 2.

        Examples:
            >>> Parameter([1.0], name="w").copy()
            Parameter (name=w, shape=(1,), dtype=Float32, requires_grad=True)
        """
        return self.clone()
