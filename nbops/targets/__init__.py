"""Where a loop can run. One module per target; `nbops.dispatch` has one rule for each.

============ ==================================================================
``python``   the interpreter: the loop as written; the oracle and the teacher
``serial``   one core: the loop compiled by Numba, one compile per dtype
``parallel`` every core: the same task, its items split between threads; where
             there are fewer items than threads, an item's rows, or the loop's
             own ``prange``
``cuda``     a GPU: the same loop, or a tuned kernel, compiled to PTX;
             ``cuda-emulator`` executes that PTX on the CPU, and checks it
============ ==================================================================
"""
