"""PDFs made by hand, honest and hostile; a user; knowledge on a database; vectors by topic."""

import zlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np

from helix.core.clock import SystemClock
from helix.core.db import Connection, Database
from helix.knowledge import Knowledge
from helix.knowledge.reading import ReadLimits
from helix.retrieval import Embedder
from tests.factories import make_user

LIMITS = ReadLimits(seconds=60.0)  # the machine may be busy; a test of time sets its own


def pdf(pages: Sequence[str], *, packed: bytes | None = None) -> bytes:
    """Return a PDF with these texts, a page each; `packed` is a stream for the last page."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        lines = " ".join(f"({line}) Tj T*" for line in text.split("\n"))
        stream, coded = f"BT /F1 12 Tf 50 750 Td 14 TL {lines} ET".encode(), ""
        if packed is not None and n == count - 1:
            stream, coded = packed, "/Filter /FlateDecode "
        head = f"<< {coded}/Length {len(stream)} >>\nstream\n".encode()
        objects.append(head + stream + b"\nendstream")
    out, places = b"%PDF-1.4\n", []
    for n, body in enumerate(objects):
        places.append(len(out))
        out += f"{n + 1} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    return (
        out
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}"
            f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF"
        ).encode()
    )


def zeros_packed(megabytes: int) -> bytes:
    """Return a stream that unpacks to this many megabytes of operators."""
    packer = zlib.compressobj(9)
    block = b"0 0 m " * 174_763
    return b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


async def a_user(owner: Connection) -> UUID:
    return (await make_user(owner))["id"]


def knowledge_on(db: Database, embedder: Embedder | None = None, **given: Any) -> Knowledge:
    return Knowledge(db, embedder, SystemClock(), **{"limits": LIMITS, **given})


class TopicEmbedder:
    """Vectors by topic: a text's vector points where the words of a topic stand."""

    provider, model, dimension = "test", "topics", 3
    topics = (("rose", "garden", "flower"), ("pump", "valve", "pressure"), ("tax", "invoice"))

    async def embed(self, texts: Sequence[str], *, user_id: UUID) -> np.ndarray[Any, np.dtype[Any]]:
        rows = [
            [1e-3 + sum(word in text.lower() for word in topic) for topic in self.topics]
            for text in texts
        ]
        vectors = np.array(rows, np.float32).reshape(-1, 3)
        unit: np.ndarray[Any, np.dtype[Any]] = vectors / np.linalg.norm(
            vectors, axis=1, keepdims=True
        )
        return unit
