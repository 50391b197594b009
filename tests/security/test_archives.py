import io
import json
import logging
import os
import struct
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import UnreadableImageError, WebDatasetDataModule
from datamodules.shard_samples import read_samples
from datamodules.texts import Texts
from tests.datamodules.test_web_dataset import names, picture, save_shard, save_tar
from tests.processes import run_code

LARGE = 200 << 30


def module(root: Path, **options: Any) -> WebDatasetDataModule:
    data = WebDatasetDataModule(str(root), **{"image_size": 8, "num_workers": 0, "val_fraction": 0.0} | options)
    data.prepare_data()
    data.setup()
    return data


def entry(name: str, content: bytes = b"", size: int | None = None, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a member of a tar file, whose header may claim another size than that of its content."""
    member = tarfile.TarInfo(name)
    member.size, member.type = len(content) if size is None else size, kind
    return member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def sample(number: int) -> bytes:
    return entry(f"{number:04}.png", picture(number)) + entry(f"{number:04}.cls", b"0")


def save(path: Path, *members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(members) + bytes(1024))
    return path


def sparse_entry(name: str, content: bytes, real_size: int) -> bytes:
    """Return a member in GNU's format for sparse files."""
    header = bytearray(entry(name, kind=tarfile.GNUTYPE_SPARSE, size=len(content))[:512])
    header[386:410] = b"%011o\0%011o\0" % (0, len(content))
    header[483:495] = b"\x80" + real_size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def test_member_claiming_200_gb_names_sample(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "train-0.tar"
    save(path, sample(0), sample(1), entry("big.cls", b"0"), entry("big.png", size=LARGE))
    os.truncate(path, path.stat().st_size + LARGE)  # makes the archive itself sparse
    with pytest.raises(
        UnreadableImageError, match=r"train-0\.tar/big\.png: its entry .* declares 214,748,364,800 bytes"
    ):
        module(tmp_path).train_dataset.__getitems__([2])
    for _ in range(2):
        assert names(module(tmp_path, on_error="skip").train_dataset) == [
            "train-0.tar/0000.png",
            "train-0.tar/0001.png",
        ]
    assert "1 of 3 images cannot be read" in caplog.text
    assert all(record.getMessage().count("\n") <= 1 for record in caplog.records)


def test_member_claiming_more_than_file_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "train-0.tar", sample(0), entry("big.png", size=LARGE))
    with pytest.raises(ValueError, match=r"train-0\.tar is truncated or not a tar file"):
        module(tmp_path)


def test_sparse_image_names_sample(tmp_path: Path) -> None:
    save(tmp_path / "train-0.tar", sample(0), entry("1.cls", b"0"), sparse_entry("1.png", picture(1), LARGE))
    with pytest.raises(UnreadableImageError, match=r"train-0\.tar/1\.png: its entry in the tar file is sparse: write"):
        module(tmp_path).train_dataset.__getitems__([1])
    assert len(module(tmp_path, on_error="skip").train_dataset) == 1
    save(tmp_path / "train-0.tar", sample(0), entry("1.png", picture(1)), sparse_entry("1.cls", b"0", LARGE))
    with pytest.raises(ValueError, match=r"train-0\.tar: 1\.cls is a sparse entry"):
        module(tmp_path)


def test_label_size_is_limited(tmp_path: Path) -> None:
    path = save(tmp_path / "train-0.tar", sample(0), entry("1.png", picture(1)), entry("1.cls", b" \n0\n", LARGE))
    os.truncate(path, path.stat().st_size + LARGE)
    assert module(tmp_path).class_names[0] == "0"  # only 64 KiB of a label are read
    path = save(path, sample(0), entry("1.png", picture(1)), entry("1.json", b'{"label": 1}', LARGE))
    os.truncate(path, path.stat().st_size + LARGE)
    with pytest.raises(
        ValueError, match=r"train-0\.tar: 1\.json has 214,748,364,800 bytes, over the limit of 16,777,216"
    ):
        module(tmp_path, label_field="label")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"label":' * 50_000 + b"1" + b"}" * 50_000, "nested too deeply"),
        (b'{"label": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b'{"label": "\xff\xfe"}', "not valid JSON"),
        (b'{"label": [' + b"[" * 500 + b"]" * 500 + b"]}", "several labels"),
        (b"{torn\x1b[2J", "not valid JSON"),
    ],
)
def test_invalid_label_gives_one_line_error(tmp_path: Path, content: bytes, message: str) -> None:
    save_tar(tmp_path / "train-0.tar", {"\x1b[2J.png": picture(0), "\x1b[2J.json": content})
    with pytest.raises(ValueError, match=message) as error:
        module(tmp_path, label_field="label")
    assert len(str(error.value)) < 500
    assert not set(str(error.value)) & set("\x1b\n")


