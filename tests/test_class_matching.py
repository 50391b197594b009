import unicodedata

import pytest

from lit_cv.class_matching import match_classes


def test_unicode_variants_match() -> None:
    assert match_classes(["a", "b"], ["a", "b"]) == [0, 1]
    accents = unicodedata.normalize("NFD", "café")
    assert match_classes(["bar", "café"], [accents, "bar"]) == [1, 0]


@pytest.mark.parametrize(
    ("trained", "data", "message"),
    [
        (["cat", "dog"], ["dog", "kitten"], "cat is missing and kitten is unknown to the model"),
        (["cat", "dog"], ["cats", "dog"], "did you mean 'cat'"),
        (["cat", "dog"], ["cat"], "dog is missing."),
        (["cat"], ["ant", "bee", "cat"], "ant, bee are unknown to the model."),
        (["cat", "cat", "dog"], ["dog", "cat", "cat"], "several classes have the same name."),
    ],
)
def test_different_names_are_refused(trained: list[str], data: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"the model has {len(trained)} classes .*{message}") as error:
        match_classes(trained, data)
    assert "\n" not in str(error.value)


def test_error_lists_few_names() -> None:
    names = [f"class {number}" for number in range(1000)]
    with pytest.raises(ValueError, match="class 0 is missing") as error:
        match_classes(names, names[1:])
    assert len(str(error.value)) < 400
