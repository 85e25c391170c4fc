"""Where the loops read and write: the columns of a box, and the places of a scratch.

A scratch is what a thread computes with: one batch of blocks on its way from numbers to bits, small enough for an L1
cache.
"""

# The columns of a box, all int64. VALUES is the address of a law's loop, 0 for a constant, of whose bits KEY is full.
# ROUND is that of a dtype's loop, and 0 for float32. DIMS is the address of (size, step in the global tensor, step in
# memory, in elements) of each dimension, the innermost first, whose step in the global tensor is 1. PARAMETERS are the
# law's, of 32 bits each.
OUT, WIDTH, FIRST, KEY, VALUES, ROUND, NDIM, DIMS, PARAMETERS = range(9)
PARAMETER_WORDS = 10
BOX = PARAMETERS + PARAMETER_WORDS // 2

BATCH = 256  # blocks at a time, of four elements each
MOST_DIMENSIONS = 65  # of a torch tensor, and one for a box without runs

# The places of a scratch, in bytes.
BLOCKS = 0  # uint64: the number of each block
WORDS = BLOCKS + 8 * BATCH  # uint32: of elements 0, 2, 4, ..., and from ODD on those of elements 1, 3, 5, ...
ODD = 8 * BATCH
FLOATS = WORDS + 2 * ODD  # float32: of all elements, in order
BITS = FLOATS + 16 * BATCH  # of all elements, in order, where they do not lie so in memory
RUNS = BITS + 32 * BATCH  # int64: of each run where it starts in the batch, where in memory, and its length
INDEX = RUNS + 24 * BATCH  # int64: of the run that is made, in each dimension of the box
SCRATCH = INDEX + 8 * MOST_DIMENSIONS

# Of the boxes whose elements are added up: the columns before VALUES, and NDIM and DIMS, at the same places.
SUM_BOX = PARAMETERS
BLOCK_BYTES = 4096  # of the words that share the factors of a block

# The places of a scratch for sums, in bytes.
GATHERED = 0  # the words of at most one block
PLACE = GATHERED + BLOCK_BYTES  # int64: as INDEX
SUM_SCRATCH = PLACE + 8 * MOST_DIMENSIONS
