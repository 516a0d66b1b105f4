"""Shards that the webdataset package wrote and reads back."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from evaluation.datasets.dataset import DatasetError, open_staged
from evaluation.datasets.load import Request, extent_of, list_images, load_dataset, stage

webdataset = pytest.importorskip("webdataset")

CLASSES = ["cat", "dog", "owl"]
COUNTS = {"train": 17, "test": 6}


def _write(root: Path, test: str = "test", kind: str = "png") -> Path:
    rng = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    for split, count in ((("train"), COUNTS["train"]), (test, COUNTS["test"])):
        pattern = str(root / f"{split}-%03d.tar")
        with webdataset.ShardWriter(pattern, maxcount=7, verbose=False) as writer:
            for number in range(count):
                noise = rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)
                stream = io.BytesIO()
                Image.fromarray(noise).save(stream, {"jpg": "JPEG"}.get(kind, kind))
                writer.write(
                    {
                        "__key__": f"{split}/photo_{number:04d}",
                        kind: stream.getvalue(),
                        "cls": (number * 2) % 3,
                        "json": {"number": number},
                    }
                )
    (root / "classes.json").write_text(json.dumps(CLASSES))
    return root


@pytest.mark.parametrize(("test", "kind"), [("test", "png"), ("val", "jpg"), ("val", "webp")])
def test_it_is_what_webdataset_reads_back(tmp_path, test, kind):
    root = _write(tmp_path / "pets", test, kind)
    assert len(list(root.glob("train-*.tar"))) == 3
    view = transforms.Compose([transforms.Resize(27), transforms.CenterCrop(24)])
    dataset = load_dataset(f"webdataset:{root}", Request(image_size=24))
    assert (dataset.name, dataset.classes) == ("pets", tuple(CLASSES))
    for ours, split in ((dataset.train, "train"), (dataset.test, test)):
        shards = [str(path) for path in sorted(root.glob(f"{split}-*.tar"))]
        theirs = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
        samples = list(theirs.to_tuple(kind, "cls"))
        assert [label for _, label in samples] == ours.labels.tolist()
        for image, (expected, _) in zip(ours.images, samples, strict=True):
            np.testing.assert_array_equal(image, np.asarray(view(expected)))


def test_a_subset_is_read_where_it_lies(tmp_path):
    root = _write(tmp_path / "pets")
    whole = load_dataset(f"webdataset:{root}", Request())
    request = Request(train_images=6, test_images=3, seed=1)
    stage(f"webdataset:{root}", request, tmp_path / "staged")
    part = open_staged(tmp_path / "staged")
    assert np.bincount(part.train.labels).tolist() == [2, 2, 2]
    chosen = list_images(f"webdataset:{root}", request).train.indices
    np.testing.assert_array_equal(part.train.images, whole.train.images[chosen])


def test_the_extent_is_counted_without_reading_an_image(tmp_path):
    root = _write(tmp_path / "pets")
    extent = extent_of(f"webdataset:{root}", Request(image_size=24))
    assert (extent.classes, extent.train, extent.test) == (3, 17, 6)
    assert extent_of(f"webdataset:{root}", Request()).size == (40, 44)


def test_classes_are_called_by_a_list_or_by_their_numbers(tmp_path):
    root = _write(tmp_path / "pets")
    (root / "classes.json").unlink()
    assert list_images(f"webdataset:{root}", Request()).classes == ("0", "1", "2")
    (root / "classes.txt").write_text("cat\ngreat grey owl\ndog\n")
    classes = list_images(f"webdataset:{root}", Request()).classes
    assert classes == ("cat", "great grey owl", "dog")


def _size_of_first(shard: Path) -> int:
    with tarfile.open(shard) as tar:
        first, second = tar.next(), tar.next()
        assert first is not None
        assert second is not None
        return second.offset


@pytest.mark.parametrize("kept", ["half", "one member", "all but the end", "nothing"])
def test_a_shard_that_is_cut_off_is_named(tmp_path, kept):
    root = _write(tmp_path / "pets")
    shard = root / "train-001.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    length = {
        "half": len(whole) // 2,
        "one member": _size_of_first(shard),
        "all but the end": end,
        "nothing": 0,
    }[kept]
    shard.write_bytes(whole[:length])
    with pytest.raises(DatasetError, match=r"shard .*train-001.tar' is broken \(.*write it again"):
        load_dataset(f"webdataset:{root}", Request())


def _shard(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"", "b.cls": b"0"}, r"sample 'a' of .*train-9.tar' has no class \(KEY.cls\)"),
        ({"a.cls": b"0", "a.txt": b"0"}, r"sample 'a' of .* has no image .*only cls, txt"),
        ({"a.png": b"", "a.cls": b"cat"}, "has the class 'cat': expected a whole number"),
        ({"a.png": b"", "a.cls": b"-1"}, "has the class '-1': expected a whole number"),
        ({"a.png": b"", "a.cls": b"3"}, "names 3 classes, but a sample has class 3"),
    ],
)
def test_a_sample_that_is_wrong_is_named(tmp_path, files, message):
    root = _write(tmp_path / "pets")
    _shard(root / "train-9.tar", files)
    with pytest.raises(DatasetError, match=message):
        load_dataset(f"webdataset:{root}", Request())


def test_a_class_in_one_split_only_is_an_error(tmp_path):
    root = _write(tmp_path / "pets")
    (root / "classes.json").write_text(json.dumps([*CLASSES, "yak"]))
    _shard(root / "test-9.tar", {"a.png": b"", "a.cls": b"3"})
    with pytest.raises(DatasetError, match=r"class yak is in the test shards .* not in the train"):
        load_dataset(f"webdataset:{root}", Request())


def test_a_broken_image_is_recorded_and_skipped(tmp_path):
    root = _write(tmp_path / "pets")
    _shard(root / "train-9.tar", {"a.jpg": b"no image", "a.cls": b"1"})
    with pytest.warns(UserWarning, match=r"train-9.tar/a.jpg cannot be read and is skipped"):
        dataset = load_dataset(f"webdataset:{root}", Request())
    assert [entry.path for entry in dataset.skipped] == ["train-9.tar/a.jpg"]
    assert "0x" not in dataset.skipped[0].why
    assert len(dataset.train.images) == 17


def test_no_shards_say_what_was_expected(tmp_path):
    with pytest.raises(DatasetError, match=r"no shards train-\*.tar in .*webdataset.ShardWriter"):
        load_dataset(f"webdataset:{tmp_path}", Request())
    _write(tmp_path / "pets", test="holdout")
    with pytest.raises(DatasetError, match=r"no shards test-\*.tar or val-\*.tar in"):
        load_dataset(f"webdataset:{tmp_path / 'pets'}", Request())
