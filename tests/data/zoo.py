"""Bad and odd inputs. Each puts something into a folder of good pictures and says what must become of it."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.data.conftest import encoded

RED = (200, 40, 40)
SIZE = (24, 20)  # width, height


@dataclass(frozen=True)
class Case:
    """One inhabitant.

    Attributes:
        put: writes it; gets the folder with the good pictures.
        outcome: it becomes a picture, is counted as bad, or is not looked at.
        says: what the reason must contain.
        colour: of the picture's mean, or None where it does not matter.
        pictures: that it adds when it is read.
    """

    put: Callable[[Path], object]
    outcome: Literal["read", "skipped", "ignored"]
    says: str = ""
    colour: tuple[int, int, int] | None = None
    pictures: int = 1


def file(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def plain(mode: str = "RGB", colour: object = RED, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new(mode, size, colour)


def png(depth: int, colour_type: int, rows: bytes, size: tuple[int, int] = SIZE) -> bytes:
    """A PNG chunk by chunk: Pillow writes neither 16-bit colour nor headers that lie."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))
    )


def deep_png() -> bytes:
    row = b"\0" + np.tile(np.array(RED, ">u2") * 257, SIZE[0]).tobytes()
    return png(16, 2, row * SIZE[1])


def jpeg(**options: object) -> bytes:
    return encoded(plain(), "JPEG", quality=95, **options)


