"""An op: a signature, a loop and a gradient become one public function.

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

import dis
import inspect
from collections.abc import Callable, Sequence
from typing import Any, overload

from numpy import empty, ndarray

from nbops import arrays, execution, repeat
from nbops.dispatch import chosen_here
from nbops.dtypes import Integers, Types
from nbops.execution import Axes
from nbops.kernel import Kernel, Loop, Tuner
from nbops.signature import Signature

__all__ = ["Op", "elementwise", "op", "registry"]

#: Every op by name; `nbops.tensorflow` registers each of them with TensorFlow.
registry: dict[str, Op] = {}
#: Called with each op that is defined later.
on_definition: list[Callable[[Op], None]] = []

GradientRule = Callable[..., Any]


class Op:
    """A function on arrays, made from a loop by `op` or from a formula by `elementwise`.

    Attributes
    ----------
    name : str
    signature : Signature
    arguments : tuple of str
        The inputs' names.
    loop : function
        The loop as written; with `formula`, the loop nest around it.
    formula : function or None
        An elementwise op's scalar rule.
    """

    def __init__(
        self,
        name: str,
        signature: Signature,
        kernel: Kernel,
        types: Types,
        arguments: tuple[str, ...],
        nanoseconds: float,
        formula: Callable[..., Any] | None = None,
        doc: str | None = None,
    ) -> None:
        written = formula or kernel.loop
        _check_definition(name, arguments, written)
        self.name = name
        self.__name__ = self.__qualname__ = name
        self.__doc__ = doc
        self.__module__ = written.__module__ or "__main__"
        self.signature = signature
        self.kernel = kernel
        self.types = types
        self.arguments = arguments
        self.nanoseconds = nanoseconds
        self.formula = formula
        self.rule: GradientRule | None = None
        self.n_inputs = len(signature.inputs)
        self.last_call: repeat.LastCall | None = None
        parameters = [
            inspect.Parameter(argument, inspect.Parameter.POSITIONAL_ONLY) for argument in arguments
        ]
        keywords = [
            inspect.Parameter(keyword, inspect.Parameter.KEYWORD_ONLY, default=None)
            for keyword in ("out", "axes", "target")
        ]
        self.__signature__ = inspect.Signature([*parameters, *keywords])
        registry[name] = self
        for callback in on_definition:
            callback(self)

    def __repr__(self) -> str:
        return f"<nbops op {self.name} {self.signature}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return _by_name, (self.name,)

    @property
    def loop(self) -> Loop:
        return self.kernel.loop

    # ---- wiring -------------------------------------------------------------------------------------

    def gradient(self, rule: GradientRule) -> GradientRule:
        """Register the gradient: ``rule(*inputs, *outputs, *output_gradients)``.

        The rule returns one gradient per input (None where there is none), written with nbops ops, in the
        broadcast shape; summing over broadcast axes is done for it.
        """
        self.rule = rule
        return rule

    def tune(self, tuner: Tuner) -> Tuner:
        """Let ``tuner(dtypes, layout)`` name tasks that replace the loop on the CPU, or None."""
        self.kernel.tune(tuner)
        return tuner

    # ---- calling ------------------------------------------------------------------------------------

    def __call__(
        self,
        *operands: Any,
        out: Any = None,
        axes: Axes | None = None,
        target: str | None = None,
    ) -> Any:
        last = self.last_call
        if last is not None and axes is None and target is None and chosen_here() is None:
            result = empty(last.shape, last.dtype) if out is None else out
            if last.run_again(operands, result):
                return result
        return self._call_any(operands, out, axes, target)

    def check_count(self, operands: Sequence[Any]) -> None:
        """Raise TypeError unless there are as many operands as inputs."""
        if len(operands) != self.n_inputs:
            names = ", ".join(self.arguments)
            raise TypeError(f"{self.name}: {len(operands)} operands came; expected {names}")

    def _call_any(self, operands: tuple[Any, ...], out: Any, axes: Axes | None, target: str | None) -> Any:
        self.check_count(operands)
        for x in operands:
            if type(x) is not ndarray and arrays.is_tensorflow(x):
                return self._call_tensorflow(operands, out, axes, target)
        values = [
            arrays.as_array(x, self.name, argument)
            for x, argument in zip(operands, self.arguments, strict=True)
        ]
        return execution.call(self, values, out, axes, target)

    def _call_tensorflow(
        self, operands: Sequence[Any], out: Any, axes: Axes | None, target: str | None
    ) -> Any:
        from nbops import tensorflow

        arrays.refuse_for_tensors(self.name, out=out, target=target)
        return tensorflow.call(self, operands, axes)

    # ---- derivatives --------------------------------------------------------------------------------

    def vjp(self, *operands: Any) -> tuple[Any, Callable[..., tuple[Any, ...]]]:
        """The result, and the function that pulls its gradient back to the operands.

        Examples
        --------
        >>> import numpy as np, nbops
        >>> y, pullback = nbops.multiply.vjp(np.array([2.0, 3.0]), np.array(10.0))
        >>> y
        array([20., 30.])
        >>> pullback(np.ones(2))
        (array([10., 10.]), np.float64(5.0))
        """
        out = self(*operands)
        outputs = out if isinstance(out, tuple) else (out,)

        def pullback(*douts: Any) -> tuple[Any, ...]:
            return self.pull_back(operands, outputs, douts)

        return out, pullback

    def pull_back(
        self, operands: Sequence[Any], outputs: Sequence[Any], douts: Sequence[Any]
    ) -> tuple[Any, ...]:
        """The operands' gradients from the outputs' gradients, each in its operand's shape.

        Raises
        ------
        TypeError
            When the op has no gradient.
        """
        from nbops.ops.shapes import sum_to

        if self.rule is None:
            raise TypeError(f"{self.name} has no gradient; give it one with @{self.name}.gradient")
        gradients = self.rule(*operands, *outputs, *douts)
        if not isinstance(gradients, tuple | list):
            gradients = (gradients,)
        if len(gradients) != self.n_inputs:
            raise ValueError(
                f"{self.name}: its gradient rule returned {len(gradients)} values; "
                f"expected {self.n_inputs}, one per input (None where there is none)"
            )
        if self._never_broadcasts(operands):
            for gradient, operand, argument in zip(gradients, operands, self.arguments, strict=True):
                if gradient is not None and arrays.rank(gradient) != arrays.rank(operand):
                    raise ValueError(
                        f"{self.name}: its gradient rule gave {argument} a gradient with "
                        f"{arrays.rank(gradient)} axes; {argument} has {arrays.rank(operand)}"
                    )
            return tuple(gradients)
        return tuple(
            None if gradient is None else sum_to(gradient, operand)
            for gradient, operand in zip(gradients, operands, strict=True)
        )

    def _never_broadcasts(self, operands: Sequence[Any]) -> bool:
        """Whether ranks alone tell that every operand has the broadcast shape."""
        if self.n_inputs == 1:
            return True
        ranks = [arrays.rank(x) for x in operands]
        return ranks == [len(names) for names in self.signature.inputs]


def _check_definition(name: str, arguments: tuple[str, ...], written: Callable[..., Any]) -> None:
    """Refuse what would fail later and elsewhere.

    Raises
    ------
    ValueError
        For a name that nbops uses itself, or an argument called like a keyword of every op.
    TypeError
        For a loop that raises: a compiled one could not tell its caller.
    """
    own = registry.get(name)
    if own is not None and _is_ours(own.__module__) and not _is_ours(written.__module__ or ""):
        raise ValueError(f"{name!r} is the name of an op of nbops; give yours another with name=")
    taken = {"out", "axes", "target"} & set(arguments)
    if taken:
        raise ValueError(f"{name}: an input is called {min(taken)!r}, a keyword of every op; rename it")
    raising = {"RAISE_VARARGS", "RERAISE"} & {i.opname for i in dis.get_instructions(written)}
    if raising:
        raise TypeError(
            f"{name}: the loop has a raise or an assert; a compiled loop can't raise: check the "
            "operands before the call, or write NaN"
        )


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "nbops"


def _by_name(name: str) -> Op:
    return registry[name]


def op(
    signature: str,
    *,
    name: str | None = None,
    types: str | None = None,
    integers: Integers = "keep",
    nanoseconds: float = 1.0,
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
        What one innermost iteration takes on one core, for the dispatcher.

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
        )

    return decorate


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
        Takes one to three scalars and returns a scalar. It is compiled for the operands' common dtype; a
        constant must have that dtype too, or the arithmetic becomes float64: write ``type(x)(2)``.
    name, integers, nanoseconds
        As for `op`.

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
        raise TypeError(f"{own_name}: the formula takes {len(arguments)} arguments; expected 1 to 3")
    signature = Signature((((),) * len(arguments)), ((),))
    return Op(
        own_name,
        signature,
        Kernel(nests.BY_ARITY[len(arguments)], signature, own_name, formula=formula),
        Types.parse(None, len(arguments), 1, integers),
        arguments,
        nanoseconds,
        formula=formula,
        doc=formula.__doc__,
    )
