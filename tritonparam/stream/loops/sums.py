"""The sums of fingerprints over the boxes of a table: `reference.fingerprint`, from memory at its speed.

A box is read run by run, and a run block by block. What of a block is whole words that lie as words is multiplied where
it lies; the rest is put together in the scratch first, between zeros.
"""

from tritonparam.stream.loops.arithmetic import bytes_at, halves_at, indices_at, longs_at, part, uint64, words_at
from tritonparam.stream.loops.boxes import enter, next_run
from tritonparam.stream.loops.layout import BLOCK_BYTES, DIMS, GATHERED, KEY, OUT, PLACE, SUM_BOX, WIDTH
from tritonparam.stream.loops.philox import philox4x32

_LOW, _HALF, _ONE, _ZERO = uint64(0xFFFFFFFF), uint64(32), uint64(1), uint64(0)
_DIRECT = 32  # bytes from which on the words of a run are read where they lie


@part
def _products(words, columns, n):
    """The sums of n words times the factors of their columns."""
    values, factors = words_at(words, 0), longs_at(columns, 0)
    first, second = _ZERO, _ZERO
    for i in range(n):
        value, both = uint64(values[i]), factors[i]
        first += value * (both & _LOW)
        second += value * (both >> _HALF)
    return first, second


def _gatherer(elements_at):
    @part
    def gather(source, out, step, n):
        elements, places = elements_at(source, 0), elements_at(out, 0)
        for i in range(n):
            places[i] = elements[i * step]

    return gather


_gather1, _gather2, _gather4, _gather8 = (
    _gatherer(bytes_at),
    _gatherer(halves_at),
    _gatherer(words_at),
    _gatherer(longs_at),
)


@part
def _collect(source, out, width, step, n):
    """Put n elements of `width` bytes, `step` elements apart from `source` on, side by side."""
    if step == 1:
        _gather1(source, out, 1, n * width)
    elif width == 4:
        _gather4(source, out, step, n)
    elif width == 2:
        _gather2(source, out, step, n)
    elif width == 1:
        _gather1(source, out, step, n)
    else:
        _gather8(source, out, step, n)


@part
def _add_box(box, start, stop, columns, sums, scratch):
    """Add up elements [start, stop) of a box."""
    dims, index = indices_at(box[DIMS], 0), indices_at(scratch, PLACE)
    length, stride, width, address = dims[0], dims[2], box[WIDTH], box[OUT]
    number, place = enter(box, index, start)
    done = index[0]  # elements of the run that is begun
    block, first, second = -1, _ZERO, _ZERO  # what is open, and its words times the factors of columns
    factor0, factor1 = _ZERO, _ZERO
    total0, total1 = sums[0], sums[1]
    while start < stop:
        at = number * width
        within = at & (BLOCK_BYTES - 1)
        if at // BLOCK_BYTES != block:
            total0 += first * factor0
            total1 += second * factor1
            block, first, second = at // BLOCK_BYTES, _ZERO, _ZERO
            w0, w1, w2, w3 = philox4x32(uint64(block), uint64(box[KEY]))
            factor0 = (w0 & _LOW) | (w1 << _HALF) | _ONE
            factor1 = (w2 & _LOW) | (w3 << _HALF) | _ONE
        source = address + place * width
        nbytes = min(min(length - done, stop - start) * width, BLOCK_BYTES - within)
        lead = within & 3
        if stride == 1 and ((source ^ within) & 3) == 0 and nbytes >= _DIRECT:
            if lead:
                nbytes = 4 - lead
            else:
                nbytes &= -4
        if stride == 1 and ((source | within | nbytes) & 3) == 0:
            a, b = _products(source, columns + 2 * within, nbytes >> 2)
        else:
            words = (lead + nbytes + 3) >> 2
            gathered = words_at(scratch, GATHERED)
            gathered[0] = 0
            gathered[words - 1] = 0
            _collect(source, scratch + GATHERED + lead, width, stride, nbytes // width)
            a, b = _products(scratch + GATHERED, columns + 2 * (within - lead), words)
        first += a
        second += b
        n = nbytes // width
        start, done, number, place = start + n, done + n, number + n, place + n * stride
        if done == length:
            further, away = next_run(box, index)
            number, place, done = number + further - length, place + away - length * stride, 0
    sums[0] = total0 + first * factor0
    sums[1] = total1 + second * factor1


def sums(table, ends, first, start, stop, columns, out, scratch):
    """Add up elements of boxes that stand one after the other.

    Args:
        table: Address of the boxes' columns: int64 of shape [boxes, SUM_BOX].
        ends: Address of int64 of shape [boxes]: the number of elements of each box and of all before it.
        first: The box of element `start`.
        start, stop: Which elements.
        columns: Address of the factors of a block's words, of both sums, each in half of a uint64.
        out: Address of the sums of box `first` and of those after it: uint64 of shape [boxes, 2].
        scratch: Address of memory for one thread; see `layout.py`.
    """
    stops = indices_at(ends, 0)
    which = first
    while start < stop:
        own = stops[which - 1] if which else 0
        upto = min(stop, stops[which])
        box = indices_at(table + 8 * SUM_BOX * which, 0)
        _add_box(box, start - own, upto - own, columns, longs_at(out, 16 * (which - first)), scratch)
        start, which = upto, which + 1
