"""Where the loops read and write: the columns of a box, and the places of a scratch.

A scratch is what a thread computes with: one batch of blocks on its way from numbers to bits, small enough for an L1
cache. Its address is passed on from loop to loop.
"""

# The columns of a box, all int64. STORE is the address of the loop that rounds, and 0 for a constant, of whose bits KEY
# is full. DIMS is the address of (size, step in the global tensor, step in memory, in elements) of each dimension, the
# innermost first, whose step in the global tensor is 1. PARAMETERS are those of the law, of 32 bits each.
OUT, WIDTH, FIRST, KEY, VALUES, STORE, NDIM, DIMS, PARAMETERS = range(9)
PARAMETER_WORDS = 10
BOX = PARAMETERS + PARAMETER_WORDS // 2

BATCH = 256  # blocks at a time, of four elements each
_PAIRS = 2 * BATCH  # of elements: an even one and the odd one after it
_MOST_DIMENSIONS = 65  # of a torch tensor, and one for a box without runs

# The places of a scratch, in bytes.
BLOCKS = 0  # uint64: the number of each block
EVEN_WORDS = BLOCKS + 8 * BATCH  # uint32: of elements 0, 2, 4, ...
ODD_WORDS = EVEN_WORDS + 4 * _PAIRS
EVEN = ODD_WORDS + 4 * _PAIRS  # float32: their values
ODD = EVEN + 4 * _PAIRS
BITS = ODD + 4 * _PAIRS  # of all elements in order, where they do not lie so in memory
RUNS = BITS + 8 * 2 * _PAIRS  # int64: of each run where it starts in BITS, where in memory, and its length
INDEX = RUNS + 3 * 8 * BATCH  # int64: of the run that is made, in each dimension of the box
RESULT = INDEX + 8 * _MOST_DIMENSIONS  # where a loop says that it returns nothing, and would name an error
SCRATCH = RESULT + 16
