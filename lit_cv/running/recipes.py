"""The shipped recipes and comparisons; importing this file is cheap."""

from importlib.resources import files

from lit_cv.suggest import nearest

__all__ = ["comparison_names", "recipe_names", "recipe_path", "recipe_table"]


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes in alphabetical order."""
    return _names("recipes")


def comparison_names() -> list[str]:
    """Return the names of the shipped comparisons in alphabetical order."""
    return _names("comparisons")


def recipe_path(name: str) -> str:
    """Return the path of a shipped recipe.

    Raises:
        ValueError: If the recipe does not exist.
    """
    if name not in recipe_names():
        raise ValueError(f"unknown recipe or file {name!r}{nearest(name, recipe_names())} `lit-cv recipes` lists them.")
    return str(files("lit_cv") / "recipes" / f"{name}.yaml")


def recipe_table(indent: str = "") -> str:
    """Return one line per recipe: its name and the first comment of its file."""
    lines = []
    for name in recipe_names():
        with open(recipe_path(name), encoding="utf-8") as file:
            lines.append(f"{indent}{name:<28}{file.readline().lstrip('# ').strip()}")
    return "\n".join(lines)


def _names(folder: str) -> list[str]:
    """Return the names of the YAML files in a folder of the package."""
    names = (entry.name for entry in (files("lit_cv") / folder).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
