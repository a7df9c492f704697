"""Kernels that replace an op's loop on a GPU: plain Python functions in `numba.cuda`'s language, and plans.

==================== ================================================================================
vectors              the LLVM instructions that move 16 bytes
memory               the same as functions that a kernel calls, for global and shared memory
warps                reductions over the threads of a warp or a block, by shuffles
helpers              functions that kernels call, each compiled with the constants that it reads
elementwise          16 bytes of every operand at a time, for every formula
tiles                the sizes of a matrix product's tiles, and which one suits a call
gemm_kernel          one block computes one tile of a matrix product
tensor_cores         the same with tf32, where it was asked for
gemm_parts           the second kernel of a product whose sums are cut into parts
gemm                 a product of a call's operands as launches of both
products             the plans of matmul, the dense layer, and its weights' gradient
row_layout           how threads share a row
row_kernels          a row becomes a row, a number or both, read once
rows                 plans: softmax, log_softmax and cross-entropy as launches of them
row_gradient_kernels two rows become one, read once
row_gradients        plans: the gradients of softmax and log_softmax as launches of them
sum_kernels          the sum of a row, and of a matrix's rows
sums                 plans: sums as launches of them
vector_kernels       a matrix or a vector times a vector
vector_products      plans: vecdot, matvec and vecmat as launches of them
catalog              every kernel, with an example call: what the tests and the static bounds walk
==================== ================================================================================

An op names its plan by a string, ``matmul.tune(cuda="nbops.tuned.cuda.products:matmul_plan")``, so that
nothing here is imported before a CUDA target is used. See `nbops.targets.cuda.kernels` for what a plan is.
"""
