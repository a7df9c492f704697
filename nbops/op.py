"""An op: a signature, a loop and a gradient become one public function::

    @op("(m,k),(k,n)->(m,n)")
    def matmul(a, b, out):
        ...the loop...

    @matmul.gradient
    def _(a, b, out, dout):
        return matmul(dout, transpose(b)), matmul(transpose(a), dout)

The signature gives shape checks, broadcasting over leading axes and the output's allocation; the dispatcher
gives the target; the gradient rule, written with nbops ops, serves NumPy (`Op.vjp`), TensorFlow's gradient
registry and second derivatives alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from nbops.dtypes import Integers, Types
from nbops.kernel import Kernel, Loop
from nbops.op_class import GradientRule, Op, on_definition, registry
from nbops.signature import Signature

__all__ = ["GradientRule", "Op", "elementwise", "on_definition", "op", "registry"]


def op(
    signature: str,
    *,
    name: str | None = None,
    types: str | None = None,
    integers: Integers = "keep",
    nanoseconds: float = 1.0,
    in_place: tuple[str, ...] = (),
) -> Callable[[Loop], Op]:
    """Make an op from a loop.

    Parameters
    ----------
    signature : str
        NumPy's generalized-ufunc signature, ``"(m,k),(k,n)->(m,n)"``.
    name : str, optional
        The loop's own name unless given.
    types : str, optional
        ``"T,int64->T"``: which operands share the promoted dtype, and which have one of their own.
    integers : {"keep", "float", "float64"}
        What integer inputs are computed in.
    nanoseconds : float
        What one innermost iteration takes on one core, for the dispatcher. Most compiled loops take less than
        the default, so a call goes to all cores a little early, and `explain` predicts more than it takes.
    in_place : tuple of str, optional
        For each output, the input that ``out=`` may be without a copy: of that input, the loop reads no
        element after it has written it.

    Returns
    -------
    function
        A decorator for the loop ``(*inputs, *outputs)``, which gives an `Op`.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops import lanes, op, prange
    >>> @op("(m,k),(n,k)->(m,n)", name="manhattan")
    ... def manhattan(x, y, out):
    ...     for i in prange(x.shape[0]):
    ...         for j in lanes(y.shape[0]):
    ...             total = out.dtype.type(0)
    ...             for p in range(x.shape[1]):
    ...                 total += abs(x[i, p] - y[j, p])
    ...             out[i, j] = total
    >>> manhattan(np.zeros((1, 2)), np.array([[1.0, 2.0], [3.0, -4.0]]))
    array([[3., 7.]])
    """
    parsed = Signature.parse(signature)

    def decorate(loop: Loop) -> Op:
        own_name = name or loop.__name__
        parameters = list(inspect.signature(loop).parameters)
        if len(parameters) != len(parsed.operands):
            raise TypeError(
                f"{own_name}: the loop takes {len(parameters)} arguments; the signature {signature} "
                f"has {len(parsed.operands)} operands"
            )
        return Op(
            own_name,
            parsed,
            Kernel(loop, parsed, own_name),
            Types.parse(types, len(parsed.inputs), len(parsed.outputs), integers),
            tuple(parameters[: len(parsed.inputs)]),
            nanoseconds,
            doc=loop.__doc__,
            in_place=in_place,
        )

    return decorate


if TYPE_CHECKING:  # typing's list of overloads would keep all that this module reaches until Python's end

    @overload
    def elementwise(formula: Callable[..., Any]) -> Op: ...
    @overload
    def elementwise(
        *, name: str | None = ..., integers: Integers = ..., nanoseconds: float = ...
    ) -> Callable[[Callable[..., Any]], Op]: ...


def elementwise(
    formula: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    integers: Integers = "keep",
    nanoseconds: float = 0.3,
) -> Any:
    """Make an op from a formula for one element.

    Parameters
    ----------
    formula : function
        Takes one to five scalars and returns a scalar. It is compiled for the operands' common dtype; a
        constant must have that dtype too, or the arithmetic becomes float64: write ``type(x)(2)``.
    name : str, optional
        The formula's own name unless given.
    integers : {"keep", "float", "float64"}
        What integer inputs are computed in.
    nanoseconds : float
        What one element takes on one core, for the dispatcher.

    Returns
    -------
    Op
        Or, without a formula, a decorator that makes one.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops import elementwise
    >>> @elementwise
    ... def leaky(x):
    ...     return x if x > 0 else x * type(x)(0.1)
    >>> leaky(np.array([[-1.0], [2.0]]))
    array([[-0.1],
           [ 2. ]])
    """
    if formula is None:
        return lambda later: _elementwise(later, name, integers, nanoseconds)
    return _elementwise(formula, name, integers, nanoseconds)


def _elementwise(formula: Callable[..., Any], name: str | None, integers: Integers, nanoseconds: float) -> Op:
    from nbops.ops import nests

    own_name = name or formula.__name__
    arguments = tuple(inspect.signature(formula).parameters)
    if len(arguments) not in nests.BY_ARITY:
        raise TypeError(f"{own_name}: the formula takes {len(arguments)} arguments; expected 1 to 5")
    signature = Signature((((),) * len(arguments)), ((),))
    kernel = Kernel(nests.BY_ARITY[len(arguments)], signature, own_name, formula=formula)
    kernel.tune(cuda="nbops.tuned.cuda.elementwise:plan")
    return Op(
        own_name,
        signature,
        kernel,
        Types.parse(None, len(arguments), 1, integers),
        arguments,
        nanoseconds,
        formula=formula,
        doc=formula.__doc__,
    )
