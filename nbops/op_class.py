"""The class of every op: a function on arrays that knows its signature, its loop and its gradient."""

from __future__ import annotations

import inspect
import opcode
from collections.abc import Callable, Sequence
from typing import Any

from numpy import ndarray

from nbops import arrays, documentation, execution, remember
from nbops.dtypes import Types
from nbops.execution import Axes
from nbops.kernel import CudaPlanner, Kernel, Loop, Tuner
from nbops.labels import Labels
from nbops.pieces import Combine, Pieces, leading_axis
from nbops.settings import recorder
from nbops.signature import Signature
from nbops.targets import cuda

__all__ = ["GradientRule", "Op", "on_definition", "registry"]

#: Every op by name; `nbops.tensorflow` registers each of them with TensorFlow.
registry: dict[str, Op] = {}
#: Called with each op that is defined later.
on_definition: list[Callable[[Op], None]] = []

GradientRule = Callable[..., Any]
#: For the operands' numbers of axes, the op that takes the call, or None.
ForRanks = Callable[..., "Op | None"]
#: The byte code of raise and assert. RERAISE says nothing: from Python 3.12 on, each comprehension has one.
_RAISE = opcode.opmap["RAISE_VARARGS"]


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
        self.for_ranks: ForRanks | None = None
        self.pieces = Pieces()
        self.labels: Labels | None = None
        self.n_inputs = len(signature.inputs)
        self.short_way: remember.ShortWay | None = None
        registry[name] = self
        for callback in on_definition:
            callback(self)

    def __repr__(self) -> str:
        return f"<nbops op {self.name} {self.signature}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        from nbops.pickling import reduced

        return reduced(self)

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

    @property
    def pieces(self) -> Pieces:
        """What a cut along each core axis does."""
        return self._pieces

    @pieces.setter
    def pieces(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self.kernel.cut_along(leading_axis(self.signature, pieces.independent))

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
        """Say which core axes can be cut, ``matmul.split("m,n", reduced="k")``; see `nbops.pieces`.

        On a CPU, cores then share an item along the first independent axis that comes first wherever it
        comes, instead of by the loop's own ``prange``; see `nbops.targets.cuts`.
        """
        pieces = Pieces.parse(self.name, self.signature, independent, reduced)
        self.pieces = pieces._replace(combine=combine, rule=self.pieces.rule)

    def piecewise(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Register ``rule(*inputs)``: the op, written with ops that can be cut; see `nbops.pieces`."""
        self.pieces = self.pieces._replace(rule=rule)
        return rule

    def fewer_axes(self, choose: ForRanks) -> ForRanks:
        """Register ``choose(*ranks)``: the op for arrays with fewer axes than the signature has, or None."""
        self.for_ranks = choose
        return choose

    def chosen_for(self, operands: Sequence[Any]) -> Op:
        """The op that takes a call on these operands: this one, unless arrays have fewer axes.

        Tensors are TensorFlow's, whose ops take as many axes as they say.
        """
        if self.for_ranks is None or any(arrays.is_tensorflow(x) for x in operands):
            return self
        try:
            ranks = [arrays.rank(x) for x in operands]
        except ValueError:  # a list that is no array: told later, in words
            return self
        return self.for_ranks(*ranks) or self

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
        axis: int | None = None,
        target: str | None = None,
        **unknown: Any,
    ) -> Any:
        """The call, whatever the operands are; `nbops.repeat` has a shorter way for some."""
        if unknown:
            known = ", ".join(self.signature.keywords)
            raise TypeError(f"{self.name}: there is no {next(iter(unknown))}=; there are {known}")
        if axis is not None:
            axes = execution.along(self, axis, axes)
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
        if self.for_ranks is not None and axes is None:
            chosen = self.chosen_for(operands)
            if chosen is not self:
                return chosen(*operands, out=out, target=target)
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
        return execution.call(self, operands, out, axes, target)

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
        chosen = self.chosen_for(operands)
        if chosen is not self:
            return chosen.vjp(*operands)
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
        for name in op.signature.keywords
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
    taken = {"out", "axes", "axis", "target"} & set(arguments)
    if taken:
        raise ValueError(f"{name}: an input is called {min(taken)!r}, a keyword of every op; rename it")
    if _RAISE in written.__code__.co_code[::2]:
        raise TypeError(
            f"{name}: the loop has a raise or an assert; a compiled loop can't raise: check the "
            "operands before the call, or write NaN"
        )


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "nbops"
