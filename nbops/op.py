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

import importlib
import inspect
import opcode
import pickle
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast, overload

from numpy import ndarray

from nbops import arrays, compiler, documentation, execution, repeat
from nbops.dispatch import recorder
from nbops.dtypes import Integers, Types
from nbops.execution import Axes
from nbops.kernel import CudaPlanner, Kernel, Loop, Tuner
from nbops.labels import Labels
from nbops.pieces import Combine, Pieces
from nbops.signature import Signature
from nbops.targets import cuda

__all__ = ["Op", "elementwise", "op", "registry"]

#: Every op by name; `nbops.tensorflow` registers each of them with TensorFlow.
registry: dict[str, Op] = {}
#: Called with each op that is defined later.
on_definition: list[Callable[[Op], None]] = []

GradientRule = Callable[..., Any]

#: The byte codes of raise and assert.
_RAISING = {opcode.opmap["RAISE_VARARGS"], opcode.opmap["RERAISE"]}


class Op:
    """A function on arrays, made from a loop by `op` or from a formula by `elementwise`.

    Attributes
    ----------
    name : str
    signature : Signature
    kernel : Kernel
        The loop and its compiled forms.
    types : Types
        Which operands share a dtype, and what integers become.
    arguments : tuple of str
        The inputs' names.
    nanoseconds : float
        What one innermost iteration takes on one core.
    formula : function or None
        An elementwise op's rule for one element.
    in_place : tuple of str
        For each output, the input that it may be written over; empty if there is none.
    doc : str or None
        The docstring as its author wrote it; ``__doc__`` has what the signature adds.
    loop : function
        The loop as written; with `formula`, the loop nest around it.

    Examples
    --------
    >>> import nbops
    >>> nbops.matmul
    <nbops op matmul (m,k),(k,n)->(m,n)>
    >>> nbops.matmul.arguments
    ('a', 'b')
    """

    def __new__(cls, *arguments: Any, **keywords: Any) -> Op:
        # A class of its own, so that `nbops.repeat` can give this op alone another ``__call__``, and so that
        # the docstring and the signature are written when somebody reads them.
        names = {
            "__module__": cls.__module__,
            "__doc__": property(_doc),
            "__signature__": property(_signature),
        }
        return object.__new__(type(cls.__name__, (cls,), names))

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
        in_place: tuple[str, ...] = (),
    ) -> None:
        written = formula or kernel.written
        _check_definition(name, arguments, written)
        self.name = name
        self.__name__ = self.__qualname__ = name
        self.doc = doc
        self.__module__ = written.__module__ or "__main__"
        self.signature = signature
        self.kernel = kernel
        self.types = types
        self.arguments = arguments
        self.nanoseconds = nanoseconds
        self.formula = formula
        self.in_place = in_place
        self.rule: GradientRule | None = None
        self.pieces = Pieces()
        self.labels: Labels | None = None
        self.n_inputs = len(signature.inputs)
        self.short_way: repeat.ShortWay | None = None
        registry[name] = self
        for callback in on_definition:
            callback(self)

    def __repr__(self) -> str:
        return f"<nbops op {self.name} {self.signature}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self.__module__ != "__main__":
            return _by_name, (self.name, self.__module__)
        try:
            import cloudpickle
        except ImportError:
            return self.name  # pickle looks for it in the script, as it does for functions
        # As bytes: the function's name in the script is the op's, and pickle would look it up there.
        written = cloudpickle.dumps(self.formula or self.loop)
        definition = (self.name, str(self.signature), written, self.formula is not None)
        properties = (self.types, self.arguments, self.nanoseconds, self.in_place, self.pieces, self.labels)
        return _defined_again, (*definition, *properties)

    def overwritten(self, output: int) -> tuple[int, ...]:
        """The numbers of the inputs over which the loop may write an output, at the very same place."""
        if self.signature.is_elementwise:
            return tuple(range(self.n_inputs))
        return tuple(self.arguments.index(name) for name in self.in_place[output : output + 1])

    @property
    def loop(self) -> Loop:
        return self.kernel.loop

    def as_written(self) -> Op:
        """The same op without its tuned kernel, for comparisons; it is in no registry."""
        twin = object.__new__(Op)
        vars(twin).update(vars(self), kernel=self.kernel.as_written(), short_way=None)
        return twin

    # ---- wiring -------------------------------------------------------------------------------------

    def gradient(self, rule: GradientRule) -> GradientRule:
        """Register the gradient: ``rule(*inputs, *outputs, *output_gradients)``.

        Parameters
        ----------
        rule : function
            Returns one gradient per input (None where there is none), written with nbops ops, in the
            broadcast shape; summing over broadcast axes is done for it.

        Returns
        -------
        function
            The rule, so that this can be a decorator.

        Examples
        --------
        >>> from nbops import elementwise, multiply
        >>> @elementwise
        ... def square(x):
        ...     return x * x
        >>> @square.gradient
        ... def _(x, out, dout):
        ...     return multiply(multiply(2, x), dout)
        >>> square.vjp(3.0)[1](1.0)
        (np.float64(6.0),)
        """
        self.rule = rule
        return rule

    def tune(self, cpu: Tuner | None = None, *, cuda: CudaPlanner | None = None) -> Tuner | None:
        """Let ``cpu(dtypes, layout)`` name tasks that replace the loop, and `cuda` plan its launches.

        Parameters
        ----------
        cpu : function, optional
            Gets the operands' dtypes and the layout, and gives an object whose ``serial`` and ``parallel``
            are the addresses of tasks; None leaves the loop in place.
        cuda : function or str, optional
            See `nbops.kernel.Kernel.tune`.

        Returns
        -------
        function or None
            The CPU's tuner, so that this can be a decorator.
        """
        self.kernel.tune(cpu, cuda)
        return cpu

    def split(self, independent: str = "", reduced: str = "", combine: Combine | None = None) -> None:
        """Say which core axes can be cut, ``matmul.split("m,n", reduced="k")``; see `nbops.pieces`."""
        pieces = Pieces.parse(self.name, self.signature, independent, reduced)
        self.pieces = pieces._replace(combine=combine, rule=self.pieces.rule)

    def piecewise(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Register ``rule(*inputs)``: the op, written with ops that can be cut; see `nbops.pieces`."""
        self.pieces = self.pieces._replace(rule=rule)
        return rule

    def labelled(self, label: str, axis: str) -> None:
        """Say that the int64 operand `label` counts along a core axis, ``labelled("label", "n")``.

        On tensors a label out of range raises then; see `nbops.labels`.
        """
        inputs = self.types.inputs
        self.labels = Labels.parse(self.name, self.signature, inputs, self.arguments, label, axis)

    # ---- calling ------------------------------------------------------------------------------------

    def call_any_way(
        self,
        *operands: Any,
        out: Any = None,
        axes: Axes | None = None,
        target: str | None = None,
    ) -> Any:
        """The call, whatever the operands are; `nbops.repeat` has a shorter way for some."""
        return self._call_any(operands, out, axes, target)

    __call__ = call_any_way

    def check_count(self, operands: Sequence[Any]) -> None:
        """Raise TypeError unless there are as many operands as inputs.

        Parameters
        ----------
        operands : sequence
            What came.

        Raises
        ------
        TypeError
            When they are too few or too many.
        """
        if len(operands) != self.n_inputs:
            names = ", ".join(self.arguments)
            raise TypeError(f"{self.name}: {len(operands)} operands came; expected {names}")

    def _call_any(self, operands: tuple[Any, ...], out: Any, axes: Axes | None, target: str | None) -> Any:
        self.check_count(operands)
        record = recorder()
        if record is not None:
            return record(self, operands, axes)
        for x in operands:
            if type(x) is ndarray:
                continue
            if arrays.is_tensorflow(x):
                return self._call_tensorflow(operands, out, axes, target)
            if arrays.is_dask(x):
                from nbops import dask

                arrays.refuse_for_lazy(self.name, out=out)
                return dask.call(self, operands, axes, target)
            if cuda.is_device_array(x):
                return cuda.call_on_device_arrays(self, operands, out, axes, target)
        if self.signature.is_elementwise:
            arrays.check_labels_agree(self.name, operands)
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

        Parameters
        ----------
        *operands : array_like
            As for the op itself.

        Returns
        -------
        out : array or tuple of arrays
            The op's result.
        pullback : function
            Takes the gradient of a scalar by each result, and gives that by each operand.

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

        Parameters
        ----------
        operands, outputs : sequence of arrays
            What went in and what came out.
        douts : sequence of arrays
            The gradient of a scalar by each output.

        Returns
        -------
        tuple
            The gradient by each operand, None where there is none.

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


def _doc(op: Op) -> str:
    return documentation.complete(op.doc, op.name, op.arguments, op.signature, op.types.inputs)


def _signature(op: Op) -> inspect.Signature:
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in op.arguments]
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in ("out", "axes", "target")
    ]
    return inspect.Signature([*parameters, *keywords])


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
    if not _RAISING.isdisjoint(written.__code__.co_code[::2]):
        raise TypeError(
            f"{name}: the loop has a raise or an assert; a compiled loop can't raise: check the "
            "operands before the call, or write NaN"
        )


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "nbops"


def _by_name(name: str, module: str) -> Op:
    """An op out of a pickle: the one of this name, once the module that defines it is imported."""
    if name not in registry:
        importlib.import_module(module)
    return registry[name]


def _defined_again(
    name: str,
    signature: str,
    written: bytes,
    is_formula: bool,
    types: Types,
    arguments: tuple[str, ...],
    nanoseconds: float,
    in_place: tuple[str, ...],
    pieces: Pieces,
    labels: Labels | None,
) -> Op:
    """An op of a script or notebook out of a pickle: the process that reads it can't import its module."""
    known = registry.get(name)
    function = pickle.loads(written)
    if known is not None and _digest_of(known.formula or known.loop) == _digest_of(function):
        return known
    if is_formula:
        result = _elementwise(function, name, types.integers, nanoseconds)
    else:
        parsed = Signature.parse(signature)
        kernel = Kernel(function, parsed, name)
        result = Op(name, parsed, kernel, types, arguments, nanoseconds, in_place=in_place)
    result.pieces, result.labels = pieces, labels
    return result


def _digest_of(written: Callable[..., Any]) -> str:
    """What tells code and the numbers in its closure apart."""
    return compiler.digest(cast(FunctionType, written))


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
