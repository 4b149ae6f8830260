"""The pages of stages, written from the registry: `stages` for one file of them, `stage-table` for all."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import looks
import yaml
from docexamples import Shown, code_of, prose_of, run_example
from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from cellkit.core import registry
from cellkit.core.kinds import KINDS, Kind
from cellkit.core.stage import OBJECT, WHOLE, StageSpec


def file_of(spec: StageSpec) -> str:
    """Return the file that a stage stands in, without its suffix: the name of its page."""
    return spec.origin.rpartition(".")[2]


class Stages(SphinxDirective):
    """A section for every stage of some files, with pictures of its own example."""

    required_arguments = 1
    optional_arguments = 20
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Return the sections. An unknown file is an error of the page."""
        files: dict[str, list[StageSpec]] = {name: [] for name in self.arguments}
        for spec in registry.stages().values():
            if file_of(spec) in files:
                files[file_of(spec)].append(spec)
        for name, found in files.items():
            if not found:
                raise self.error(f"no stage stands in a file {name}.py")
        return [self._section(spec) for found in files.values() for spec in found]

    def _section(self, spec: StageSpec) -> nodes.section:
        source = inspect.getsourcefile(spec.function)
        if source is not None:
            self.env.note_dependency(source)
        section = nodes.section(ids=[spec.name], names=[f"stage-{spec.name}"])
        section += nodes.title(spec.name, spec.name)
        self.state.document.note_explicit_target(section)
        prose = prose_of(spec)
        self._parse(prose[:1], section)
        section += self._pictures(spec)
        section += looks.table([], list(_facts(spec)))
        if spec.parameters:
            section += looks.table(
                ["parameter", "type", "default", "range"], [_parameter(p) for p in spec.parameters.values()]
            )
        self._parse(prose[1:], section)
        section += nodes.rubric("", "Example")
        section += nodes.doctest_block(code_of(spec), code_of(spec), language="pycon")
        return section

    def _parse(self, paragraphs: Sequence[str], into: nodes.Element) -> None:
        lines = "\n\n".join(paragraphs).split("\n")
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), 0, into)

    def _pictures(self, spec: StageSpec) -> list[nodes.Node]:
        try:
            shown = run_example(spec)
        except ValueError as error:
            raise self.error(str(error)) from error
        if shown is None:
            text = "No picture: this stage needs a package that cellkit does not install."
            return [nodes.paragraph(text, text)]
        layers = [*shown.before, shown.after]
        kinds = [looks.kind_of_value(value, kinds) for _, kinds, value in layers]
        values = [v for k, (_, _, v) in zip(kinds, layers, strict=True) if k is not None and k.name == "image"]
        grey = looks.span(values) if values else (0.0, 1.0)
        parts = []
        for (name, _, value), kind in zip(layers, kinds, strict=True):
            parts.append(self._layer(spec, shown, (name, kind, value), grey))
        parts[-1]["classes"].append("after")
        return [looks.beside(*parts)]

    def _layer(
        self, spec: StageSpec, shown: Shown, layer: tuple[str, Kind | None, Any], grey: tuple[float, float]
    ) -> nodes.Element:
        name, kind, value = layer
        if kind is None:
            raise self.error(f"{spec.name}: its example gives {name} as {type(value).__name__}, which is no layer")
        made = value is shown.after[2]
        picture = looks.picture(kind, value, grey, shown.raw)
        if picture is None:
            part = looks.frame_table(value)
            part += nodes.caption("", "", nodes.Text(f"{'after' if made else 'before'}: {name}"))
            return part
        caption = f"{'after' if made else 'before'}: {_said(name, kind)}"
        alt = f"{spec.name}, {caption}"
        return looks.figure(uri_of(self, looks.store(pictures_of(self), picture)), caption, alt)