def test_names_and_labels_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "train-0.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for name, content in (
            ("a\udce4.png", picture(1)), ("a\udce4.cls", b"\xfc"), ("b.png", picture(2)), ("b.cls", "ä".encode()),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for _ in range(2):
        data = module(tmp_path)
        assert [os.fsencode(name) for name in names(data.train_dataset)] == [
            b"train-0.tar/a\xe4.png",
            b"train-0.tar/b.png",
        ]
        assert data.class_names == ["ä", "\ufffd"]
    labels = {"0": "\ud800", "1": "\udcff", "2": "ok"}
    members = {f"{key}.json": json.dumps({"label": label}).encode() for key, label in labels.items()}
    save_tar(path, members | {f"{key}.png": picture(int(key)) for key in labels})
    assert module(tmp_path, label_field="label").class_names == ["\\ud800", "\\udcff", "ok"]
    texts = ["a", "\udce4\udcff", "", "ä"]
    assert list(Texts.of(texts)) == texts


def long_header(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return entry("././@LongLink", content, size, kind)


def negative_entry(name: str, size: int) -> bytes:
    header = bytearray(entry(name)[:512])
    header[124:136] = b"\xff" * 4 + struct.pack(">q", size)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax(**values: str) -> bytes:
    records = b""
    for name, value in values.items():
        length = len(f" {name.replace('_', '.')}={value}\n")
        total = length + len(str(length + len(str(length))))
        records += f"{total} {name.replace('_', '.')}={value}\n".encode()
    return entry("pax", records, kind=tarfile.XHDTYPE)


HEADERS: dict[str, bytes] = {
    "long name of 200 GB": long_header(tarfile.GNUTYPE_LONGNAME, b"a", LARGE),
    "pax of 200 GB": long_header(tarfile.XHDTYPE, b"a", LARGE),
    "global pax of 200 GB": long_header(tarfile.XGLTYPE, b"a", LARGE),
    "negative size": negative_entry("b.png", -1024),
    "size of -512": negative_entry("b.png", -512),
    "negative size of a skipped member": negative_entry(".hidden", -512),
    "far negative size": negative_entry("b.png", -(10**15)),
    "negative pax": pax(size="-4096") + entry("b.png", picture(2)),
    "pax without end": pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_name="b.png", GNU_sparse_realsize="9")
    + entry("b.png", b"99999999\n"),
    "chain of long names": long_header(tarfile.GNUTYPE_LONGNAME, b"a\0") * 3000,
    "chain of pax": pax(comment="a") * 3000,
    "sparse without end": sparse_entry("b.png", b"", 10)[:482] + b"\1" + sparse_entry("b.png", b"", 10)[483:],
}


@pytest.mark.parametrize("name", HEADERS)
def test_broken_headers_give_one_line_error(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "train-0.tar", sample(0), HEADERS[name], entry("c.png", picture(3)), entry("c.cls", b"0"))
    if "200 GB" in name:
        os.truncate(path, path.stat().st_size + LARGE)
    started = time.process_time()
    reason = "a header declares 214,748,364,800 bytes" if "200 GB" in name else ""
    with pytest.raises((ValueError, OSError), match=rf"train-0\.tar.*{reason}") as error:
        module(tmp_path)
    assert "\n" not in str(error.value)
    assert time.process_time() - started < 20


