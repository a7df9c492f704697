"""One block computes one tile of a matrix product, ``out[i, j] = Σ a[i, p] b[p, j]``.

A product read element by element waits for memory: 2 loads for each multiply-add. So numbers are read once
and used often, at three levels::

    a block     TILE_M x TILE_N of out, in steps of DEPTH along p: a slab of a and one of b in shared memory
    a warp      4 x 8 threads; those in a row share what they read of a, those in a column what they read of b
    a thread    THREAD_M x THREAD_N sums in registers: THREAD_M + THREAD_N loads for their product of FFMAs

Shared memory holds a[row, p] and b[p, column] as ``[p][row]`` and ``[p][column]``, twice: while one slab is
multiplied the next is on its way from global memory, first into registers (`fetch`), then into the other half
(`stage`). One barrier a step is enough for that. A thread's rows and columns are groups of GROUP
neighbours, LANES groups apart, so that each load of shared memory is 128 bits wide and a warp's 32 threads
never want two words of one bank.

How an operand is read is compiled in: along its rows or along p, whichever is contiguous, with 128-bit loads
where every row starts at a multiple of 16 bytes, else one by one with any strides. At the edges, a thread
whose row or column lies outside reads the last one again: what it computes is never written. Past the end of
p it takes zeros, for both operands, so that no NaN of another place gets into a sum.

The result is written 16 bytes at a time where its rows are aligned, which a block sees for itself.

With `SPLIT`, the grid's second axis shares out p, and the parts of the sum go to the workspace.
"""

from __future__ import annotations

from typing import Any

from nbops.targets.cuda.toolchain import cuda, types
from nbops.tuned.cuda.memory import (
    get_elements,
    load,
    load_shared_vector,
    load_vector,
    put_elements,
    store,
    store_shared,
    store_shared_vector,
    store_vector,
)

__all__ = [
    "activate",
    "activate_only",
    "add_and_activate",
    "add_step",
    "add_up",
    "fetch",
    "item_offset",
    "multiply_tiles",
    "places",
    "stage",
    "start",
    "write_row",
]

# What every kernel has its own of: see `nbops.tuned.cuda.gemm`.
ELEMENT: Any = types.float32
TILE_M, TILE_N, DEPTH, THREADS = 128, 128, 8, 256
THREAD_M, THREAD_N, LANES_M, LANES_N, WARPS_N = 8, 8, 4, 8, 2
VECTOR = 4
GROUP_M, GROUP_N = 4, 4
SUMS = THREAD_M * THREAD_N
PITCH_M, PITCH_N = TILE_M + VECTOR, TILE_N + VECTOR
LEFT_SIZE, RIGHT_SIZE = 2 * DEPTH * PITCH_M, 2 * DEPTH * PITCH_N
LEFT_CHUNKS, RIGHT_CHUNKS, LEFT_STAGED, RIGHT_STAGED = 1, 1, 4, 4
ROWS, PITCH, CHUNKS, WIDTH, ALONG_DEPTH = 128, 132, 1, 4, True  # of one operand
BATCH_RANK, BATCH, A_BATCH, B_BATCH, OUT_BATCH, BIAS_BATCH = 0, 0, 0, 0, 0, 0
HAS_BIAS, SPLIT = False, False
ITEMSIZE = 4
# Places of words in the kernel's tuple.
M, N, K, ITEMS, WORKSPACE, A, A_ROW, A_STEP, B, B_ROW, B_STEP, OUT, OUT_M, OUT_N, BIAS, BIAS_N = range(16)
#: Rows of tiles that are computed together: their slabs of a and b stay in the GPU's L2 cache.
BAND = 8

index: Any = types.uint32
word: Any = types.int64
#: Stand-ins for one operand's copies of the functions below, and for what is done to each sum.
start_left: Any = None
start_right: Any = None
fetch_left: Any = None
fetch_right: Any = None
stage_left: Any = None
stage_right: Any = None


