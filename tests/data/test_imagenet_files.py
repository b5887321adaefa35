"""Class folders give the same ImageNet as the official archives."""

import io
import os
import shutil
import tarfile

import pytest

from iterand_jax.data import image_headers, imagenet, imagenet_files, prepare
from tests.helpers import encode


@pytest.fixture
def copy(class_folders, tmp_path):
    return shutil.copytree(class_folders, tmp_path / "files")


def records(folder):
    """(label, bytes) of each record by split and file name."""
    source = imagenet.open_imagenet(folder)
    return {
        split: {
            record["file_name"].decode(): (record["label"], record["image"])
            for record in source.read(split)
        }
        for split in source.sizes
    }


def test_bytes_labels_and_names_are_kept(imagenet_folder, class_folders):
    labels = {"n01440764": 0, "n01443537": 1, "n15075141": 999}
    expected = {
        split: {
            path.name: (labels[path.parent.name], path.read_bytes())
            for path in (class_folders / name).rglob("*.*")
        }
        for split, name in (("train", "train"), ("validation", "val"))
    }
    del expected["validation"]["a.JPEG"]  # two files have this name
    found = records(imagenet_folder)
    for synset in ("n01440764", "n01443537"):
        label, image = found["validation"].pop(f"{synset}/a.JPEG")
        assert label == labels[synset]
        path = class_folders / "val" / synset / "a.JPEG"
        assert image == path.read_bytes()
    assert found == expected
    assert found["train"]["truncated.JPEG"][0] == 999


@pytest.mark.parametrize("cut", [0, 100, -6])
def test_an_image_to_correct_that_is_damaged_stays_for_its_reader_to_name(
    cut, copy, tmp_path, smooth_image
):
    name = "n01739381_1309.JPEG"  # TFDS corrects it
    content = encode(smooth_image(0, 20, 30).convert("CMYK"))[:cut]
    (copy / "train" / "n01739381").mkdir()
    (copy / "train" / "n01739381" / name).write_bytes(content)
    prepare.prepare("imagenet2012", str(tmp_path / "data"), str(copy))
    found = records(str(tmp_path / "data"))["train"]
    assert found[name][1] == content


def test_folders_and_archives_give_the_same_files(tmp_path, smooth_image):
    """The images that TFDS corrects are corrected in both."""
    cmyk = smooth_image(0, 20, 30).convert("CMYK")
    train = {
        "n01739381": {
            "n01739381_1309.JPEG": encode(cmyk),
            "n01739381_1.JPEG": encode(smooth_image(1, 20, 30)),
        },
        "n02105855": {
            "n02105855_2933.JPEG": encode(smooth_image(2, 20, 30), "PNG"),
        },
    }
    validation = {"n01751748": {"ILSVRC2012_val_00000001.JPEG": b"not looked at"}}
    for split, classes in (("train", train), ("val", validation)):
        for synset, images in classes.items():
            folder = tmp_path / split / synset
            folder.mkdir(parents=True)
            for name, content in images.items():
                (folder / name).write_bytes(content)
    with tarfile.open(tmp_path / imagenet_files.TRAIN_ARCHIVE, "w") as archive:
        for synset in train:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for path in (tmp_path / "train" / synset).iterdir():
                    images.add(path, path.name)
            member = tarfile.TarInfo(f"{synset}.tar")
            member.size = inner.tell()
            inner.seek(0)
            archive.addfile(member, inner)
    with tarfile.open(tmp_path / imagenet_files.VALIDATION_ARCHIVE, "w") as archive:
        (image,) = (tmp_path / "val").rglob("*.JPEG")
        archive.add(image, image.name)
    files = {
        name: tmp_path / name
        for name in (imagenet_files.TRAIN_ARCHIVE, imagenet_files.VALIDATION_ARCHIVE)
    }
    folders = imagenet_files.class_folders(str(tmp_path))
    synsets = [*train, *validation]
    one = imagenet_files.from_archives(files)
    other = imagenet_files.from_class_folders(folders, synsets)
    assert one.keys() == other.keys() == {"train", "validation"}
    for split in one:
        assert sorted(one[split], key=str) == sorted(other[split], key=str)


@pytest.mark.parametrize("given", [None, "absent", "archives"])
def test_archives_are_left_to_archives(given, tmp_path):
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / imagenet_files.VALIDATION_ARCHIVE).touch()
    path = given and str(tmp_path / given)
    assert imagenet_files.class_folders(path) == {}


def no_validation(files):
    shutil.rmtree(files / "val")
    return f"there is no folder {files / 'val'}"


def no_classes(files):
    shutil.rmtree(files / "val")
    (files / "val").mkdir()
    (files / "val" / "image.JPEG").touch()
    return f"{files / 'val'} has no class folders, such as n01440764"


def another_class(files):
    (files / "train" / "cats").mkdir()
    return f"{files / 'train' / 'cats'} is not named after an ImageNet class"


def empty_class(files):
    (files / "train" / "n01484850").mkdir()
    (files / "train" / "n01484850" / "image.txt").touch()
    return f"{files / 'train' / 'n01484850'} has no images"