LIMITED = """
import resource, sys
from datamodules import WebDatasetDataModule
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for root in sys.argv[1:]:
    data = WebDatasetDataModule(root, image_size=8, num_workers=0, val_fraction=0.0)
    try:
        data.prepare_data()
        data.train_dataset.__getitems__([1])
        print("read")
    except (ValueError, OSError) as error:
        print("refused", type(error).__name__)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux does")
def test_claimed_sizes_take_no_memory(tmp_path: Path) -> None:
    claims = {
        "image": entry("1.cls", b"0") + entry("1.png", size=LARGE),
        "class": entry("1.png", picture(1)) + entry("1.cls", size=LARGE),
        "json": entry("1.png", picture(1)) + entry("1.json", size=LARGE),
        "name": HEADERS["long name of 200 GB"],
        "pax": HEADERS["pax of 200 GB"],
    }
    for name, content in claims.items():
        path = save(tmp_path / name / "train-0.tar", sample(0), content)
        os.truncate(path, path.stat().st_size + LARGE)
    done = run_code(LIMITED, *(str(tmp_path / name) for name in claims), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    *results, used = done.stdout.split("\n")[:-1]
    # only 64 KiB of a label are read, so the second is accepted
    assert [line.split()[0] for line in results] == ["refused", "read", "refused", "refused", "refused"]
    assert int(used) < 200_000


def test_non_tar_files_are_skipped(tmp_path: Path) -> None:
    save_shard(tmp_path / "train-0.tar", range(4))
    (tmp_path / "folder.tar").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "dangling.tar").symlink_to(tmp_path / "nowhere")
    assert len(module(tmp_path).train_dataset) == 4


def test_messages_escape_control_characters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {"\x1b[2Ja.png": picture(0), "\x1b[2Ja.cls": b"0", "\x1b[2Jb.png": b"no image", "\x1b[2Jb.cls": b"0"}
    save_tar(tmp_path / "train-0.tar", members | {"\x1b[2Jc.cls": b"1"})
    with pytest.raises(ValueError, match="1 of 3 samples have no image") as lacking:
        module(tmp_path)
    data = module(tmp_path, on_error="skip")
    assert len(data.train_dataset) == 1
    save_tar(tmp_path / "val-0.tar", {"a.png": picture(0), "a.cls": b"\x1b[2J"})
    with pytest.raises(ValueError, match="classes without training images") as unknown:
        module(tmp_path, on_error="skip")
    for text in (caplog.text, str(lacking.value), str(unknown.value)):
        assert "\x1b" not in text
        assert "\\x1b" in text


@pytest.mark.slow
def test_many_small_members_are_read_fast(tmp_path: Path) -> None:
    path = tmp_path / "train-0.tar"
    one = entry("000000.png", b"x")
    with open(path, "wb") as file:
        for number in range(20_000):
            header = bytearray(one)
            header[:6] = b"%06d" % number
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header[:512])
            file.write(header)
        file.write(bytes(1024))
    started = time.process_time()
    with open(path, "rb") as file:
        found = read_samples(file, path, path.name, None, None)
    assert len(found) == 20_000
    assert time.process_time() - started < 10


@pytest.mark.slow
def test_fuzzed_tar_files(tmp_path: Path) -> None:
    save_shard(tmp_path / "good" / "train-0.tar", range(3))
    content = (tmp_path / "good" / "train-0.tar").read_bytes().rstrip(b"\0") + bytes(2048)
    random, logger = np.random.RandomState(2), logging.getLogger("lit_cv")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    refused: list[str] = []
    for number in range(200):
        data = bytearray(content)
        for _ in range(random.randint(1, 6)):
            header = 1024 * random.randint(6)  # of one of the members
            at = header + random.randint(512) if random.randint(2) else random.randint(len(data))
            data[at] = random.randint(256)
        if number % 5 == 0:
            del data[random.randint(len(data)) :]
        path = tmp_path / f"{number}" / "train-0.tar"
        path.parent.mkdir()
        path.write_bytes(data)
        try:
            dataset = module(path.parent, label_field=None).train_dataset
            for index in range(len(dataset)):
                assert dataset[index]["image"].shape == (3, 8, 8)
        except (ValueError, OSError) as error:
            refused.append(str(error))
    logger.setLevel(level)
    assert 50 < len(refused) < 200
    assert not [text for text in refused if "\n" in text]
    assert not [text for text in refused if "train-0.tar" not in text and "training images" not in text]
