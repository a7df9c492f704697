"""The documentation: links lead somewhere; each public name is in the reference with a whole docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import nbops
from nbops import dispatch, documentation
from nbops.signature import Signature

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")) + sorted(ROOT.glob("examples/**/*.md"))
MODULES = (
    "nbops",
    "nbops.nn",
    "nbops.keras",
    "nbops.data",
    "nbops.numpy_nn",
    "nbops.tensorflow",
    "nbops.testing",
)


# ---- links ------------------------------------------------------------------------------------------


def targets(page: Path) -> list[str]:
    """What a Markdown page links to, pictures included, outside code."""
    text = re.sub(
        r"^( *)(`{3,}).*?^\1\2", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    text = re.sub(r"`[^`\n]+`(?!\])", "", text)
    return re.findall(r"\]\(([^()\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)


def anchors(page: Path) -> set[str]:
    """The names that GitHub and MyST give to a page's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in targets(page):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken, f"{page.relative_to(ROOT)} links to {broken}"


def test_links_are_found() -> None:
    """The test above would pass over a page whose links it doesn't see."""
    assert "docs/architecture.md" in targets(ROOT / "README.md")


# ---- examples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cold-start.md", "dispatch.md"])
def test_the_python_on_a_page_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's is run by test_readme.py, the tutorial's by test_notebook.py."""
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))  # for calibrate()
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    if name == "dispatch.md":
        printed = capsys.readouterr().out
        assert "matmul: 128x784, 784x512 -> 128x512 in float32" in printed
        assert "target 'parallel' was asked for, but one thread is all there is (strict)" in printed


def test_what_the_page_about_the_emulator_prints(run_python: Any) -> None:
    """Every program on the page prints the report that stands under it.

    But for kernels' names, some of which are shortened there, and the mix of instructions, which is the
    compiler's.
    """
    from nbops.targets.cuda import toolchain

    if toolchain.failure() is not None:
        pytest.skip("numba-cuda can't compile here")

    def comparable(report: str) -> list[str]:
        report = re.sub(r"^kernel \S+, ", "kernel, ", report, flags=re.MULTILINE)
        report = re.sub(r"[\d,]+ warp instructions, (\S+ of their lanes active): .*", r"\1", report)
        return report.replace("script.py", "example.py").splitlines()

    page = (ROOT / "docs" / "gpu-without-a-gpu.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n([^`]*)```\n\nIt prints \(.*\):\n\n```\n([^`]*)```", page)
    assert len(shown) == page.count("print(") == 2
    for program, report in shown:
        assert comparable(run_python(program).stdout) == comparable(report)


def test_the_page_about_dispatch_lists_every_rule_and_target() -> None:
    """In the rules' order."""
    page = (ROOT / "docs" / "dispatch.md").read_text(encoding="utf-8")
    module = inspect.getdoc(dispatch) or ""
    rules = re.findall(r"^(\w[\w ]+?)  +\S", module.split("\n\n")[1], re.MULTILINE)
    decided_before = {"a TensorFlow value", "a device array"}
    assert re.findall(r"^\| (\w[\w ]+) \| ", page.split("## The rules")[1], re.MULTILINE)[1:] == [
        rule for rule in rules if rule not in decided_before
    ]
    assert all(f"`{target}`" in page for target in dispatch.TARGETS)


# ---- the reference ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> Any:
    """The Sphinx extension that writes the reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "extensions"))
        yield importlib.import_module("reference")


def public(module: str) -> list[str]:
    if module in ("nbops.nn", "nbops.keras", "nbops.tensorflow"):
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    return [f"{module}.{name}" for name in importlib.import_module(module).__all__]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str, reference: Any) -> None:
    pages = reference.public_names()
    entries = "\n".join(reference.page(home, paths) for home, paths in pages.items())
    for path in public(module):
        assert (
            len(re.findall(rf"^\.\. auto(?:function|class|data):: {re.escape(path)}$", entries, re.MULTILINE))
            == 1
        ), path
    index = reference.index(pages)
    assert all(f"`~{path}`" in index for path in public(module))


def test_an_ops_entry_ends_with_its_loop(reference: Any) -> None:
    lines: list[str] = []
    reference.show_the_loop(None, "function", "nbops.matmul", nbops.matmul, None, lines)
    assert "   def matmul(a: Array, b: Array, out: Array) -> None:" in lines
    assert '"""' not in "\n".join(lines)
    reference.show_the_loop(None, "function", "nbops.fit", reference.page, None, lines := [])
    assert lines == []


