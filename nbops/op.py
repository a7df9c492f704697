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

import inspect
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np

from nbops import arrays, dispatch, frame
from nbops.dtypes import Integers, Types
from nbops.kernel import Kernel, Loop, Tuner
from nbops.signature import Signature
from nbops.targets import cpu

__all__ = ["Op", "elementwise", "op", "registry"]

#: Every op by name; `nbops.tensorflow` registers each of them with TensorFlow.
registry: dict[str, Op] = {}
#: Called with each op that is defined later.
on_definition: list[Callable[[Op], None]] = []

GradientRule = Callable[..., Any]
Axes = Sequence[Sequence[int]]


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
        self.name = name
        self.__name__ = self.__qualname__ = name
        self.__doc__ = doc
        self.signature = signature
        self.kernel = kernel
        self.types = types
        self.arguments = arguments
        self.nanoseconds = nanoseconds
        self.formula = formula
        self.rule: GradientRule | None = None
        self.n_inputs = len(signature.inputs)
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

    def tune(self, tuner: Tuner) -> None:
        """Let ``tuner(dtypes, layout)`` name tasks that replace the loop on the CPU, or None."""
        self.kernel.tune(tuner)

    # ---- calling ------------------------------------------------------------------------------------

    def __call__(
        self,
        *operands: Any,
        out: Any = None,
        axes: Axes | None = None,
        target: str | None = None,
    ) -> Any:
        if len(operands) != self.n_inputs:
            names = ", ".join(self.arguments)
            raise TypeError(f"{self.name}: {len(operands)} operands came; expected {names}")
        for x in operands:
            if type(x) is not np.ndarray and arrays.is_tensorflow(x):
                return self._call_tensorflow(operands, out, axes, target)
        values = [
            arrays.as_array(x, self.name, argument)
            for x, argument in zip(operands, self.arguments, strict=True)
        ]
        return self._call_numpy(values, out, axes, target)

    def _call_tensorflow(
        self, operands: Sequence[Any], out: Any, axes: Axes | None, target: str | None
    ) -> Any:
        from nbops import tensorflow

        if out is not None or target is not None:
            keyword = "out" if out is not None else "target"
            raise TypeError(
                f"{self.name}: {keyword}= does not go with TensorFlow values, which TensorFlow allocates "
                "and places; leave it out, or pass NumPy arrays"
            )
        return tensorflow.call(self, operands, axes)

    def _call_numpy(self, values: list[Any], out: Any, axes: Axes | None, target: str | None) -> Any:
        loop_dtypes, result_dtypes = self.types.resolve(values, self.name, self.arguments)
        inputs = [arrays.native(x, dtype) for x, dtype in zip(values, loop_dtypes, strict=False)]
        moved = _Axes(self, axes)
        inputs = moved.to_last(inputs)
        geometry, shapes = self._geometry(inputs)
        results = self._results(out, moved.shapes_back(shapes), result_dtypes, inputs)
        outputs = moved.outputs_to_last(results)
        buffers = [
            array
            if array.dtype == dtype
            and (out is None or (array.flags.aligned and not self._clashes(array, inputs, outputs)))
            else np.empty(array.shape, dtype)
            for array, dtype in zip(outputs, loop_dtypes[self.n_inputs :], strict=True)
        ]
        self._run([*inputs, *buffers], geometry, tuple(loop_dtypes), target)
        for array, buffer in zip(outputs, buffers, strict=True):
            if array is not buffer:
                with np.errstate(over="ignore", invalid="ignore"):
                    np.copyto(array, buffer, casting="same_kind")
        if out is None:
            results = [array if array.ndim else array[()] for array in results]
        return results[0] if len(results) == 1 else tuple(results)

    def _geometry(self, inputs: list[np.ndarray]) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        geometry = frame.new_geometry(len(self.signature.operands))
        for row, x in zip(geometry, inputs, strict=False):
            frame.describe(row, x)
        code = frame.infer_shapes(self.signature.table, geometry)
        self.signature.check(code, geometry, self.name, self.arguments)
        return geometry, [frame.get_shape(row) for row in geometry[self.n_inputs :]]

    def _results(
        self,
        out: Any,
        shapes: list[tuple[int, ...]],
        dtypes: list[np.dtype[Any]],
        inputs: list[np.ndarray],
    ) -> list[np.ndarray]:
        if out is None:
            return [
                arrays.allocate(shape, dtype, inputs, self.signature.is_elementwise)
                for shape, dtype in zip(shapes, dtypes, strict=True)
            ]
        results = list(out) if isinstance(out, tuple) else [out]
        if len(results) != len(shapes):
            raise ValueError(f"{self.name}: out has {len(results)} arrays; expected {len(shapes)}")
        for array, shape, dtype in zip(results, shapes, dtypes, strict=True):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{self.name}: out is a {type(array).__name__}; expected an ndarray")
            if array.shape != shape:
                raise ValueError(f"{self.name}: out is {array.shape}; the result's shape is {shape}")
            if not array.flags.writeable:
                raise ValueError(f"{self.name}: out is read-only")
            if not np.can_cast(dtype, array.dtype, casting="same_kind"):
                raise TypeError(
                    f"{self.name}: the result's dtype {dtype} can't be put into out of dtype {array.dtype}"
                )
        return results

    def _clashes(self, output: np.ndarray, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> bool:
        """Whether writing `output` could change what is still to be read."""
        for other in [*inputs, *(o for o in outputs if o is not output)]:
            if np.may_share_memory(output, other):
                same_place = (
                    self.signature.is_elementwise
                    and output.__array_interface__["data"] == other.__array_interface__["data"]
                    and output.shape == other.shape
                    and output.strides == other.strides
                )
                if not same_place:
                    return True
        return False

    def _run(
        self,
        operands: list[np.ndarray],
        geometry: np.ndarray,
        dtypes: tuple[np.dtype[Any], ...],
        target: str | None,
    ) -> None:
        table = frame.new_frame(len(operands))
        for row, x in zip(geometry[self.n_inputs :], operands[self.n_inputs :], strict=True):
            frame.describe(row, x)
        frame.build_frame(self.signature.table, geometry, table)
        decision = dispatch.decide(self._work(table, operands), target)
        if decision.target == "python":
            self.kernel.interpret(operands, self.n_inputs)
            return
        layout = int(table[0, frame.LAYOUT])
        serial = self.kernel.task(dtypes, layout)
        parallel = self.kernel.task(dtypes, layout, parallel=True) if decision.workers > 1 else 0
        grain = 64 if self.signature.is_elementwise else 1
        cpu.launch(serial, parallel, table, decision.workers, grain)

    def _work(self, table: np.ndarray, operands: Sequence[np.ndarray]) -> dispatch.Work:
        items, steps = frame.count_steps(self.signature.table, table)
        return dispatch.Work(items, steps, sum(x.nbytes for x in operands), self.nanoseconds)

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
        (array([10., 10.]), array(5.))
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


class _Axes:
    """NumPy's ``axes=``: where each operand keeps its core axes, if not last."""

    def __init__(self, owner: Op, axes: Axes | None) -> None:
        self.n_inputs = owner.n_inputs
        self.given = None if axes is None else normalize_axes(owner, axes)

    def to_last(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs if self.given is None else _move(inputs, self.given[: self.n_inputs])

    def outputs_to_last(self, outputs: list[np.ndarray]) -> list[np.ndarray]:
        return outputs if self.given is None else _move(outputs, self.given[self.n_inputs :])

    def shapes_back(self, shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        if self.given is None:
            return shapes
        back = []
        for shape, places in zip(shapes, self.given[self.n_inputs :], strict=True):
            last = tuple(range(len(shape) - len(places), len(shape)))
            back.append(np.moveaxis(np.broadcast_to(0, shape), last, places).shape)
        return back


def _move(operands: list[np.ndarray], axes: list[tuple[int, ...]]) -> list[np.ndarray]:
    return [
        np.moveaxis(x, places, tuple(range(-len(places), 0))) if places else x
        for x, places in zip(operands, axes, strict=True)
    ]


def normalize_axes(owner: Op, axes: Axes) -> list[tuple[int, ...]]:
    """`axes` as one tuple per operand; outputs without core axes may be left out.

    Raises
    ------
    ValueError
        When there are too few or too many.
    """
    given = [(places,) if isinstance(places, int) else tuple(places) for places in axes]
    wanted = [len(names) for names in owner.signature.operands]
    if len(given) == owner.n_inputs and not any(wanted[owner.n_inputs :]):
        given += [()] * (len(wanted) - owner.n_inputs)
    if [len(places) for places in given] != wanted:
        raise ValueError(
            f"{owner.name}: axes is {list(axes)}; the signature {owner.signature} needs one tuple per "
            f"operand, with {wanted} axes"
        )
    return given


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
