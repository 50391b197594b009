"""Files as others have written them: texts, tables, and names that may be none."""

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
    "head_of",
    "is_file",
    "name_choices",
    "open_plain",
    "read_bytes",
    "read_lines",
    "read_names",
    "read_rows",
    "read_text",
    "spellings",
]

_MOST = 1 << 24  # bytes of a small file: the labels of an image, or the names of all classes
_MOST_LIST = 1 << 30  # bytes of a list of images
_HEAD = 4096  # bytes of a table that say how it is encoded
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # which Windows' shell writes
_NO_TEXT = re.compile("[\udc80-\udcff]")  # what bytes that are no UTF-8 are decoded to


def composed(text: str) -> str:
    """Return a text with its accents encoded in the usual way (NFC): texts that look the same are the same."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def class_name(text: str) -> str:
    r"""Return the name of a class as all readers have it: `composed`, and without spaces around it.

    Example:
        >>> class_name(" cafe\u0301") == "caf\u00e9"
        True
    """
    return composed(text.strip())


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading. A pipe of that name, which would be waited for, is refused.

    Raises:
        OSError: If it cannot be opened.
        AnnotationError: If it is no plain file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise AnnotationError(f"{path} is no plain file: only plain files are read. Replace it, or remove it.")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, most: int = _MOST) -> bytes:
    """Return the content of a small file.

    Args:
        path: The file.
        most: Bytes that it has at most.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is no plain file, or larger.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise AnnotationError(f"{path} has more than {most:,} bytes: that is no file of this kind.")
    return content


def head_of(path: Path, most: int) -> bytes:
    """Return the first bytes of a file, to look for words in: zeros, which UTF-16 has between letters, are left out.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is no plain file.
    """
    with open_plain(path) as file:
        return file.read(most).replace(b"\0", b"")


def decoded_text(content: bytes, errors: str = "strict") -> str:
    """Return a text without its byte order mark: UTF-8, or UTF-16 if the mark says so.

    Raises:
        UnicodeDecodeError: If it is neither.
    """
    return content.decode(_encoding(content), errors)


def _encoding(content: bytes) -> str:
    # a list may begin with a file name of these bytes
    return "utf-16" if content.startswith(_UTF_16) and (b"\0" in content or content in _UTF_16) else "utf-8-sig"


def read_text(path: Path) -> str:
    """Return the text of a small file.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is not UTF-8, no plain file, or too large.
    """
    try:
        return decoded_text(read_bytes(path))
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not text in UTF-8: {error}") from None


def read_lines(path: Path, files: bool = False) -> list[str]:
    """Return the lines of a text that are not empty.

    Args:
        path: The text.
        files: Whether they name files: these keep bytes that are not UTF-8, and the spaces around them.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is not UTF-8, no plain file, or too large.
    """
    text = decoded_text(read_bytes(path, _MOST_LIST), "surrogateescape") if files else read_text(path)
    lines = (line.removesuffix("\r") if files else line.strip() for line in text.split("\n"))
    return [line for line in lines if line.strip()]


def read_names(path: Path, numbered: bool = True) -> list[str]:
    """Return the names of classes, one in each line.

    Args:
        path: The text.
        numbered: Whether they are numbered by their lines, from 0: then none may be empty but the last ones.

    Raises:
        OSError: If it cannot be read.
        AnnotationError: If it is not UTF-8, no plain file, or too large; a name is there twice, or a line is empty.
    """
    lines = [class_name(line) for line in read_text(path).rstrip().split("\n")]
    first: dict[str, int] = {}
    for number, name in enumerate(lines, 1):
        if not name and numbered and any(lines):
            raise AnnotationError(f"{path}, line {number} is empty: classes are numbered by their lines. Remove it.")
        if name and first.setdefault(name, number) != number:
            raise AnnotationError(
                f"{path} names the class {name!r} in the lines {first[name]} and {number}: rename one."
            )
    return [name for name in lines if name]


def read_rows(path: Path, files: Collection[str] = ()) -> list[dict[str, str]]:
    """Read a table: UTF-8, commas, semicolons or tabs (as in a file named `.tsv`), a line of column names.

    Args:
        path: The table.
        files: Columns that name files: their cells keep bytes that are not UTF-8, and the spaces around them.

    Returns:
        A dict for each row, the text without spaces around it, "" where a row is too short.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not such a table; the message names it.
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
                if any(_NO_TEXT.search(name + ("" if name in files else row[name])) for row in rows for name in row):
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
        # spreadsheets in half of Europe write semicolons, and tabs where they are asked for Unicode
        between = next((mark for mark in ",;\t" if mark in first), ",")
        between = "\t" if path.suffix.lower() == ".tsv" else between
        reader = csv.DictReader(text, delimiter=between)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        _check_columns(path, reader.fieldnames)
        for row in reader:
            if any(cell.strip() for cell in row.get(None) or ()):
                raise AnnotationError(
                    f"{path}, line {reader.line_num}: it has more cells than there are columns. Put a cell that holds "
                    f"{between!r} in quotes."
                )
            cells = {name: value or "" for name, value in row.items() if name}
            if any(text.strip() for text in cells.values()):  # spreadsheets leave empty lines
                yield {name: text if name in files else text.strip() for name, text in cells.items()}
    finally:
        text.detach()


def _check_columns(path: Path, names: Iterable[str]) -> None:
    """Refuse two columns of one name, of which only the last would be read."""
    if double := [name for name, count in Counter(name for name in names if name).items() if count > 1]:
        raise AnnotationError(f"{path} has two columns named {double[0]!r}: rename or remove one.")


def file_cell(text: str, folder: Path) -> str:
    """Return the name of a file that a cell of a table stands for.

    That is the cell as it stands if there is such a file, otherwise without what `escape_formula` has put before it
    and without the spaces around it, or with slashes for the backslashes that Windows writes.

    Args:
        text: The cell.
        folder: Folder that names are relative to.
    """
    choices = name_choices(text)
    if len(choices) == 1:  # nearly all, and many: no look at the disk
        return choices[0]
    return next((choice for choice in choices if is_file(folder / choice)), unescape_formula(text.strip()))


def name_choices(text: str) -> list[str]:
    r"""Return the names that a text in a table or a list of files may stand for, the likeliest first.

    Example:
        >>> name_choices("plain.png"), name_choices(" sub\\a.png")
        (['plain.png'], [' sub\\a.png', 'sub\\a.png', ' sub/a.png', 'sub/a.png'])
    """
    plain = text.strip()
    choices = dict.fromkeys((text, unescape_formula(text), plain, unescape_formula(plain)))
    every = dict.fromkeys((*choices, *(name.replace("\\", "/") for name in choices)))
    return list(dict.fromkeys(form for name in every if name for form in spellings(name)))


def spellings(name: str) -> list[str]:
    """Return the ways to encode the accents of a name: a disk, and a list from another machine, may differ in them."""
    if name.isascii():
        return [name]
    return list(dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))))


def is_file(path: Path) -> bool:
    """Tell whether there is such a file; a name that the system has no place for is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Tell whether there is such a file or folder; a name that the system has no place for is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
