"""The shipped recipes, without importing anything heavy."""

from importlib.resources import files

from lit_cv.suggest import nearest

__all__ = ["recipe_names", "recipe_path", "recipe_table"]


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes in alphabetical order."""
    folder = files("lit_cv") / "recipes"
    return sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_path(name: str) -> str:
    """Return the path of a shipped recipe.

    Raises:
        ValueError: If there is no recipe of that name.
    """
    if name not in recipe_names():
        raise ValueError(
            f"no file and no recipe is named {name!r}{nearest(name, recipe_names())} `lit-cv recipes` lists them."
        )
    return str(files("lit_cv") / "recipes" / f"{name}.yaml")


def recipe_table(indent: str = "") -> str:
    """Return a line for each recipe: its name and the comment that opens its file."""
    lines = []
    for name in recipe_names():
        with open(recipe_path(name), encoding="utf-8") as file:
            lines.append(f"{indent}{name:<28}{file.readline().lstrip('# ').strip()}")
    return "\n".join(lines)
