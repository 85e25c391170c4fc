"""The loop around the loops: boxes of tensors, batch by batch, from the numbers of their blocks to memory.

A box is written in the order in which its elements stand in the global tensor. Its runs are the stretches of
consecutive ones. Those of a batch are made together: so a box of many short runs costs what its blocks cost, and a
block is made twice only where a batch or a run ends inside it.
"""

from tritonparam.stream.loops.arithmetic import bytes_at, call, halves_at, indices_at, longs_at, part, words_at
from tritonparam.stream.loops.layout import (
    BATCH,
    BITS,
    BLOCKS,
    BOX,
    DIMS,
    FIRST,
    FLOATS,
    INDEX,
    KEY,
    NDIM,
    OUT,
    PARAMETERS,
    ROUND,
    RUNS,
    VALUES,
    WIDTH,
    WORDS,
)


def _scatterer(elements_at):
    @part
    def scatter(source, out, step, n):
        elements, places = elements_at(source, 0), elements_at(out, 0)
        for i in range(n):
            places[i * step] = elements[i]

    return scatter


_scatter1, _scatter2, _scatter4, _scatter8 = (
    _scatterer(bytes_at),
    _scatterer(halves_at),
    _scatterer(words_at),
    _scatterer(longs_at),
)


@part
def _move(source, out, width, step, n):
    """Move n elements of `width` bytes that stand together to every `step`-th place from `out` on."""
    if step == 1:
        _scatter1(source, out, 1, n * width)
    elif width == 4:
        _scatter4(source, out, step, n)
    elif width == 2:
        _scatter2(source, out, step, n)
    elif width == 1:
        _scatter1(source, out, step, n)
    else:
        _scatter8(source, out, step, n)


@part
def enter(box, index, start):
    """Set `index` to element `start` of the box; its number in the global tensor, and its place from `OUT` on."""
    dims = indices_at(box[DIMS], 0)
    number, place, rest = box[FIRST], 0, start
    for d in range(box[NDIM]):
        size = dims[3 * d]
        following = rest // size
        index[d] = rest - following * size
        number += index[d] * dims[3 * d + 1]
        place += index[d] * dims[3 * d + 2]
        rest = following
    return number, place


@part
def next_run(box, index):
    """Step `index` on to the next run; how far that one lies from the start of this one: in the tensor, in memory."""
    dims = indices_at(box[DIMS], 0)
    further, away = 0, 0
    for d in range(1, box[NDIM]):
        size, step, stride = dims[3 * d], dims[3 * d + 1], dims[3 * d + 2]
        index[d] += 1
        further += step
        away += stride
        if index[d] < size:
            break
        index[d] = 0
        further -= size * step
        away -= size * stride
    return further, away


@part
def _put(pattern, source, out, width, step, n):
    """Put n elements of one pattern of bits, with which `source` is full, at every `step`-th place from `out` on."""
    if step == 1:
        places, words = longs_at(out, 0), (n * width) >> 3
        for i in range(words):
            places[i] = pattern
        _move(source, out + 8 * words, 1, 1, n * width - 8 * words)
    else:
        while n:
            some = min(n, 8)
            _move(source, out, width, step, some)
            n, out = n - some, out + some * step * width


@part
def _fill_constant(box, start, stop, scratch):
    """Write elements [start, stop) of a box of a constant."""
    dims, index, bits = indices_at(box[DIMS], 0), indices_at(scratch, INDEX), indices_at(scratch, BITS)
    length, stride, width, pattern = dims[0], dims[2], box[WIDTH], box[KEY]
    for i in range(8):
        bits[i] = pattern
    _, place = enter(box, index, start)
    done = index[0]
    while start < stop:
        n = min(length - done, stop - start)
        _put(pattern, scratch + BITS, box[OUT] + place * width, width, stride, n)
        start, done, place = start + n, done + n, place + n * stride
        if done == length:
            _, away = next_run(box, index)
            place, done = place + away - length * stride, 0


@part
def _fill_random(box, parameters, start, stop, words, scratch):
    """Write elements [start, stop) of a box of random values."""
    dims = indices_at(box[DIMS], 0)
    length, stride, width, out = dims[0], dims[2], box[WIDTH], box[OUT]
    blocks, runs, index = longs_at(scratch, BLOCKS), indices_at(scratch, RUNS), indices_at(scratch, INDEX)
    number, place = enter(box, index, start)
    done = index[0]  # elements of the run that is begun
    while start < stop:
        count, many = 0, 0  # blocks and runs of this batch
        while start < stop and count < BATCH:
            skip = number & 3
            n = min(length - done, stop - start, 4 * (BATCH - count) - skip)
            first, used = number >> 2, (skip + n + 3) >> 2
            for i in range(used):
                blocks[count + i] = first + i
            runs[3 * many], runs[3 * many + 1], runs[3 * many + 2] = 4 * count + skip, place, n
            count, many, start, done = count + used, many + 1, start + n, done + n
            number, place = number + n, place + n * stride
            if done == length:
                further, away = next_run(box, index)
                number, place, done = number + further - length, place + away - length * stride, 0
        call(words, scratch + BLOCKS, box[KEY], scratch + WORDS, count)
        # Where a batch lies in memory as it is made, it is made there.
        is_whole = many == 1 and stride == 1 and runs[0] == 0 and runs[2] == 4 * count
        made = out + runs[1] * width if is_whole else scratch + BITS
        values = scratch + FLOATS if box[ROUND] else made
        call(box[VALUES], scratch + WORDS, parameters, values, 2 * count)
        if box[ROUND]:
            call(box[ROUND], values, 0, made, 4 * count)
        if not is_whole:
            for i in range(many):
                at, to, n = runs[3 * i], runs[3 * i + 1], runs[3 * i + 2]
                _move(made + at * width, out + to * width, width, stride, n)


def boxes(table, ends, first, start, stop, words, scratch):
    """Write elements of boxes that stand one after the other.

    Args:
        table: Address of the boxes' columns: int64 of shape [boxes, BOX].
        ends: Address of int64 of shape [boxes]: the number of elements of each box and of all before it.
        first: The box of element `start`.
        start, stop: Which elements.
        words: Address of the loop `words`.
        scratch: Address of memory for one thread; see `layout.py`.
    """
    stops = indices_at(ends, 0)
    which = first
    while start < stop:
        own = stops[which - 1] if which else 0
        upto = min(stop, stops[which])
        address = table + 8 * BOX * which
        box = indices_at(address, 0)
        if box[VALUES]:
            _fill_random(box, address + 8 * PARAMETERS, start - own, upto - own, words, scratch)
        else:
            _fill_constant(box, start - own, upto - own, scratch)
        start, which = upto, which + 1
