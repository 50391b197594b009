"""Lenient reading of text files, tables and file names written by other tools."""

import codecs
import csv
import io
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO

from lit_cv.annotations.records import AnnotationError
from lit_cv.printable import printable
from lit_cv.spreadsheet import unescape_formula

__all__ = [
    "class_name",
    "composed",
    "decoded_text",
    "exists",
    "file_cell",
    "is_file",
    "name_choices",
    "open_plain",
    "read_bytes",
    "read_head",
    "read_lines",
    "read_names",
    "read_rows",
    "read_text",
    "spellings",
]

_MAX_BYTES = 1 << 24  # of a small file: the labels of an image, or all class names
_MAX_LIST_BYTES = 1 << 30  # of a list of images
_HEAD = 4096  # bytes of a table to detect its encoding from
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # written by the Windows shell
_SURROGATES = re.compile("[\udc80-\udcff]")  # decoded from bytes that are not UTF-8


def composed(text: str) -> str:
    """Return a text in Unicode normal form NFC, so that texts that look the same are equal."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def class_name(text: str) -> str:
    r"""Normalize a class name: `composed`, and without surrounding spaces.

    Example:
        >>> class_name(" cafe\u0301") == "caf\u00e9"
        True
    """
    return composed(text.strip())


def open_plain(path: Path) -> IO[bytes]:
    """Open a regular file for reading; refuse pipes, which could block.

    Raises:
        OSError: If it cannot be opened.
        AnnotationError: If it is not a regular file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise AnnotationError(f"{path} is not a regular file: only regular files are read. Replace or remove it.")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, max_bytes: int = _MAX_BYTES) -> bytes:
    """Return the content of a small file.

    Args:
        path: The file.
        max_bytes: Maximum size.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is not a regular file, or larger.
    """
    with open_plain(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise AnnotationError(f"{path} has more than {max_bytes:,} bytes: too large for this kind of file.")
    return content


def read_head(path: Path, max_bytes: int) -> bytes:
    """Return the first bytes of a file without zeros, so that ASCII words are found in UTF-16, too.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is not a regular file.
    """
    with open_plain(path) as file:
        return file.read(max_bytes).replace(b"\0", b"")


def decoded_text(content: bytes, errors: str = "strict") -> str:
    """Decode UTF-8, or UTF-16 if there is its byte order mark; the mark is removed.

    Raises:
        UnicodeDecodeError: If it is neither.
    """
    return content.decode(_encoding(content), errors)


def _encoding(content: bytes) -> str:
    # a list of files may start with these bytes without being UTF-16
    return "utf-16" if content.startswith(_UTF_16) and (b"\0" in content or content in _UTF_16) else "utf-8-sig"


def read_text(path: Path) -> str:
    """Return the text of a small file.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is not UTF-8, not a regular file, or too large.
    """
    try:
        return decoded_text(read_bytes(path))
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not text in UTF-8: {error}") from None


def read_lines(path: Path, files: bool = False) -> list[str]:
    """Return the non-empty lines of a text file.

    Args:
        path: The text file.
        files: Whether lines are file names, which keep bytes that are not UTF-8 and surrounding spaces.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is not UTF-8, not a regular file, or too large.
    """
    text = decoded_text(read_bytes(path, _MAX_LIST_BYTES), "surrogateescape") if files else read_text(path)
    lines = (line.removesuffix("\r") if files else line.strip() for line in text.split("\n"))
    return [line for line in lines if line.strip()]


def read_names(path: Path, numbered: bool = True) -> list[str]:
    """Return class names, one per line.

    Args:
        path: The text file.
        numbered: Whether line numbers are class numbers, so that only the last lines may be empty.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is not UTF-8, not a regular file, or too large; a name is repeated, or a line is empty.
    """
    lines = [class_name(line) for line in read_text(path).rstrip().split("\n")]
    first: dict[str, int] = {}
    for number, name in enumerate(lines, 1):
        if not name and numbered and any(lines):
            raise AnnotationError(f"{path}, line {number} is empty, which would shift the class numbers. Remove it.")
        if name and first.setdefault(name, number) != number:
            raise AnnotationError(f"{path} contains class {name!r} in lines {first[name]} and {number}: rename one.")
    return [name for name in lines if name]


def read_rows(path: Path, files: Collection[str] = ()) -> list[dict[str, str]]:
    """Read a table in UTF-8 with column names, separated by commas, semicolons or tabs (always tabs in `.tsv`).

    Args:
        path: The table.
        files: Columns of file names, which keep bytes that are not UTF-8 and surrounding spaces.

    Returns:
        A dict for each row, with stripped cells; "" where a row is too short.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not such a table.
    """
    with open_plain(path) as file:
        try:
            try:
                return list(_rows(path, file, files, "strict"))
            except UnicodeDecodeError as error:
                if not files:
                    raise
                file.seek(0)
                rows = list(_rows(path, file, files, "surrogateescape"))
                if any(_SURROGATES.search(name + ("" if name in files else row[name])) for row in rows for name in row):
                    raise error from None
                return rows
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{printable(str(path), lines=False)} is not a table in UTF-8: {error}") from None


def _rows(path: Path, file: IO[bytes], files: Collection[str], errors: str) -> Iterator[dict[str, str]]:
    encoding = _encoding(file.read(_HEAD))
    file.seek(0)
    text = io.TextIOWrapper(file, encoding, errors, newline="")
    try:
        first = text.readline()
        text.seek(0)
        # spreadsheets write semicolons in many locales, and tabs as "Unicode text"
        delimiter = next((mark for mark in ",;\t" if mark in first), ",")
        delimiter = "\t" if path.suffix.lower() == ".tsv" else delimiter
        reader = csv.DictReader(text, delimiter=delimiter)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        _check_columns(path, reader.fieldnames)
        for row in reader:
            if any(cell.strip() for cell in row.get(None) or ()):
                raise AnnotationError(
                    f"{path}, line {reader.line_num}: more cells than columns. Quote cells that contain {delimiter!r}."
                )
            cells = {name: value or "" for name, value in row.items() if name}
            if any(text.strip() for text in cells.values()):  # spreadsheets append empty lines
                yield {name: text if name in files else text.strip() for name, text in cells.items()}
    finally:
        text.detach()


def _check_columns(path: Path, names: Iterable[str]) -> None:
    """Raise if two columns have the same name, as only the last would be read."""
    if duplicates := [name for name, count in Counter(name for name in names if name).items() if count > 1]:
        raise AnnotationError(f"{path} has two columns named {duplicates[0]!r}: rename or remove one.")


def file_cell(text: str, folder: Path) -> str:
    """Return the file name in a table cell.

    The cell is used unchanged if that file exists. Otherwise the escape of `escape_formula` and surrounding spaces
    are removed, or backslashes of Windows are replaced by slashes.

    Args:
        text: The cell.
        folder: Folder that names are relative to.
    """
    choices = name_choices(text)
    if len(choices) == 1:  # almost always: avoids disk access
        return choices[0]
    return next((choice for choice in choices if is_file(folder / choice)), unescape_formula(text.strip()))


def name_choices(text: str) -> list[str]:
    r"""Return the possible meanings of a file name in a table or a list, the most likely first.

    Example:
        >>> name_choices("plain.png"), name_choices(" sub\\a.png")
        (['plain.png'], [' sub\\a.png', 'sub\\a.png', ' sub/a.png', 'sub/a.png'])
    """
    stripped = text.strip()
    choices = dict.fromkeys((text, unescape_formula(text), stripped, unescape_formula(stripped)))
    candidates = dict.fromkeys((*choices, *(name.replace("\\", "/") for name in choices)))
    return list(dict.fromkeys(form for name in candidates if name for form in spellings(name)))


def spellings(name: str) -> list[str]:
    """Return the Unicode normal forms of a name, as a disk and a list from another machine may use different ones."""
    if name.isascii():
        return [name]
    return list(dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))))


def is_file(path: Path) -> bool:
    """Return whether a file exists; `False` for names that the system does not allow."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Return whether a file or folder exists; `False` for names that the system does not allow."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
