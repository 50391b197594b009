"""Pages of the documentation site that are not files of `docs`, and formulas as MathML: a hook of MkDocs.

The start page is the README, `CONTRIBUTING.md` and the other pages of the top level are pages of the site as well, each
file of `examples` and each notebook of the course has a page, and the reference has one for each package. Links are
written for the repository and changed for the site here.
"""

import ast
import html
import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {"README.md": "index.md"} | {
    name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
}
"""Files of the repository's top level, and the pages of the site that they become."""
PACKAGES = {
    "modules": "lit_cv.modules",
    "datamodules": "datamodules",
    "callbacks": "lit_cv.callbacks",
    "losses": "lit_cv.losses",
    "tasks": "lit_cv.tasks",
    "metrics": "lit_cv.metrics",
    "augment": "lit_cv.augment",
    "nn": "lit_cv.nn",
    "optim": "lit_cv.optim",
    "annotations": "lit_cv.annotations",
}
"""Pages of the reference, and the packages whose public names they list."""
LINKED = ("modules", "datamodules", "callbacks", "losses")
"""Pages of the reference that names in code style on other pages link to."""


@cache
def public_names(package: str) -> dict[str, str]:
    """Return the public classes and functions of a package, and where each is defined."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    names = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    listed = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return {name: names[name] for name in listed if _is_documented(names[name])}


def _is_documented(path: str) -> bool:
    """Return whether a name is defined as a class or a function."""
    module, _, name = path.rpartition(".")
    file = ROOT / module.replace(".", "/")
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name for node in tree.body)


def reference_page(package: str) -> str:
    """Return the page of a package: its first line, then every public name."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    entries = [f"::: {path}" for path in public_names(package).values()]
    return "\n\n".join([f"# {package}", summary, *entries]) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in `docs`."""
    for name, page in TOP_LEVEL.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        if name == "README.md":
            text = "---\nhide: [navigation]\n---\n" + text
        files.append(File.generated(config, page, content=text))
    for name, package in PACKAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=reference_page(package)))
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = f"# {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n"
        files.append(File.generated(config, f"examples/{path.stem}.md", content=text))
    for path in sorted((ROOT / "docs" / "course").glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(str(path), {"unique_key": path.stem})  # for names of figures
        files.append(File.generated(config, f"course/{path.stem}.md", content=text))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, f"course/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change links for the site, and link names of classes to the reference."""
    uri = page.file.src_uri
    if uri.startswith(("reference/", "examples/")):
        return markdown
    source = next((name for name, target in TOP_LEVEL.items() if target == uri), f"docs/{uri}")
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [link_names(site_links(part, source)) for part in parts[::2]]
    return "".join(parts)


def site_links(markdown: str, source: str) -> str:
    """Return a page with links between pages of the site; of links to other files only the text remains.

    A link whose text is the path of a page or of its folder gets the page's title.

    Args:
        markdown: Text of the page.
        source: Path of the page in the repository, from which its links lead.

    Example:
        >>> site_links("[docs/results.md](docs/results.md), [tests](tests/security)", "README.md")
        '[Results](results.md), tests'
    """
    page = TOP_LEVEL.get(source, source.removeprefix("docs/"))

    def rewrite(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        goal = site_path(path)
        if goal is None:
            return text
        if path.endswith(".md") and text in (target, posixpath.dirname(target)):
            text = title(path)
        return f"[{text}]({posixpath.relpath(goal, posixpath.dirname(page) or '.')}{anchor})"

    return re.sub(r"\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)", rewrite, markdown)


def site_path(path: str) -> str | None:
    """Return the file of the site that a path in the repository becomes, or `None`.

    Example:
        >>> site_path("docs/course/01_annotation.ipynb")
        'course/01_annotation.md'
    """
    if path in TOP_LEVEL:
        return TOP_LEVEL[path]
    if path == "examples":
        return "extending.md"  # lists them
    if path.startswith("examples/"):
        return path.replace(".py", ".md")
    if path.endswith(".ipynb"):
        path = path.replace(".ipynb", ".md")
    return path.removeprefix("docs/") if path.startswith("docs/") else None


@cache
def title(path: str) -> str:
    """Return the first heading of a page, given its path in the repository."""
    return (ROOT / path).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def link_names(markdown: str) -> str:
    """Return a page whose public names in code style, such as `SimCLRModule`, link to the reference."""
    paths = {name: path for page in LINKED for name, path in public_names(PACKAGES[page]).items()}
    names = re.compile(r"(?<!\[)`([A-Z]\w+)`(?!\])")
    return names.sub(lambda found: f"[{found[0]}][{paths[found[1]]}]" if found[1] in paths else found[0], markdown)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Replace formulas by MathML, which browsers render without a script."""
    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', _mathml, content, flags=re.DOTALL)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    formula = latex2mathml.converter.convert(html.unescape(found[2]), display=display)
    return f'<div class="formula">{formula}</div>' if display == "block" else formula
