"""The documentation: examples in docstrings run, what pages show runs, the site builds and its links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
import unittest
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import cellkit as ck
from cellkit.core import Recipe, check, registry

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


# Docstrings -----------------------------------------------------------------------------------------------------------


def modules_with_examples() -> list[str]:
    """The modules of cellkit in whose docstrings an example stands."""
    files = (path for path in (ROOT / "cellkit").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("name", registry.stages())
def test_every_stage_has_an_example_that_calls_it(name):
    spec = registry.get(name)
    if not spec.origin.startswith("cellkit."):
        pytest.skip("belongs to a plug-in")
    examples = doctest.DocTestParser().get_examples(spec.function.__doc__)
    called = {ast.unparse(node.func) for one in examples for node in ast.walk(ast.parse(one.source))
              if isinstance(node, ast.Call)}  # fmt: skip
    passed = {ast.unparse(node) for one in examples for node in ast.walk(ast.parse(one.source))
              if isinstance(node, ast.Attribute)}  # fmt: skip
    assert (name in "".join(one.source for one in examples)) if spec.bracket else f"ck.stages.{name}" in called | passed


# Pages ----------------------------------------------------------------------------------------------------------------


def save(folder: Path, source: str) -> Path | None:
    """Write a block whose first line is ``# name`` of a file; None where it is not."""
    named = re.match(r"# ([\w.-]+\.\w+)\n", source)
    if named is None:
        return None
    path = folder / named.group(1)
    path.write_text(source, encoding="utf-8")
    return path


def parsers(script: Path, folder: Path):
    """How the blocks of a page are run, in `folder`."""
    from sybil.parsers.myst import CodeBlockParser, SkipParser

    environment = {**os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}

    def shell(example) -> None:
        for line in example.parsed.splitlines():
            command = re.sub(r"\s+#.*", "", line)
            assert command.startswith("cellkit "), f"not run, so mark it with skip: {line}"
            done = subprocess.run(
                command,
                shell=True,
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def python(example) -> None:
        if save(folder, example.parsed) is None:
            exec(compile(example.parsed, str(example.path), "exec"), example.namespace)

    def recipe(example) -> None:
        path = save(folder, example.parsed)
        if path is None and "steps:" in example.parsed:
            assert check(Recipe.load(example.parsed)) == []

    return [
        SkipParser(),
        CodeBlockParser("sh", shell),
        CodeBlockParser("python", python),
        CodeBlockParser("yaml", recipe),
    ]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs(cellkit, tmp_path, monkeypatch, page):
    sybil = pytest.importorskip("sybil", reason="needs sybil: pip install 'cellkit[test]'")
    ck.io.write_samples(tmp_path / "pictures")
    if "examples/" in (DOCS / page).read_text(encoding="utf-8"):
        shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    document = sybil.Sybil(parsers(Path(cellkit.script), tmp_path), path=str(DOCS)).parse(DOCS / page)
    for example in document.examples():
        with contextlib.suppress(unittest.SkipTest):  # marked in the page, with the reason
            example.evaluate()


# The site -------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("canonical",):
            self.loads.append(given.get("href", ""))
        if tag in ("script", "img", "iframe", "source") and "src" in given:
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for name in ("sphinx", "furo", "myst_parser", "sphinx_click", "latex2mathml"):
        pytest.importorskip(name, reason=f"needs {name}: pip install 'cellkit[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", folder / "kept", DOCS]
    done = subprocess.run([*command, folder / "html"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def test_links_lead_somewhere_and_nothing_is_fetched(site):
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 30
    wrong = []
    for path, page in pages.items():
        for target in [*page.links, *page.loads]:
            parts = urlsplit(target)
            if parts.scheme and target in page.links:  # leads out of the site: not looked at
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = there.is_file() and not parts.scheme and not parts.netloc
            if not found or (parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].anchors):
                wrong.append(f"{path.relative_to(site)}: {target}")
    assert not wrong, "\n".join(wrong)


def test_styles_fetch_nothing(site):
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_every_stage_stands_on_a_page_with_its_picture(site):
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "stages").glob("*.html"))
    for name, spec in registry.stages().items():
        if not spec.origin.startswith("cellkit."):
            continue
        section = text.partition(f'<section id="{name}">')[2].partition("</section>")[0]
        assert section, f"{name} stands on no page: name its file in one of docs/stages"
        if name not in ("cellpose", "stardist"):
            # A table stands for a picture where the stage makes one.
            assert section.count("<img") >= 1, name
            assert "after: " in section, name
        for parameter in spec.parameters:
            assert f">{parameter}<" in section, f"{name}: {parameter}"


def test_every_command_and_public_name_stands_on_a_page(site, cellkit):
    listed = re.findall(r"^  (\w+) ", cellkit("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    commands = Page(site / "reference" / "commands.html").anchors
    assert {f"cellkit-{name}" for name in listed} <= commands
    names = {f"{'module-' if name == 'stages' else ''}cellkit.{name}" for name in ck.__all__}
    assert names <= Page(site / "reference" / "python.html").anchors
