"""What a file is, by its first bytes alone: names and content types that a sender claims are never believed."""

from dataclasses import dataclass
from typing import Literal

READABLE_IMAGES = ("PNG", "JPEG", "WebP", "GIF", "BMP")
READABLE_AUDIO = ("WAV", "FLAC", "MP3", "Ogg")  # Ogg: Opus or Vorbis
AUDIO_BY_EXTRA = ("AAC", "M4A", "MP4", "WebM or Matroska")  # media_av.py reads them

_XML_WINDOW = 1024  # bytes in which an SVG names itself

# (offset, bytes, kind, name). Most specific first.
_SIGNATURES: tuple[tuple[int, bytes, "Kind", str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image", "PNG"),
    (0, b"\xff\xd8\xff", "image", "JPEG"),
    (8, b"WEBP", "image", "WebP"),
    (0, b"GIF87a", "image", "GIF"),
    (0, b"GIF89a", "image", "GIF"),
    (0, b"II*\0", "image", "TIFF"),
    (0, b"MM\0*", "image", "TIFF"),
    (0, b"8BPS", "image", "Photoshop"),
    (0, b"\0\0\x01\0", "image", "ICO"),
    (0, b"\xff\x0a", "image", "JPEG XL"),
    (4, b"ftypavi", "image", "AVIF"),
    (4, b"ftyphei", "image", "HEIC"),
    (4, b"ftypmif1", "image", "HEIC"),
    (8, b"AVI ", "video", "AVI"),
    (8, b"WAVE", "audio", "WAV"),
    (0, b"fLaC", "audio", "FLAC"),
    (0, b"OggS", "audio", "Ogg"),
    (0, b"ID3", "audio", "MP3"),
    (8, b"AIFF", "audio", "AIFF"),
    (8, b"AIFC", "audio", "AIFF"),
    (0, b".snd", "audio", "AU"),
    (0, b"#!AMR", "audio", "AMR"),
    (4, b"ftypM4A", "audio", "M4A"),
    (4, b"ftypqt", "video", "QuickTime"),
    (4, b"ftyp", "video", "MP4"),
    (0, b"\x1a\x45\xdf\xa3", "video", "WebM or Matroska"),
    (0, b"\0\0\x01\xba", "video", "MPEG"),
    (0, b"FLV\x01", "video", "Flash video"),
    (0, b"%PDF", "document", "PDF"),
    (0, b"PK\x03\x04", "archive", "ZIP"),
    (0, b"\x1f\x8b", "archive", "gzip"),
    (0, b"BM", "image", "BMP"),
)

Kind = Literal["image", "audio", "video", "document", "archive"]


@dataclass(frozen=True)
class Sniffed:
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{'an' if self.kind in ('image', 'audio', 'archive') else 'a'} {self.kind} file ({self.name})"


def sniff(data: bytes) -> Sniffed | None:
    """The container of these bytes, or None for one that is not known."""
    for offset, magic, kind, name in _SIGNATURES:
        if data.startswith(magic, offset) and (offset != 8 or data[:4] in (b"RIFF", b"RF64", b"FORM")):
            return Sniffed(kind, name)
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:  # MPEG audio frame sync
        return Sniffed("audio", "AAC" if data[1] & 0x06 == 0 else "MP3")
    head = data[:_XML_WINDOW].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<svg", b"<?xml", b"<!doctype svg")) and b"<svg" in head:
        return Sniffed("image", "SVG")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return Sniffed("document", "XML" if head.startswith(b"<?xml") else "HTML")
    return None
