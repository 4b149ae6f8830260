"""Formulas as MathML, written at build time: a reader's browser fetches nothing."""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def _markup(node: nodes.Element, display: str) -> str:
    latex = node.astext()
    # The source stands beside the formula for screen readers without MathML.
    return convert(latex, display=display).replace("<math ", f'<math alttext="{escape(latex, quote=True)}" ', 1)


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula in running text."""
    self.body.append(_markup(node, "inline"))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    self.body.append(f'<div class="formula">{_markup(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Make `mathml` a renderer that `html_math_renderer` can name."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