class StageTable(SphinxDirective):
    """All stages in one table, each a link to its section."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = []
        for spec in registry.stages().values():
            link = addnodes.pending_xref(
                "", nodes.literal(spec.name, spec.name), refdomain="std", reftype="ref", reftarget=f"stage-{spec.name}",
                refexplicit=True, refdoc=self.env.docname, refwarn=True,
            )  # fmt: skip
            rows.append([nodes.paragraph("", "", link), _flow(spec), spec.summary])
        return [looks.table(["stage", "reads → makes", "what it does"], rows)]


class KindTable(SphinxDirective):
    """The kinds of layer."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        axes = {"yx": "(y, x)", "yxc": "(y, x, c)", "": ""}
        rows = [[f"`{kind}`", f"{kind.dtype} {axes[kind.axes]}".strip(), kind.meaning] for kind in KINDS.values()]
        return [looks.table(["kind", "array", "meaning"], rows)]


def pictures_of(directive: SphinxDirective) -> Path:
    """Return the folder that pictures are written to, with what else Sphinx keeps between builds."""
    return Path(directive.env.doctreedir) / "pictures"


def uri_of(directive: SphinxDirective, path: Path) -> str:
    """Return a picture's address as a page of this directive names it."""
    page = Path(directive.env.doc2path(directive.env.docname)).parent
    return Path(os.path.relpath(path, page)).as_posix()


def _facts(spec: StageSpec) -> Iterator[list[Any]]:
    if not spec.bracket:
        yield ["reads", ", ".join(_argument(argument) for argument in spec.arguments)]
        yield ["makes", " or ".join(f"`{kind}`" for kind in spec.returns) + (f" (as `{spec.out}`)" if spec.out else "")]
        yield ["reach", _reach(spec)]
    else:
        yield ["kind of step", "a bracket: it holds inner `steps:` and changes the frame they work in"]
    yield ["in a recipe", f"`- {_yaml(spec)}`"]
    if not spec.bracket:
        yield ["in Python", f"`ck.stages.{spec.name}({_signature(spec)})`"]


def _argument(argument: Any) -> str:
    kinds = " or ".join(f"`{kind}`" for kind in argument.kinds)
    if argument.kinds[0].name == "histogram":
        return "its `Histogram`, which a run measures over the whole image"
    more = " (may be missing)" if argument.optional else " (any number)" if argument.variadic else ""
    return f"`{argument.name}`: {kinds}{more}"


def _flow(spec: StageSpec) -> str:
    if spec.bracket:
        return "bracket"
    reads = [" or ".join(map(str, a.kinds)) for a in spec.arguments if a.kinds[0].name != "histogram"]
    return f"{', '.join(reads)} → {'the same' if spec.same_kind else spec.returns[0]}"


def _reach(spec: StageSpec) -> str:
    reach = spec.reach(spec.defaults)
    if reach is WHOLE:
        text = "the whole image"
    elif reach is OBJECT:
        text = "the object that a pixel lies in"
    else:
        text = "the pixel itself" if reach == 0 else f"{reach} px around a pixel"
    return f"{text} (with the default parameters)" if callable(spec.reach_rule) else text


def _yaml(spec: StageSpec) -> str:
    """Return a step with every parameter written out, as a recipe takes it."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in spec.defaults.items()}
    if not plain:
        return spec.name
    return yaml.safe_dump({spec.name: plain}, default_flow_style=True, sort_keys=False, width=10_000).strip()[1:-1]


def _signature(spec: StageSpec) -> str:
    layers = [f"*{a.name}" if a.variadic else a.name for a in spec.arguments]
    given = [f"{name}={value!r}" for name, value in spec.defaults.items()]
    return ", ".join([*layers, *given])


def _parameter(parameter: Any) -> list[str]:
    default = yaml.safe_dump(parameter.default if not isinstance(parameter.default, tuple) else [*parameter.default],
                             default_flow_style=True, width=10_000).replace("\n...", "").strip()  # fmt: skip
    span = parameter.span
    steps = "; searched by factors" if span is not None and span.log else ""
    return [f"`{parameter.name}`", parameter.type_text, f"`{default}`", f"{span}{steps}" if span is not None else ""]


def _said(name: str, kind: Kind) -> str:
    return f"`{name}`" if name == kind.name else f"`{name}` ({kind})"


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    app.add_directive("stages", Stages)
    app.add_directive("stage-table", StageTable)
    app.add_directive("kind-table", KindTable)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
