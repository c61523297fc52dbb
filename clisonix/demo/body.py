"""What a page sends here: one small JSON object, or some seconds of sound."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from clisonix.errors import ClisonixError
from clisonix.fabric.stream import FloatArray

MOST_BYTES = 4096


async def small_json(request: Request) -> dict[str, Any]:
    """The object in the body.

    Raises:
        ClisonixError: the body is not a JSON object.
        HTTPException: 413, the body is longer than such an object needs; 415, it does not claim to be JSON, which a
            form of another page could not.
    """
    body = await _limited(request, "application/json", MOST_BYTES)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ClisonixError("the request is not JSON: send an object") from error
    if not isinstance(content, dict):
        raise ClisonixError(f"the request is JSON but no object: {type(content).__name__}")
    return content


async def samples(request: Request, most: int) -> FloatArray:
    """The sound in the body: `application/octet-stream`, one channel of 16-bit integers, the lower byte first.

    Args:
        request: of a page.
        most: samples that are taken.

    Returns:
        `(count,)`, float32 in [-1, 1).

    Raises:
        ClisonixError: half a sample.
        HTTPException: 413, the body is longer; 415, it does not claim to be bytes.
    """
    body = await _limited(request, "application/octet-stream", 2 * most)
    if len(body) % 2:
        raise ClisonixError(f"the sound ends within a sample ({len(body)} bytes): send 16-bit integers")
    return np.frombuffer(body, "<i2").astype(np.float32) / np.float32(2**15)


async def _limited(request: Request, kind: str, most: int) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
        raise HTTPException(415)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise HTTPException(413)
    return body