# ---- what is done to a sum before it is written ------------------------------------------------------------


def activate(total: Any) -> Any:
    """The linear layer's; an elementwise op's formula may stand in its place."""
    return total


def activate_only(total: Any, bias: Any) -> Any:
    """A result's element without a bias."""
    return activate(total)


def add_and_activate(total: Any, bias: Any) -> Any:
    """A result's element with the bias of its column."""
    return activate(total + bias)


finish = activate_only


# ---- one operand: from global memory to shared memory -----------------------------------------------------


def prepare(value: Any) -> Any:
    """What multiplies; tensor cores want another format."""
    return value


def places(chunk: int, thread: int) -> tuple[int, int]:
    """Row and step, within the slab, at which one of a thread's chunks begins."""
    number = index(index(chunk * THREADS) + thread)
    if ALONG_DEPTH:
        return index(number // index(DEPTH // WIDTH)), index(number % index(DEPTH // WIDTH) * index(WIDTH))
    return index(number % index(ROWS // WIDTH) * index(WIDTH)), index(number // index(ROWS // WIDTH))


def start(addresses: Any, base: int, row0: int, rows: int, row_bytes: int, step_bytes: int) -> None:
    """The addresses of a thread's chunks in the first slab."""
    thread = index(cuda.threadIdx.x)
    last = index(rows - index(1 if ALONG_DEPTH else WIDTH))
    for chunk in range(CHUNKS):
        row, step = places(chunk, thread)
        row = index(row0 + row)
        row = row if row < last else last
        addresses[chunk] = base + word(row) * row_bytes + word(step) * step_bytes


def fetch(staged: Any, addresses: Any, done: int, depth: int, step_bytes: int) -> None:
    """Read a thread's chunks of a slab into its registers, and go on to the next slab."""
    thread = index(cuda.threadIdx.x)
    for chunk in range(CHUNKS):
        _, step = places(chunk, thread)
        inside = index(done + step) < depth
        if WIDTH == 1:
            staged[chunk] = load(ELEMENT, addresses[chunk]) if inside else ELEMENT(0)
        else:
            if inside:
                put_elements(staged, index(chunk * WIDTH), load_vector(ELEMENT, addresses[chunk]))
            else:
                for lane in range(WIDTH):
                    staged[chunk * WIDTH + lane] = ELEMENT(0)
        addresses[chunk] += step_bytes * DEPTH


def stage(shared: Any, half: int, staged: Any) -> None:
    """Write what was fetched into one half of shared memory."""
    thread = index(cuda.threadIdx.x)
    for number in range(CHUNKS * WIDTH):
        staged[number] = prepare(staged[number])
    for chunk in range(CHUNKS):
        row, step = places(chunk, thread)
        first = index(index(half + step) * index(PITCH) + row)
        if ALONG_DEPTH:
            for lane in range(WIDTH):
                store_shared(shared, first, lane * PITCH, staged[chunk * WIDTH + lane])
        elif WIDTH == 1:
            store_shared(shared, first, 0, staged[chunk])
        else:
            store_shared_vector(shared, first, 0, get_elements(staged, index(chunk * WIDTH)))


# ---- the tile ----------------------------------------------------------------------------------------------


def add_step(sums: Any, left: Any, right: Any, row: int, column: int, p: int) -> None:
    """Multiply one row of each slab into a thread's sums."""
    a = cuda.local.array(THREAD_M, ELEMENT)
    b = cuda.local.array(THREAD_N, ELEMENT)
    for group in range(THREAD_M // VECTOR):
        offset = p * PITCH_M + group * LANES_M * VECTOR
        put_elements(a, index(group * VECTOR), load_shared_vector(left, row, offset))
    for group in range(THREAD_N // VECTOR):
        offset = p * PITCH_N + group * LANES_N * VECTOR
        put_elements(b, index(group * VECTOR), load_shared_vector(right, column, offset))
    for i in range(THREAD_M):
        for j in range(THREAD_N):
            sums[i * THREAD_N + j] += a[i] * b[j]


def add_up(sums: Any, left: Any, right: Any, half: int, row: int, column: int) -> None:
    """Multiply one half of shared memory into a thread's sums."""
    row = index(half * index(PITCH_M) + row)
    column = index(half * index(PITCH_N) + column)
    # Written out because the compiler unrolls no loop this long.
    add_step(sums, left, right, row, column, 0)
    add_step(sums, left, right, row, column, 1)
    add_step(sums, left, right, row, column, 2)
    add_step(sums, left, right, row, column, 3)
    add_step(sums, left, right, row, column, 4)
    add_step(sums, left, right, row, column, 5)
    add_step(sums, left, right, row, column, 6)
    add_step(sums, left, right, row, column, 7)


def item_offset(words: Any, item: Any, strides: int) -> Any:
    """Bytes from an operand's first element to the first one of a batch item."""
    offset = word(0)
    rest = item
    for axis in range(BATCH_RANK):
        coordinate = rest
        if axis < BATCH_RANK - 1:
            size = index(words[BATCH + axis])
            coordinate = index(rest % size)
            rest = index(rest // size)
        offset += word(coordinate) * words[strides + axis]
    return offset


def write_row(
    sums: Any,
    bias: Any,
    i: int,
    row: int,
    column: int,
    m: int,
    n: int,
    out: int,
    out_m: int,
    out_n: int,
    wide: bool,
) -> None:
    """Finish row `i` of a thread's sums, and write it to where it belongs."""
    at_row = index(row + index(i // GROUP_M * LANES_M * GROUP_M + i % GROUP_M))
    if at_row < m:
        for j in range(THREAD_N):
            sums[i * THREAD_N + j] = finish(sums[i * THREAD_N + j], bias[j])
        for group in range(THREAD_N // GROUP_N):
            at = index(column + index(group * LANES_N * GROUP_N))
            place = out + word(at_row) * out_m + word(at) * out_n
            if GROUP_N == VECTOR and wide:
                if at < n:
                    store_vector(place, get_elements(sums, index(i * THREAD_N + group * GROUP_N)))
            else:
                for j in range(GROUP_N):
                    if index(at + index(j)) < n:
                        store(place + word(j) * out_n, sums[i * THREAD_N + group * GROUP_N + j])


def multiply_tiles(words: Any) -> None:
    """The kernel; see the top of the file."""
    left = cuda.shared.array(LEFT_SIZE, ELEMENT)
    right = cuda.shared.array(RIGHT_SIZE, ELEMENT)
    sums = cuda.local.array(SUMS, ELEMENT)
    left_staged = cuda.local.array(LEFT_STAGED, ELEMENT)
    right_staged = cuda.local.array(RIGHT_STAGED, ELEMENT)
    left_addresses = cuda.local.array(LEFT_CHUNKS, types.int64)
    right_addresses = cuda.local.array(RIGHT_CHUNKS, types.int64)

    # which tile of which item
    m, n, k = index(words[M]), index(words[N]), index(words[K])
    tiles_m = index((m - index(1)) // index(TILE_M) + index(1))
    tiles_n = index((n - index(1)) // index(TILE_N) + index(1))
    number = index(cuda.blockIdx.x)
    item = index(number // index(tiles_m * tiles_n))
    number = index(number - item * index(tiles_m * tiles_n))
    band = index(number // index(index(BAND) * tiles_n))
    number = index(number - band * index(index(BAND) * tiles_n))
    in_band = index(tiles_m - band * index(BAND))
    in_band = in_band if in_band < index(BAND) else index(BAND)
    row0 = index(index(band * index(BAND) + number % in_band) * index(TILE_M))
    column0 = index(index(number // in_band) * index(TILE_N))

    # which part of the sum
    done = index(0)
    if SPLIT:
        steps = index((k - index(1)) // index(DEPTH) + index(1))
        part = index(index((steps - index(1)) // index(cuda.gridDim.y) + index(1)) * index(DEPTH))
        done = index(index(cuda.blockIdx.y) * part)
        k = index(done + part) if index(done + part) < k else k

    a_step, b_step = words[A_STEP], words[B_STEP]
    base = words[A] + item_offset(words, item, A_BATCH) + word(done) * a_step
    start_left(left_addresses, base, row0, m, words[A_ROW], a_step)
    base = words[B] + item_offset(words, item, B_BATCH) + word(done) * b_step
    start_right(right_addresses, base, column0, n, words[B_ROW], b_step)

    # where in the tile this thread is
    thread = index(cuda.threadIdx.x)
    lane = index(thread % index(32))
    warp = index(thread // index(32))
    row = index(index(warp // index(WARPS_N)) * index(LANES_M * THREAD_M))
    row = index(row + index(lane // index(LANES_N)) * index(GROUP_M))
    column = index(index(warp % index(WARPS_N)) * index(LANES_N * THREAD_N))
    column = index(column + index(lane % index(LANES_N)) * index(GROUP_N))

    for i in range(SUMS):
        sums[i] = ELEMENT(0)
    fetch_left(left_staged, left_addresses, done, k, a_step)
    fetch_right(right_staged, right_addresses, done, k, b_step)
    stage_left(left, index(0), left_staged)
    stage_right(right, index(0), right_staged)
    cuda.syncthreads()
    half = index(0)
    done = index(done + index(DEPTH))
    while done < k:
        fetch_left(left_staged, left_addresses, done, k, a_step)
        fetch_right(right_staged, right_addresses, done, k, b_step)
        add_up(sums, left, right, half, row, column)
        half = index(half ^ index(DEPTH))
        stage_left(left, half, left_staged)
        stage_right(right, half, right_staged)
        cuda.syncthreads()
        done = index(done + index(DEPTH))
    add_up(sums, left, right, half, row, column)

    # the sums, finished, to where they belong
    out = words[OUT] + item_offset(words, item, OUT_BATCH)
    out_m, out_n = words[OUT_M], words[OUT_N]
    if SPLIT:
        out_m, out_n = word(n) * word(ITEMSIZE), word(ITEMSIZE)
        part = word(cuda.blockIdx.y) * words[ITEMS] + word(item)
        out = words[WORKSPACE] + part * (word(m) * out_m)
    wide = out_n == word(ITEMSIZE) and (out | out_m | word(n) * word(ITEMSIZE)) & word(15) == word(0)
    bias = cuda.local.array(THREAD_N, ELEMENT)
    if HAS_BIAS:
        place = words[BIAS] + item_offset(words, item, BIAS_BATCH)
        for j in range(THREAD_N):
            in_tile = j // GROUP_N * LANES_N * GROUP_N + j % GROUP_N
            at = index(column0 + column + index(in_tile))
            at = at if at < n else index(n - index(1))
            bias[j] = load(ELEMENT, place + word(at) * words[BIAS_N])
    row, column = index(row0 + row), index(column0 + column)
    # Written out, as in `add_up`: with a long formula the compiler would leave a loop over rows a loop, and
    # keep the sums in memory for it.
    write_row(sums, bias, 0, row, column, m, n, out, out_m, out_n, wide)
    write_row(sums, bias, 1, row, column, m, n, out, out_m, out_n, wide)
    write_row(sums, bias, 2, row, column, m, n, out, out_m, out_n, wide)
    write_row(sums, bias, 3, row, column, m, n, out, out_m, out_n, wide)
    if THREAD_M == 8:
        write_row(sums, bias, 4, row, column, m, n, out, out_m, out_n, wide)
        write_row(sums, bias, 5, row, column, m, n, out, out_m, out_n, wide)
        write_row(sums, bias, 6, row, column, m, n, out, out_m, out_n, wide)
        write_row(sums, bias, 7, row, column, m, n, out, out_m, out_n, wide)
