"""How Sphinx builds the documentation: `make docs`, or `sphinx-build docs docs/_build/html`.

Beside the settings stand four small helpers: docstrings are plain text and become reST here,
formulas become MathML (no script, no network), links to source files go to the highlighted source,
and the course page links the notebooks that exist.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.domains.python import PyXRefRole
from sphinx.util import logging

ROOT = Path(__file__).resolve().parent.parent
logger = logging.getLogger(__name__)
sys.path.insert(0, str(ROOT))

import minirnn  # noqa: E402

project = "minirnn"
author = "the minirnn authors"
copyright = author
version = release = minirnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

default_role = "name-or-code"  # `this` in a docstring
add_module_names = False
python_maximum_signature_line_length = 80
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "minirnn"
html_static_path = ["_static"]
html_css_files = ["minirnn.css"]
html_math_renderer = "mathml"
html_copy_source = False

# --- docstrings: plain text → reST ----------------------------------------------------------------

SECTIONS = re.compile(r"(Args|Returns|Raises|Attributes|Yields):\s*$")
ENTRY = re.compile(r"([a-z_][\w]*(?: \([^)]*\))?(?:, [a-z_]\w*(?: \([^)]*\))?)*):(?: (.*))?$")
LITERAL = [".. code-block:: text", ""]
LIST_ITEM = re.compile(r"([-*]|\d+\.) ")


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def paragraphs(lines: list[str]) -> list[list[str]]:
    """The lines between empty lines."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [paragraph for paragraph in found if paragraph]


def to_rest(lines: list[str]) -> list[str]:
    """Indented and aligned blocks become literal blocks, and `name: what it is` a list.

    What napoleon reads (Args and so on), doctests and lists stay as they are.
    """
    made: list[str] = []
    inside_section = inside_list = False
    for paragraph in paragraphs(lines):
        first, level = paragraph[0], indent_of(paragraph[0])
        if level == 0:
            inside_section = bool(SECTIONS.match(first))
            inside_list = bool(LIST_ITEM.match(first))
        plain = inside_section or inside_list or first.lstrip().startswith(">>>")
        if first == "Returns:":
            made += returned([line[4:] for line in paragraph[1:]])
        elif plain or first.endswith("::") or (made and made[-1].endswith("::")):
            made += paragraph
        elif level > 0:
            made += [*LITERAL, *paragraph]
        elif is_definitions(paragraph):
            made += definitions(paragraph)
        elif len(paragraph) > 1 and indent_of(paragraph[1]) > 0:  # a heading of what stands below
            made += [first, "", *LITERAL, *paragraph[1:]]
        elif len(paragraph) > 1 and all(re.search(r"\S {2,}\S", line) for line in paragraph):
            made += [*LITERAL, *(f"    {line}" for line in paragraph)]
        else:
            made += paragraph
        made.append("")
    return made


def returned(lines: list[str]) -> list[str]:
    """The section Returns: napoleon would take what stands before a colon for a type."""
    text = definitions(lines) if is_definitions(lines) else lines
    return [":returns:", *(f"    {line}" for line in text)]


def is_definitions(paragraph: list[str]) -> bool:
    """Whether each line is `name: text` or goes on, further in, with the text above."""
    return bool(ENTRY.match(paragraph[0])) and all(
        ENTRY.match(line) or indent_of(line) > 0 for line in paragraph
    )


def definitions(paragraph: list[str]) -> list[str]:
    made = []
    for line in paragraph:
        entry = ENTRY.match(line)
        made.append(
            f"- ``{entry[1]}``: {entry[2] or ''}".rstrip() if entry else f"  {line.strip()}"
        )
    return made


def process_docstring(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = to_rest(lines)
    if what in ("attribute", "property"):
        lines.insert(0, "")  # else napoleon takes what stands before a colon for a type


def skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """The fields of named tuples are told in the docstring of the class."""
    return True if (obj.__doc__ or "").startswith("Alias for field number") else None


class NameOrCode(PyXRefRole):
    """`this`: a link where it names something that is documented, else plain code."""

    def run(self) -> Any:
        if not re.fullmatch(r"[A-Za-z_][\w.]*", self.text):
            return [nodes.literal(self.text, self.text)], []
        self.name = "py:obj"
        if self.text[0].isupper():  # a class may stand in another module
            self.target = f".{self.target}"
        return super().run()


# --- formulas → MathML ----------------------------------------------------------------------------


def visit_math(translator: Any, node: nodes.Element) -> None:
    """TeX → MathML, which browsers show by themselves."""
    block = isinstance(node, nodes.math_block)
    try:
        shown = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logger.warning("%s In the formula: %s", error, node.astext(), location=node)
        shown = ""
    translator.body.append(f'<div class="formula">{shown}</div>\n' if block else shown)
    raise nodes.SkipNode


# --- links to source files ------------------------------------------------------------------------


def link_sources(app: Any, doctree: nodes.document, docname: str) -> None:
    """`[minirnn/cells.py](../minirnn/cells.py)` leads to the page that shows this module."""
    for node in list(doctree.findall(addnodes.download_reference)):
        path = (ROOT / "docs" / docname).parent.joinpath(node["reftarget"]).resolve()
        if path.suffix != ".py" or not path.is_relative_to(ROOT / "minirnn"):
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module in getattr(app.env, "_viewcode_modules", {}) and app.builder.format == "html":
            page = f"_modules/{module.replace('.', '/')}"
            uri = app.builder.get_relative_uri(docname, page)
            link = nodes.reference("", "", *node.children, refuri=uri, internal=True)
            node.replace_self(link)


# --- the course: notebooks that exist -------------------------------------------------------------

LANGUAGES = {"en": "English", "tr": "Türkçe"}


def notebooks(lesson: str) -> list[str]:
    """Links to the notebooks of this lesson, whose names begin with its number."""
    found = []
    for code, language in LANGUAGES.items():
        for path in sorted((ROOT / "examples" / "notebooks" / code).glob("*.ipynb")):
            number = re.match(r"\D*0*(\d+)", path.name)
            if number and number[1] == lesson:
                found.append(f"[{language}](../{path.relative_to(ROOT).as_posix()})")
    return found


def read_page(app: Any, docname: str, source: list[str]) -> None:
    """Links that lead elsewhere here than in the repository.

    On the course page, behind each lesson of the numbered list, its notebooks.
    """
    source[0] = source[0].replace("](../benchmarks/RESULTS.md)", "](results.md)")
    if docname == "course":
        lesson = re.compile(r"^(\d+)\. .+(?:\n +.+)*", re.MULTILINE)
        source[0] = lesson.sub(
            lambda found: f"{found[0].rstrip()} {', '.join(notebooks(found[1]))}".rstrip(),
            source[0],
        )


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", process_docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_member)
    app.connect("doctree-resolved", link_sources)
    app.connect("source-read", read_page)
    app.add_role("name-or-code", NameOrCode())
    renderers = visit_math, None
    app.add_html_math_renderer("mathml", inline_renderers=renderers, block_renderers=renderers)
