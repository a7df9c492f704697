"""The API reference, made from ``__all__``: a new public name needs no line here.

Before Sphinx reads anything, one page is written per module that defines public names: the module's
docstring, then every name. An op's entry ends with its loop, or its formula, as it is written. When all is
read, a public name that has no entry is a warning, and ``make docs`` turns warnings into errors.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the tests read the names from here without Sphinx
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

#: The modules that users import. nbops's own names come from many modules; the others' from themselves.
PUBLIC = (
    "nbops",
    "nbops.nn",
    "nbops.optimizers",
    "nbops.keras",
    "nbops.data",
    "nbops.numpy_nn",
    "nbops.tensorflow",
    "nbops.testing",
)


def public_names() -> dict[str, list[str]]:
    """Every public name as users write it, by the module that defines it."""
    pages: dict[str, list[str]] = {}
    for place in PUBLIC:
        module = importlib.import_module(place)
        for name in module.__all__:
            home = getattr(getattr(module, name), "__module__", place) if place == "nbops" else place
            pages.setdefault(home, []).append(f"{place}.{name}")
    return dict(sorted(pages.items(), key=lambda item: order(item[0])))


def order(home: str) -> tuple[bool, bool, str]:
    """The ops first, then what steers them, then the modules that users import by name."""
    return home in PUBLIC, not home.startswith("nbops.ops."), home


def resolve(path: str) -> Any:
    """The object that ``nbops.nn.fit`` names."""
    place, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(place), name)


def directive(path: str) -> str:
    """The autodoc directive for a public name."""
    thing = resolve(path)
    if inspect.isclass(thing):
        return f".. autoclass:: {path}\n   :members:\n"
    if not isinstance(thing, dict):
        return f".. auto{'function' if callable(thing) else 'data'}:: {path}\n"
    keys = ", ".join(f"``{key}``" for key in thing)  # a table by name; what stands behind a name is code
    return f".. autodata:: {path}\n   :no-value:\n\n   A mapping with the keys {keys}.\n"


def page(home: str, paths: list[str]) -> str:
    """The page of a module, in reStructuredText."""
    title = heading(home)
    directives = "\n".join(map(directive, paths))
    # Without an index entry: nbops.op and nbops.explain are names of functions too.
    module = f".. automodule:: {home}\n   :no-index:\n   :no-members:\n"
    return f"{title}\n{'=' * len(title)}\n\n{module}\n{directives}"


def heading(home: str) -> str:
    """A module that users import by its name; of the others, what they are about."""
    return home if home in PUBLIC else home.rsplit(".", 1)[1].replace("_", " ").capitalize()


def index(pages: dict[str, list[str]]) -> str:
    """The page that lists the others."""
    title = "Reference"
    table = "".join(
        f"   * - :doc:`{home}`\n     - {', '.join(f':py:obj:`~{path}`' for path in paths)}\n"
        for home, paths in pages.items()
    )
    entries = "".join(f"   {home}\n" for home in pages)
    return (
        f"{title}\n{'=' * len(title)}\n\n"
        "Every public name, by the module that defines it, from the docstrings.\n\n"
        f".. list-table::\n   :widths: 30 70\n\n{table}\n.. toctree::\n   :hidden:\n\n{entries}"
    )


def write_pages(app: Sphinx) -> None:
    """Write ``reference/*.rst``, touching only what changed."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    pages = public_names()
    texts = {"index": index(pages)} | {home: page(home, paths) for home, paths in pages.items()}
    for stale in set(folder.glob("*.rst")) - {folder / f"{name}.rst" for name in texts}:
        stale.unlink()
    for name, text in texts.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def show_the_loop(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put an op's source at the end of its entry."""
    from nbops.op import Op

    if not isinstance(thing, Op):
        return
    written = inspect.unwrap(thing.formula or thing.loop)
    kind = "formula for one element" if thing.formula else "loop"
    lines += ["", f".. rubric:: The {kind}", "", ".. code-block:: python", ""]
    lines += [f"   {line}" for line in source(written).splitlines()]


def source(function: Any) -> str:
    """A function as it is written, without its docstring."""
    text = textwrap.dedent(inspect.getsource(function))
    definition: Any = ast.parse(text).body[0]
    if ast.get_docstring(definition) is None:
        return text
    docstring, lines = definition.body[0], text.splitlines(keepends=True)
    return "".join(lines[: docstring.lineno - 1] + lines[docstring.end_lineno :])


def check_all_documented(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that the reference lacks."""
    from sphinx.util import logging

    documented = env.get_domain("py").data["objects"]
    for paths in public_names().values():
        for path in paths:
            if path not in documented:
                logging.getLogger(__name__).warning("%s is public but not in the reference", path)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", show_the_loop, priority=900)  # after numpydoc
    app.connect("env-check-consistency", check_all_documented)
    return {"parallel_read_safe": True}
