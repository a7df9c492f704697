"""An op's docstring: what its author wrote, and the sections that follow from its signature.

Every op takes arrays in the shapes of its signature, and ``out``, ``axes`` and ``target``. Saying so once,
here, gives each op, a user's too, a whole numpydoc docstring; the loop's own says what the op computes, its
edge rules and an example. A section or parameter that the author wrote stays as it is.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

from nbops.signature import Signature

__all__ = ["complete"]

#: numpydoc's sections, in its order.
SECTIONS = ("Parameters", "Returns", "Raises", "See Also", "Notes", "References", "Examples")

_TITLE = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", re.MULTILINE)


def complete(
    doc: str | None, name: str, arguments: Sequence[str], signature: Signature, dtypes: Sequence[str]
) -> str:
    """The docstring with every section that the signature tells.

    Parameters
    ----------
    doc : str or None
        What the loop or formula says.
    name : str
        The op's name, which stands for an empty docstring.
    arguments : sequence of str
        The inputs' names.
    signature : Signature
        The op's signature.
    dtypes : sequence of str
        Each input's dtype, ``"T"`` for the one that they share.

    Returns
    -------
    str
        A docstring in numpydoc's format.

    Examples
    --------
    >>> from nbops.documentation import complete
    >>> from nbops.signature import Signature
    >>> doc = complete("The sum of a row.", "sum", ["x"], Signature.parse("(n)->()"), ["T"])
    >>> print(doc.splitlines()[4])
    x : array_like, shape (..., n)
    """
    head, sections = _split(inspect.cleandoc(doc or f"{name}: {signature}."))
    sections["Parameters"] = _parameters(sections.get("Parameters", ""), arguments, signature, dtypes)
    sections.setdefault("Returns", _returns(signature))
    sections.setdefault("Raises", _raises(len(arguments)))
    ordered = sorted(sections, key=lambda title: SECTIONS.index(title) if title in SECTIONS else -1)
    parts = [f"{title}\n{'-' * len(title)}\n{sections[title]}" for title in ordered]
    return "\n\n".join([head, *parts]) + "\n"


def _split(doc: str) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the sections' texts by title."""
    head, *rest = _TITLE.split(doc)
    return head.strip(), {title: text.strip("\n") for title, text in zip(rest[::2], rest[1::2], strict=True)}


def _parameters(written: str, arguments: Sequence[str], signature: Signature, dtypes: Sequence[str]) -> str:
    named = {
        name.strip()
        for names in re.findall(r"^(\w[^:\n]*?)(?: *:.*)?$", written, re.MULTILINE)
        for name in names.split(",")
    }
    entries = [written] if written else []
    entries += [
        f"{argument} : array_like{_shape(axes)}\n    {_what(dtype, signature)}"
        for argument, axes, dtype in zip(arguments, signature.inputs, dtypes, strict=True)
        if argument not in named
    ]
    several = len(signature.outputs) > 1
    keywords = {
        "out": f"{'tuple of ndarray' if several else 'ndarray'}, optional\n"
        f"    Where to write the result{'s' if several else ''}; may not be given with tensors.",
        "axes": "list of tuple of int, optional\n"
        "    Where each operand, and then the result, keeps its core axes; the last ones unless given.",
        "axis": "int, optional\n    The core axis of every operand; `axes` can tell them apart.",
        "target": "str, optional\n    See `nbops.use`.",
    }
    entries += [f"{name} : {keywords[name]}" for name in signature.keywords if name not in named]
    return "\n".join(entries)


def _what(dtype: str, signature: Signature) -> str:
    kind = "Integers or floating point" if dtype == "T" else f"Converted to {dtype}"
    if len(signature.inputs) == 1:
        return f"{kind}."
    which = "shapes" if signature.is_elementwise else "axes before those named"
    return f"{kind}. The {which} broadcast."


def _returns(signature: Signature) -> str:
    where = "A tensor where a tensor went in."
    if len(signature.outputs) == 1:
        return f"array{_shape(signature.outputs[0])}\n    {where}"
    shapes = ", ".join(f"(..., {', '.join(axes)})" for axes in signature.outputs)
    return f"tuple of arrays, shapes {shapes}\n    {where.replace('A tensor', 'Tensors')}"


def _raises(count: int) -> str:
    text = "TypeError\n    For bool, complex, strings and objects."
    return text if count < 2 else f"ValueError\n    When the shapes don't fit or don't broadcast.\n{text}"


def _shape(axes: Sequence[str]) -> str:
    return f", shape (..., {', '.join(axes)})" if axes else ""
