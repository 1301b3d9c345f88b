"""Plain FastAPI, as its tutorial shows uploads; ONNX Runtime with its default settings (PEERS_INTRA_OP=0)."""

from fastapi import FastAPI, UploadFile

from loadtests.peers.servers.lesion import Lesion, settings

lesion = Lesion(settings())
app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, dict[str, float]]:
    """FastAPI runs a plain function in its pool of 40 threads."""
    return lesion.predict(file.file.read())
