"""The documentation site: pages of approaches are complete, every link leads somewhere, none needs the network."""

import importlib.util
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import lit_cv.modules

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "lit_cv" / "recipes"
APPROACHES = {
    name: ROOT / "docs" / "approaches" / f"{cls.__module__.rpartition('.')[2]}.md"
    for name, cls in vars(lit_cv.modules).items()
    if name in lit_cv.modules.__all__ and not inspect.isabstract(cls)
}
SECTIONS = ["Idea", "Loss", "When to use it", "Recipe", "Results", "Limits", "Paper"]
SOURCES = ["README.md", "docs/results.md", "docs/pretraining.md"]
"""Pages whose measurements the pages of approaches repeat."""
INSTALLED = all(importlib.util.find_spec(name) for name in ("material", "mkdocstrings", "latex2mathml"))


class Links(HTMLParser):
    """The links of a page, its anchors, and the files that a browser loads with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.files: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.files.append(values["href"])
        elif "src" in values:
            self.files.append(values["src"])


@pytest.fixture(params=APPROACHES)
def approach(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """The name of an approach's module, and the parts of its page by heading."""
    name: str = request.param
    parts = re.split(r"^#+ (.+)\n", APPROACHES[name].read_text(encoding="utf-8"), flags=re.MULTILINE)
    return name, dict(zip(parts[1::2], parts[2::2], strict=True))


def test_page_of_approach_has_all_sections(approach: tuple[str, dict[str, str]]) -> None:
    name, parts = approach
    title, *sections = parts
    assert parts[title].lstrip().startswith(f"`{name}` ")
    assert sections == SECTIONS
    assert all(parts[section].strip() for section in sections)
    assert "$$" in parts["Loss"] or "](" in parts["Loss"]
    assert "arXiv:" in parts["Paper"]


def test_recipe_of_approach_exists(approach: tuple[str, dict[str, str]]) -> None:
    name, parts = approach
    block = re.search(r"```bash\n(.*?)```", parts["Recipe"], re.DOTALL)
    assert block
    recipes = re.findall(r"lit-cv fit --config (\w+)", block[1])
    classes = [
        yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text("utf-8"))["model"]["class_path"] for recipe in recipes
    ]
    assert name in classes
    mentioned = re.findall(r"`((?:cifar10|imagefolder|omniglot|fashion_mnist|mnist|usps)_\w+)`", parts["Recipe"])
    assert [recipe for recipe in mentioned if not (RECIPES / f"{recipe}.yaml").exists()] == []


def test_results_of_approach_are_those_of_other_pages(approach: tuple[str, dict[str, str]]) -> None:
    measured = set(re.findall(r"\d+\.\d+", " ".join((ROOT / page).read_text(encoding="utf-8") for page in SOURCES)))
    assert set(re.findall(r"\d+\.\d+", approach[1]["Results"])) <= measured


def test_page_of_approach_is_in_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = {f"[`{name}`]({path.relative_to(ROOT).as_posix()})" for name, path in APPROACHES.items()}
    assert [link for link in sorted(links) if link not in text] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    if not INSTALLED:
        pytest.skip("the packages of the extra `docs` are not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    """The pages of the built site by path."""
    return {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}


@pytest.mark.slow
def test_links_of_site_lead_somewhere(site: Path, pages: dict[Path, Links]) -> None:
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.files]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
    assert sum(len(page.links) for page in pages.values()) > 1000


@pytest.mark.slow
def test_site_loads_nothing_from_elsewhere(pages: dict[Path, Links]) -> None:
    assert [link for page in pages.values() for link in page.files if urlsplit(link).netloc] == []


@pytest.mark.slow
def test_formulas_are_mathml(pages: dict[Path, Links]) -> None:
    texts = [path.read_text(encoding="utf-8") for path in pages]
    formulas = [formula for text in texts for formula in re.findall(r"<math.*?</math>", text, re.DOTALL)]
    assert len(formulas) > 100
    assert [formula for formula in formulas if "\\" in formula] == []  # commands that were not understood
    assert not any("arithmatex" in text for text in texts)
