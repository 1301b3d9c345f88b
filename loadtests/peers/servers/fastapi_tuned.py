"""Tuned FastAPI: the body as it comes, a pool of as many threads as chosen, ONNX Runtime that does not spin."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from loadtests.peers.servers.lesion import Lesion, settings

chosen = settings()
lesion = Lesion(chosen)
pool = ThreadPoolExecutor(chosen.threads)
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> JSONResponse:
    """One hop to a thread and back."""
    body = await request.body()
    # A JSONResponse is sent as it is; FastAPI would validate and convert a dict first.
    return JSONResponse(await asyncio.get_running_loop().run_in_executor(pool, lesion.predict, body))
