"""A bare app to compare the service with: one route of FastAPI, Pillow, the network, five results.

It has no record, limits, keys, quality, M-Net or verdicts. Run it as
`python -m bench.bare_app ARTEFACT PORT_FILE`; it writes its port into the file.
"""

from __future__ import annotations

import asyncio
import io
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import FastAPI, File, UploadFile
from PIL import Image

from model.artefact import load_artefact, resolve_artefact
from model.runtimes import OpenVinoRuntime

VECTORS = 1000
RESULTS = 5
PATH = "/v1/galleries/default/queries"
artefact = load_artefact(resolve_artefact(sys.argv[1]))
runtime = OpenVinoRuntime(artefact, "float32")
preprocessing = artefact.description.preprocessing
random = np.random.default_rng(0)
gallery = random.standard_normal((VECTORS, artefact.description.embedder.dimension), np.float32)
gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
threads = ThreadPoolExecutor(runtime.at_once)
app = FastAPI()


def search(file: bytes) -> list[dict[str, Any]]:
    crop = Image.open(io.BytesIO(file)).convert("RGB")
    [feature] = runtime.embed(preprocessing.resize(crop)[None])
    cosines = gallery @ (feature / np.linalg.norm(feature))
    best = np.argsort(-cosines)[:RESULTS]
    return [{"crop": int(crop), "cosine": float(cosines[crop])} for crop in best]


@app.post(PATH)
async def query(images: Annotated[UploadFile, File()]) -> dict[str, Any]:
    file = await images.read()
    loop = asyncio.get_running_loop()
    return {"results": await loop.run_in_executor(threads, search, file)}


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    Path(sys.argv[2]).write_text(str(listening.getsockname()[1]), encoding="ascii")
    server.run([listening])