def no_folders(files):
    for split in ("train", "val"):
        shutil.rmtree(files / split)
    return f"{files} holds neither the archives ILSVRC2012_img_train.tar and"


@pytest.mark.parametrize(
    "damage", [no_validation, no_classes, another_class, empty_class, no_folders]
)
def test_what_is_no_imagenet_is_refused_in_one_line(
    damage, copy, tmp_path, capfd, command
):
    message = damage(copy)
    data = tmp_path / "data"
    arguments = ["imagenet2012", f"--data_dir={data}", f"--archive={copy}"]
    assert command(prepare, *arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not (data / "imagenet2012").exists()


def test_the_command_says_what_it_made(copy, tmp_path, capfd, command):
    arguments = [
        "imagenet2012",
        f"--data_dir={tmp_path / 'data'}",
        f"--archive={copy}",
    ]
    for already in ("", "already "):
        assert command(prepare, *arguments) == 0
        path = tmp_path / "data" / "imagenet2012" / "5.1.0"
        expected = f"imagenet2012 is {already}prepared in {path}\n"
        assert capfd.readouterr() == (expected, "")


def test_hidden_files_beside_images_are_left_out_and_logged(
    class_folders, copy, caplog
):
    """As macOS writes them on disks of other systems: ._x.JPEG for x.JPEG."""
    synsets = sorted(path.name for path in (class_folders / "train").iterdir())
    whole = {n: class_folders / f for n, f in imagenet_files.FOLDERS.items()}
    expected = imagenet_files.from_class_folders(whole, synsets)
    folder = copy
    images = [p for p in folder.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg")]
    for image in images:
        image.with_name(f"._{image.name}").write_bytes(b"Mac OS X")
    copied = {n: folder / f for n, f in imagenet_files.FOLDERS.items()}
    found = imagenet_files.from_class_folders(copied, synsets)
    for split in expected:
        assert dict(found[split]).keys() == dict(expected[split]).keys()
    assert [r.args[1] for r in caplog.records] == [
        len(list((folder / name).rglob("._*"))) for name in ("train", "val")
    ]
    for image in (folder / "train" / synsets[0]).glob("[!.]*"):
        image.unlink()
    with pytest.raises(ValueError, match="has no images"):
        imagenet_files.from_class_folders(copied, synsets)


def a_pipe(files):
    path = files / "train" / "n01440764" / "pipe.JPEG"
    os.mkfifo(path)
    return f"{path} is not a regular file"


def a_device(files):
    path = files / "train" / "n01440764" / "device.JPEG"
    path.symlink_to("/dev/zero")
    return f"{path} is a link to /dev/zero, outside of {files}; possible: files in it"


def a_link_that_leaves(files):
    outside = files.with_name("secret.txt")
    outside.write_text("secret")
    path = files / "val" / "n01440764" / "image.JPEG"
    path.symlink_to(outside)
    return f"{path} is a link to {outside}, outside of {files}; possible: files in it"


def a_class_that_leaves(files):
    shutil.move(files / "train" / "n01440764", files.with_name("away"))
    (files / "train" / "n01440764").symlink_to(files.with_name("away"))
    return f"{files / 'train' / 'n01440764'}/"


def a_link_to_itself(files):
    path = files / "train" / "n01440764" / "loop.JPEG"
    path.symlink_to(path)
    return f"{path} cannot be read: "


def a_name_that_is_no_text(files):
    folder = files / "train" / "n01440764"
    with open(os.path.join(os.fsencode(folder), b"\xff.JPEG"), "wb"):
        return f"the name '\\udcff.JPEG' in {folder} is not UTF-8"


def a_file_without_end(files):
    path = files / "train" / "n01440764" / "sparse.JPEG"
    with open(path, "wb") as file:
        file.truncate(2**40)  # takes no disk
    return f"{path} has {2**40} bytes; possible: at most {image_headers.MOST_BYTES}"


@pytest.mark.parametrize(
    "damage",
    [
        a_pipe,
        a_device,
        a_link_that_leaves,
        a_class_that_leaves,
        a_link_to_itself,
        a_name_that_is_no_text,
        a_file_without_end,
    ],
)
def test_only_regular_files_inside_the_folder_are_packed(
    damage, copy, tmp_path, capfd, command
):
    test_what_is_no_imagenet_is_refused_in_one_line(
        damage, copy, tmp_path, capfd, command
    )


def test_links_inside_the_folder_are_packed(copy, tmp_path):
    first = sorted((copy / "val" / "n01440764").iterdir())[0]
    (copy / "val" / "n01440764" / "linked.JPEG").symlink_to(first)
    prepare.prepare("imagenet2012", str(tmp_path / "data"), str(copy))
    found = records(str(tmp_path / "data"))["validation"]
    assert found["linked.JPEG"] == (0, first.read_bytes())


def test_a_split_may_be_a_link_to_another_disk(copy, tmp_path):
    shutil.move(copy / "val", tmp_path / "elsewhere")
    (copy / "val").symlink_to(tmp_path / "elsewhere")
    prepare.prepare("imagenet2012", str(tmp_path / "data"), str(copy))
    packed = records(str(tmp_path / "data"))["validation"]
    assert len(packed) == len(list((tmp_path / "elsewhere").glob("*/*.JPEG")))
