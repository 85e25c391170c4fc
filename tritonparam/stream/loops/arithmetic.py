"""The operations that the loops are made of and that Numba lacks: fma, bit casts, narrow integers, calls by address.

Numba widens 32-bit integers to 64 bits in every operation; `int32` and `uint32` narrow the result, and LLVM drops both.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

float32, int32, uint32, uint64 = np.float32, np.int32, np.uint32, np.uint64

# Part of a loop, which is compiled into it and called by nobody else; a division by zero is nobody's error.
OPTIONS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}
part = njit(**OPTIONS, forceinline=True)


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c with one rounding, as the instruction has it."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


def _bit_cast(target):
    @intrinsic
    def cast(typingctx, x):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(x), generate

    return cast


int_bits = _bit_cast(types.int32)  # of a float32
uint_bits = _bit_cast(types.uint32)
float_bits = _bit_cast(types.float32)  # the float32 that has these 32 bits


def _pointer(target):
    """A pointer to `offset` bytes after an address, from which LLVM learns how far apart two of them are."""

    @intrinsic
    def cast(typingctx, address, offset):
        def generate(context, builder, signature, arguments):
            start = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
            return builder.bitcast(builder.gep(start, [arguments[1]]), context.get_value_type(pointer))

        return pointer(types.int64, types.int64), generate

    pointer = types.CPointer(target)
    return cast


bytes_at = _pointer(types.uint8)
halves_at = _pointer(types.uint16)
words_at = _pointer(types.uint32)
longs_at = _pointer(types.uint64)
indices_at = _pointer(types.int64)
floats_at = _pointer(types.float32)
doubles_at = _pointer(types.float64)


@intrinsic
def call(typingctx, loop, source, x, out, n):
    """Call the compiled loop at the address `loop`."""

    def generate(context, builder, signature, arguments):
        pointer, word = ir.PointerType(), ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [pointer, pointer, word, word, word, word])
        nothing = builder.bitcast(cgutils.alloca_once(builder, word), pointer)  # what it returns, and its error
        address, *rest = arguments
        builder.call(builder.inttoptr(address, kind.as_pointer()), [nothing, nothing, *rest])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@part
def polynomial(x, coefficients):
    """Horner's scheme, every step one fma; the constant term comes first."""
    value = coefficients[len(coefficients) - 1]
    for i in range(len(coefficients) - 2, -1, -1):
        value = fma(value, x, coefficients[i])
    return value


@part
def smaller(a, b):
    """The smaller of two numbers that are no NaNs; b where they are equal."""
    return a if a < b else b


@part
def larger(a, b):
    """The larger of two numbers that are no NaNs; b where they are equal."""
    return a if a > b else b