# ---- docstrings -------------------------------------------------------------------------------------

#: numpydoc's rules that are not asked for, and why.
NOT_ASKED = {
    "ES01": "a summary that says all needs no longer one",
    "GL01": "the summary stands on the line of the quotes",
    "GL02": "the same",
    "PR07": "a parameter whose name and type say all needs no sentence",
    "RT03": "so does a result",
    "SA01": "links stand in the text",
    "SS02": "a summary may start with a formula",
    "SS05": "the rule takes a plural, such as Exponentials, for a verb",
}
#: Records have nothing to show, and calibrate measures this machine for two seconds.
WITHOUT_EXAMPLE = {
    "nbops.calibrate",
    "nbops.nn.Epoch",
    "nbops.nn.Evaluation",
    "nbops.nn.Ops",
    "nbops.nn.Progress",
}


#: Nobody calls them: `op` and `elementwise` make the first, and the second is a protocol.
WITHOUT_PARAMETERS = {"nbops.Op", "nbops.numpy_nn.Optimizer"}


def problems(path: str, thing: Any) -> list[str]:
    """What numpydoc's validator finds wrong, after the rules that are not asked for."""
    validate = pytest.importorskip("numpydoc.validate", reason="numpydoc is not installed")
    from numpydoc.docscrape import get_doc_object

    class Found(validate.Validator):
        def __init__(self, obj_name: str) -> None:
            super().__init__(get_doc_object(thing))

    allowed = set(NOT_ASKED)
    allowed |= {"EX01"} if path in WITHOUT_EXAMPLE else set()
    allowed |= {"PR01"} if path in WITHOUT_PARAMETERS else set()
    errors = validate.validate(path, validator_cls=Found)["errors"]
    return [f"{path}: {code} {text}" for code, text in errors if code not in allowed]


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_are_whole(module: str, reference: Any) -> None:
    found = []
    for path in public(module):
        thing = reference.resolve(path)
        if callable(thing):
            found += problems(path, thing)
    assert not found, "\n".join(found)


def test_a_docstring_that_is_not_whole_is_found() -> None:
    def bare(x: int) -> int:
        """No period"""
        return x

    text = "\n".join(problems("bare", bare))
    assert all(code in text for code in ("SS03", "PR01", "RT01", "EX01"))


def test_an_op_s_docstring_names_everything_it_takes() -> None:
    doc = nbops.matmul.__doc__ or ""
    for parameter in inspect.signature(nbops.matmul).parameters:
        assert re.search(rf"^{parameter} : ", doc, re.MULTILINE), parameter
    assert "a : array_like, shape (..., m, k)" in doc
    assert "array, shape (..., m, n)" in doc


def test_what_the_author_wrote_stays() -> None:
    written = """What it does.

    More.

    Examples
    --------
    >>> 1
    1

    Parameters
    ----------
    x, out : array
        Mine.
    """
    doc = documentation.complete(written, "f", ["x", "y"], Signature.parse("(n),()->(n)"), ["T", "int64"])
    assert doc.startswith(
        "What it does.\n\nMore.\n\nParameters\n----------\nx, out : array\n    Mine.\ny : array_like\n"
    )
    assert "Converted to int64." in doc
    assert "x :" not in doc
    assert "out :" not in doc.replace("x, out :", "")
    titles = re.findall(r"^(\w+)\n---", doc, re.MULTILINE)
    assert titles == ["Parameters", "Returns", "Raises", "Examples"]


def test_an_op_without_a_docstring_gets_one() -> None:
    plain = nbops.elementwise(name="documentation_plain")(lambda x, y: x - y)
    assert (plain.__doc__ or "").startswith("documentation_plain: (),()->().\n\nParameters\n")
