"""Recipes on pages: `recipe-steps` shows what every step of one made, `gallery` many recipes on made pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import looks
import numpy as np
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from stagepages import pictures_of, uri_of

import cellkit as ck
from cellkit.core import CellkitError
from cellkit.engine.explain import trace

# Recipes of the repository whose network is named by where it lies when its page's commands are run.
_NETWORKS = {
    "examples/systems/4-blood-smears/better.recipe.yaml": ("detect.model", "blood-cells.safetensors"),
    "examples/made-nuclei/masks.recipe.yaml": ("detect_masks.model", "made-nuclei.safetensors"),
}


def beads(size: int = 256) -> np.ndarray:
    """Return bright discs on a background that grows lighter to the right, uint8 (y, x)."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:size, :size]
    image = 40 + 50 * x / size + rng.normal(0, 3, (size, size))
    for row in range(3):
        for column in range(3):
            center = (np.array([row, column]) + 0.5) * size / 3 + rng.uniform(-8, 8, 2)
            radius = rng.uniform(20, 30)
            image += 90 * np.clip(radius - np.hypot(y - center[0], x - center[1]), 0, 1)
    return np.clip(image, 0, 255).astype(np.uint8)


PICTURES: dict[str, Callable[[], np.ndarray]] = {
    "fluorescence": lambda: ck.io.fluorescence_field(192, seed=4)[0],
    "dim": lambda: (ck.io.fluorescence_field(192, seed=6)[0] // 3).astype(np.uint8),
    "section": lambda: ck.io.stained_section(192, seed=2)[0],
    "smear": lambda: ck.io.blood_smear(320)[0],
    "darkfield": lambda: ck.io.darkfield(256)[0],
    "beads": beads,
}
"""Pictures that pages show recipes on, by name."""


def recipe_of(name: str) -> ck.Recipe:
    """Return a recipe: a shipped one, or a file of this repository, networks of the repository in their places."""
    path = looks.ROOT / name
    recipe = ck.Recipe.read(path if path.is_file() else name)
    if name not in _NETWORKS:
        return recipe
    parameter, network = _NETWORKS[name]
    return recipe.set(parameter, str(path.with_name(network)))


class RecipeSteps(SphinxDirective):
    """A strip of pictures: the image, and what each step of a recipe made of it."""

    required_arguments = 1
    option_spec = {"on": directives.unchanged_required}  # noqa: RUF012 - docutils wants a plain dict
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Return the pictures. A recipe or a picture that is not there is an error of the page."""
        try:
            traces = _traces(recipe_of(self.arguments[0]), PICTURES[self.options["on"]]())
        except (CellkitError, KeyError) as error:
            raise self.error(f"{self.arguments[0]} on {self.options.get('on')}: {error}") from error
        grey = looks.span([t.value for t in traces if t.kind is not None and t.kind.name == "image"][:1])
        parts: list[nodes.Node] = []
        tables = []
        for step in traces:
            if step.kind is None:
                continue
            if step.kind.name == "table":
                tables += [nodes.rubric("", step.title), looks.frame_table(step.value)]
                continue
            picture = looks.picture(step.kind, step.value, _grey(step, grey), traces[0].value)
            assert picture is not None
            path = looks.store(pictures_of(self), picture)
            caption = step.title if not step.stage else f"{step.title} → `{step.output}`"
            parts.append(looks.figure(uri_of(self, path), caption, f"{step.title}: {step.summary}"))
        strip = looks.beside(*parts)
        strip["classes"].append("strip")
        return [strip, *tables]


def _grey(trace: Any, first: tuple[float, float]) -> tuple[float, float]:
    """Return the range of grey of the first image, or the image's own where its channels or values are of others."""
    if trace.kind.name != "image":
        return first
    low, high = looks.span([trace.value])
    return first if first[0] <= low and high <= first[1] else (low, high)


def _traces(recipe: ck.Recipe, image: np.ndarray) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        ck.io.write_image(path, image)
        return trace(recipe, path)


class Gallery(SphinxDirective):
    """Cards of recipes: each line is a recipe, the picture it is run on, and the caption."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the cards."""
        cards = []
        for line in self.content:
            name, picture, caption = (part.strip() for part in line.split("|", 2))
            try:
                cards.append(self._card(name, picture, caption))
            except (CellkitError, KeyError) as error:
                raise self.error(f"{line}: {error}") from error
        return [nodes.container("", *cards, classes=["gallery"])]

    def _card(self, name: str, picture: str, caption: str) -> nodes.container:
        sample = ck.Sample.of(PICTURES[picture]())
        result = ck.run(recipe_of(name), sample)
        found = next(result[kind] for kind in ("labels", "boxes", "instances", "mask") if kind in result)
        pair = []
        count = (
            f"{int(ck.stages.relabel(found).max())} objects" if isinstance(found, np.ndarray) else f"{len(found)} boxes"
        )
        for what, shown in (
            ("before", looks.shown_image(sample["image"])),
            ("after", looks.outlined(sample["image"], found)),
        ):
            uri = uri_of(self, looks.store(pictures_of(self), shown))
            pair.append(nodes.image(uri=uri, alt=f"{caption}, {what}"))
        text = nodes.paragraph(
            "", "", nodes.strong(caption, caption), nodes.Text(f" {count}. "), nodes.literal(name, name)
        )
        return nodes.container("", nodes.container("", *pair, classes=["pair"]), text, classes=["card"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    app.add_directive("recipe-steps", RecipeSteps)
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