def oriented(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return jpeg(exif=exif)


def huge_jpeg() -> bytes:
    """The header says 65,500 pixels a side."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def ycck() -> bytes:
    data = encoded(plain("CMYK", (0, 200, 200, 40)), "JPEG", quality=95)
    place = data.index(b"Adobe") + 11
    return data[:place] + b"\2" + data[place + 1 :]


def animated(kind: str) -> bytes:
    return encoded(plain(), kind, save_all=True, append_images=[plain(colour=(0, 0, 255))], lossless=True)


def text_bomb() -> bytes:
    """A compressed comment that unpacks to 100 MB."""
    info = PngInfo()
    info.add_text("comment", "a" * 100_000_000, zip=True)
    return encoded(plain(), "PNG", pnginfo=info)


def zipped(folder: Path, name: str, put: Callable[[zipfile.ZipFile], object]) -> None:
    """The folder becomes an archive with something else in it."""
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.glob("good*.png")):
            archive.write(path, path.name)
        put(archive)


def tarred(folder: Path, name: str, put: Callable[[tarfile.TarFile], object]) -> None:
    with tarfile.open(folder / name, "w") as archive:
        for path in sorted(folder.glob("good*.png")):
            archive.add(path, path.name)
        put(archive)


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, io.BytesIO(content)


def encrypt(folder: Path) -> None:
    """The flag is what a reader goes by."""
    zipped(folder, "all.zip", lambda archive: archive.writestr("secret.png", encoded(plain(), "PNG")))
    path = folder / "all.zip"
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))


def told(folder: Path, size: int, content: bytes) -> None:
    """An archive whose directory says that an entry has another size."""
    zipped(folder, "all.zip", lambda archive: archive.writestr("bomb.png", content))
    path = folder / "all.zip"
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(bytes(data))


class Booby:
    """Unpickling it leaves a trace."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("unpickled",)


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def lying_npy() -> bytes:
    """A header that promises 3 TB."""
    return npy(np.zeros((10, 10, 3))).replace(b"(10, 10, 3), }", b"(999999, 999999, 3), }", 1)


def sparse(folder: Path) -> None:
    with (folder / "sparse.jpg").open("wb") as handle:
        handle.truncate(1 << 33)


def in_folder_called_like_a_picture(folder: Path) -> None:
    (folder / "x.jpg").mkdir()
    (folder / "x.jpg" / "inside.png").write_bytes(encoded(plain(), "PNG"))


def float_tiff() -> bytes:
    ramp = np.linspace(-5, 5, SIZE[0], dtype=np.float32)
    return encoded(Image.fromarray(np.tile(ramp, (SIZE[1], 1))), "TIFF")


ZOO: dict[str, Case] = {
    "zero bytes": Case(file("a.jpg", b""), "skipped", "no picture"),
    "html": Case(file("a.jpg", b"<!DOCTYPE html><html>not found</html>"), "skipped", "no picture"),
    "text": Case(file("a.png", b"hello"), "skipped", "no picture"),
    "svg": Case(file("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "skipped", "no picture"),
    "heic": Case(file("a.jpg", b"\0\0\0\x18ftypheic" + bytes(64)), "skipped", "no picture"),
    # Pillow would start Ghostscript.
    "postscript": Case(file("a.jpg", encoded(plain(), "EPS")), "skipped", "no picture"),
    "gzipped picture": Case(file("a.jpg", b"\x1f\x8b\x08\0" + bytes(64)), "skipped", "no picture"),
    "truncated jpeg": Case(
        file("a.jpg", encoded(Image.effect_noise((90, 90), 50), "JPEG")[:2000]), "skipped", "truncated"
    ),
    "truncated png": Case(
        file("a.png", encoded(Image.effect_noise((90, 90), 50), "PNG")[:4000]), "skipped", "truncated"
    ),
    "truncated gif": Case(
        file("a.gif", encoded(Image.effect_noise((90, 90), 50), "GIF")[:4000]), "skipped", "truncated"
    ),
    "truncated webp": Case(
        file("a.webp", encoded(Image.effect_noise((90, 90), 50), "WEBP")[:900]), "skipped"
    ),
    "truncated tiff": Case(file("a.tif", encoded(plain(), "TIFF")[:200]), "skipped"),
    "truncated bmp": Case(file("a.bmp", encoded(plain(), "BMP")[:300]), "skipped", "truncated"),
    "jpeg with an end of its own": Case(file("a.jpg", jpeg() + b"trailing" * 50), "read", colour=RED),
    "progressive jpeg": Case(file("a.jpg", jpeg(progressive=True)), "read", colour=RED),
    "jpeg called png": Case(file("a.png", jpeg()), "read", colour=RED),
    "png called jpg": Case(file("a.jpg", encoded(plain(), "PNG")), "read", colour=RED),
    "upper case": Case(file("A.JPEG", jpeg()), "read", colour=RED),
    "no extension": Case(file("picture", jpeg()), "ignored"),
    "ds store": Case(file(".DS_Store", b"\0\0\0\1Bud1"), "ignored"),
    "shadow of macos": Case(file("._a.jpg", b"\0\5\x16\7"), "ignored"),
    "thumbs db": Case(file("Thumbs.db", b"\xd0\xcf\x11\xe0"), "ignored"),
    "nested archive": Case(lambda folder: zipped(folder, "inner.zip", lambda _: None), "ignored"),
    "npy beside pictures": Case(file("embedding.npy", npy(np.zeros(512))), "ignored"),
    "cmyk jpeg": Case(
        file("a.jpg", encoded(plain("CMYK", (55, 215, 215, 0)), "JPEG", quality=95)), "read", colour=RED
    ),
    "ycck jpeg": Case(file("a.jpg", ycck()), "read"),
    "grey, 16 bits": Case(
        file("a.png", encoded(plain("I;16", 128 * 257), "PNG")), "read", colour=(128, 128, 128)
    ),
    "colour, 16 bits": Case(file("a.png", deep_png()), "read", colour=RED),
    "palette": Case(file("a.png", encoded(plain().quantize(4), "PNG")), "read", colour=RED),
    "palette with transparency": Case(
        file("a.png", encoded(plain().quantize(1), "PNG", transparency=0)), "read", colour=(255, 255, 255)
    ),
    "transparency": Case(
        file("a.png", encoded(plain("RGBA", (0, 0, 0, 0)), "PNG")), "read", colour=(255, 255, 255)
    ),
    "grey with transparency": Case(
        file("a.png", encoded(plain("LA", (0, 128)), "PNG")), "read", colour=(127, 127, 127)
    ),
    "one bit": Case(file("a.png", encoded(plain("1", 1), "PNG")), "read", colour=(255, 255, 255)),
    "animated gif": Case(file("a.gif", animated("GIF")), "read", colour=RED),
    "animated webp": Case(file("a.webp", animated("WEBP")), "read", colour=RED),
    "animated png": Case(file("a.png", animated("PNG")), "read", colour=RED),
    "one pixel": Case(file("a.png", encoded(plain(size=(1, 1)), "PNG")), "read", colour=RED),
    "30,000 x 3": Case(file("a.png", encoded(plain(size=(30000, 3)), "PNG")), "read", colour=RED),
    "3 x 30,000": Case(file("a.jpg", encoded(plain(size=(3, 30000)), "JPEG")), "read", colour=RED),
    "600 megapixels": Case(file("a.png", png(8, 2, b"", (30000, 20000))), "skipped", "more than"),
    "4 gigapixels": Case(file("a.jpg", huge_jpeg()), "skipped", "more than"),
    "compressed comment": Case(lambda folder: (folder / "a.png").write_bytes(text_bomb()), "skipped", "."),
    "broken exif": Case(file("a.jpg", jpeg(exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), "read", colour=RED),
    "orientation that is none": Case(file("a.jpg", oriented(77)), "read", colour=RED),
    "broken colour profile": Case(file("a.jpg", jpeg(icc_profile=b"garbage" * 20)), "read", colour=RED),
    "pages": Case(
        file(
            "a.tif",
            encoded(plain(), "TIFF", save_all=True, append_images=[plain(colour=(0, 0, 0))] * 4),
        ),
        "read",
        colour=RED,
    ),
    "float tiff": Case(file("a.tif", float_tiff()), "read", colour=(127, 127, 127)),
    "link to itself": Case(
        lambda folder: (folder / "a.jpg").symlink_to("a.jpg"), "skipped", "symbolic links"
    ),
    "link in a circle": Case(lambda folder: (folder / "up").symlink_to("."), "ignored"),
    "link to nothing": Case(
        lambda folder: (folder / "a.jpg").symlink_to("gone.jpg"), "skipped", "No such file"
    ),
    "pipe": Case(lambda folder: os.mkfifo(folder / "a.jpg"), "ignored"),
    "folder called like a picture": Case(in_folder_called_like_a_picture, "read", colour=RED),
    "sparse file": Case(sparse, "skipped", "bytes, more than"),
    "name with blanks and a line break": Case(file(" a\n b .jpg", jpeg()), "read", colour=RED),
    "name with accents and a face": Case(file("naïve 🙂.jpg", jpeg()), "read", colour=RED),
    "name that is no text": Case(
        lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).write_bytes(jpeg()),
        "read",
        colour=RED,
    ),
    "zip: shadow of macos": Case(
        lambda folder: zipped(folder, "all.zip", lambda z: z.writestr("__MACOSX/._good0.png", b"\0")),
        "ignored",
    ),
    "zip: encrypted": Case(encrypt, "skipped", "encrypted"),
    "zip: bomb": Case(lambda folder: told(folder, 3 << 30, bytes(1 << 20)), "skipped", "bytes, more than"),
    "zip: bomb that lies": Case(
        lambda folder: told(folder, 100, bytes(1 << 28)), "skipped", "wrong checksum"
    ),
    "zip: same name twice": Case(
        lambda folder: zipped(
            folder,
            "all.zip",
            lambda z: [z.writestr("twice.png", data) for data in (b"old", encoded(plain(), "PNG"))],
        ),
        "read",
        colour=RED,
    ),
    "tar: names that lead out": Case(
        lambda folder: tarred(
            folder,
            "all.tar",
            lambda t: [t.addfile(*member(name, content=jpeg())) for name in ("/tmp/out.jpg", "../out.jpg")],
        ),
        "read",
        colour=RED,
        pictures=2,
    ),
    "tar: hard link": Case(
        lambda folder: tarred(
            folder,
            "all.tar",
            lambda t: [
                t.addfile(*member("first.jpg", content=jpeg())),
                t.addfile(*member("second.jpg", tarfile.LNKTYPE, link="first.jpg")),
            ],
        ),
        "read",
        colour=RED,
        pictures=2,
    ),
    "tar: device": Case(
        lambda folder: tarred(folder, "all.tar", lambda t: t.addfile(*member("a.jpg", tarfile.CHRTYPE))),
        "ignored",
    ),
    "tar: link": Case(
        lambda folder: tarred(
            folder, "all.tar", lambda t: t.addfile(*member("a.jpg", tarfile.SYMTYPE, link="/etc/passwd"))
        ),
        "ignored",
    ),
    **{
        f"orientation {number}": Case(file("a.jpg", oriented(number)), "read", colour=RED)
        for number in range(1, 9)
    },
}

# Files of arrays, in a folder of such: (bytes, reason or None where they are read, as floats of 3 channels).
ARRAYS: dict[str, tuple[bytes, str | None]] = {
    "pickled object": (npy(np.array([Booby()], dtype=object)), "not of numbers"),
    "pickle called npy": (pickle.dumps(Booby()), "no picture"),
    "text": (npy(np.array(["a", "b"])), "not of numbers"),
    "dates": (npy(np.zeros((4, 4, 3), "datetime64[s]")), "not of numbers"),
    "complex numbers": (npy(np.zeros((4, 4, 3), complex)), "not of numbers"),
    "one axis": (npy(np.zeros(12)), "shape"),
    "no pixels": (npy(np.zeros((0, 4, 3))), "shape"),
    "header that lies": (lying_npy(), "truncated"),
    "header that is no literal": (b"\x93NUMPY\1\0\x10\0{exec('x')}      ", "damaged"),
    "half a file": (npy(np.ones((8, 8, 3)))[:600], "truncated"),
    "five channels": (npy(np.ones((8, 8, 5))), "5 channels, and data.channels is 3"),
    "two channels": (npy(np.ones((8, 8, 2))), "2 channels, and data.channels is 3"),
    "only NaN": (npy(np.full((8, 8, 3), np.nan)), "finite"),
    "some NaN": (npy(np.where(np.eye(8)[..., None] > 0, np.inf, np.full((8, 8, 3), 2.0))), None),
    "column-major": (npy(np.asfortranarray(np.full((8, 8, 3), 2.0))), None),
    "channels first": (npy(np.full((3, 8, 9), 2.0)), None),
    "grey": (npy(np.full((8, 9), 2.0)), None),
    "big-endian integers": (npy(np.full((8, 8, 3), 2, ">i4")), None),
    "half precision": (npy(np.full((8, 8, 3), 2, np.float16)), None),
}
