"""Small documents of every kind, made by the libraries that people make them with, or written by hand."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping

import docx
import openpyxl
import pptx

CONTAINER = (
    '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
OPF = (
    '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id"><metadata '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Book</dc:title><dc:language>en</dc:language><dc:identifier '
    'id="id">x</dc:identifier></metadata><manifest><item id="c1" href="c1.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="c2" href="c2.xhtml" media-type="application/xhtml+xml"/></manifest>'
    '<spine><itemref idref="c1"/><itemref idref="c2"/></spine></package>'
)


def word() -> bytes:
    document = docx.Document()
    document.add_heading("Guide", 1)
    document.add_paragraph("Intro words.")
    document.add_heading("Install", 2)
    document.add_paragraph("With pip.")
    return saved(document.save)


def slides() -> bytes:
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text = "First slide"
    slide.placeholders[1].text = "one point\nanother point"
    return saved(presentation.save)


def sheet() -> bytes:
    book = openpyxl.Workbook()
    book.active.title = "People"
    for row in (["name", "age"], ["Ann", 3]):
        book.active.append(row)
    book.create_sheet("Places").append(["Paris"])
    return saved(book.save)


def book(chapter: str = "<h1>Chapter Two</h1><p>It was bright.</p>") -> bytes:
    page = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body>{}</body></html>'
    return packed(
        {
            "mimetype": b"application/epub+zip",
            "META-INF/container.xml": CONTAINER.encode(),
            "OEBPS/content.opf": OPF.encode(),
            "OEBPS/c1.xhtml": page.format("<h1>Chapter One</h1><p>It was dark.</p>").encode(),
            "OEBPS/c2.xhtml": page.format(chapter).encode(),
        }
    )


def notebook() -> bytes:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Analysis\n", "words"]},
        {"cell_type": "code", "metadata": {}, "source": ["print(1)"], "outputs": [], "execution_count": 1},
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def pdf(*lines: str, stream: bytes | None = None) -> bytes:
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    content = stream if stream is not None else zlib.compress(f"BT /F1 12 Tf 72 720 Td 14 TL {shown} ET".encode())
    page = (
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>"
    )
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        page.encode(),
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(content) + content + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body, offsets = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n" % number + each + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(body)
    return body + b"xref\n0 6\n0000000000 65535 f \n" + table + trailer


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def packed(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def replaced(document: bytes, name: str, content: bytes) -> bytes:
    """The document with another content of one of its parts."""
    with zipfile.ZipFile(io.BytesIO(document)) as archive:
        return packed({**{each: archive.read(each) for each in archive.namelist()}, name: content})
