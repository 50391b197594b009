"""Names of classes, as a DataModule lists them."""

__all__ = ["ClassLists", "class_lists"]

ClassLists = dict[str, list[str]]
"""Names of classes by the attribute of a DataModule that lists them, such as `class_names` or `box_classes`."""


def class_lists(datamodule: object | None, *attributes: str) -> ClassLists:
    """Return the names of classes that a DataModule has; lists that it lacks or that are empty are left out."""
    lists = {name: getattr(datamodule, name, None) for name in attributes}
    return {name: [str(entry) for entry in names] for name, names in lists.items() if names}
