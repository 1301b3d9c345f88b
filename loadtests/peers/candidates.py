"""Who is compared: each rival with the set-ups it is tried in, dermserve, and the bare loop."""

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# A picture -> its content type and the body that is sent; made once, before anything is timed
Encode = Callable[[bytes], tuple[str, bytes]]
# The body of an answer and the classes -> probabilities in the order of the classes
Read = Callable[[bytes, Sequence[str]], list[float]]

USUAL, OURS = "usual", "dermserve"  # how a rival decodes
BOUNDARY = "dermserve-peers"


def as_it_is(picture: bytes) -> tuple[str, bytes]:
    """The body is the picture."""
    return "image/jpeg", picture


def as_form(field_name: str) -> Encode:
    """The body is a form with one file."""
    head = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{field_name}"; filename="lesion.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode()
    return lambda picture: (
        f"multipart/form-data; boundary={BOUNDARY}",
        head + picture + f"\r\n--{BOUNDARY}--\r\n".encode(),
    )


def as_v2_request(picture: bytes) -> tuple[str, bytes]:
    """The V2 inference protocol carries bytes as base64 in JSON."""
    text = base64.b64encode(picture).decode("ascii")
    parameters = {"content_type": "base64"}
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text], "parameters": parameters}
    return "application/json", json.dumps({"inputs": [tensor]}).encode()


def read_probabilities(body: bytes, classes: Sequence[str]) -> list[float]:
    """{"probabilities": {"mel": 0.6, ...}, ...}, or a list with one of these."""
    answer: Any = json.loads(body)
    probabilities = (answer[0] if isinstance(answer, list) else answer)["probabilities"]
    return [float(probabilities[code]) for code in classes]


def read_v2_answer(body: bytes, classes: Sequence[str]) -> list[float]:
    """The V2 inference protocol's only output."""
    probabilities: list[float] = json.loads(body)["outputs"][0]["data"]
    if len(probabilities) != len(classes):
        raise ValueError(f"{len(probabilities)} probabilities for {len(classes)} classes")
    return probabilities


@dataclass(frozen=True, slots=True)
class Way:
    """One set-up: what loadtests/peers/servers/lesion.py reads, and how this set-up is asked."""

    label: str
    workers: int = 1
    threads: int = 1
    intra_op: int = 1
    batch: int = 1
    path: str = "/predict"
    encode: Encode = as_it_is
    read: Read = read_probabilities
    told: Mapping[str, str] = field(default_factory=dict)  # further variables, for one framework's own settings


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of the table that is a server. In `command` {python}, {bin} and {port} are filled in."""

    name: str
    title: str
    environment: str | None  # name of its requirements file and virtual environment; None: the project's own
    command: tuple[str, ...]
    ways: tuple[Way, ...]
    variant: str = "fp32"  # "auto": the server's own choice
    decoder: str = USUAL
    variables: Mapping[str, str] = field(default_factory=dict)  # {port}, {workers} and so on are filled in

    def environment_variables(self, way: Way, port: int) -> dict[str, str]:
        """What the server is told, beside the environment it inherits."""
        numbers = {"workers": way.workers, "threads": way.threads, "intra_op": way.intra_op, "batch": way.batch}
        told = {f"PEERS_{name.upper()}": str(number) for name, number in numbers.items()}
        told |= {"PEERS_PORT": str(port), "PEERS_VARIANT": self.variant, "PEERS_DECODER": self.decoder}
        filled = {"port": port, "port_1": port + 1, "port_2": port + 2, "variant": self.variant, **numbers}
        return {**told, **way.told, **{name: text.format_map(filled) for name, text in self.variables.items()}}

    def command_line(self, python: Path, way: Way, port: int) -> list[str]:
        """The program and its arguments."""
        filled = {"python": python, "bin": python.parent, "port": port, "workers": way.workers}
        return [part.format_map(filled) for part in self.command]


@dataclass(frozen=True, slots=True)
class Loop:
    """One row of the table that is no server: servers/bare_loop.py in several modes, of which the best counts."""

    name: str
    title: str
    variant: str
    modes: tuple[tuple[str, int], ...]


CORES = os.cpu_count() or 1
UVICORN = ("{python}", "-m", "uvicorn", "--port", "{port}", "--workers", "{workers}", "--log-level", "warning")
SERVERS = "loadtests.peers.servers"

FASTAPI_DEFAULT = Candidate(
    "fastapi-default",
    "FastAPI, default ONNX Runtime",
    "fastapi",
    (*UVICORN, f"{SERVERS}.fastapi_default:app"),
    (Way("as in the tutorials", intra_op=0, encode=as_form("file")),),
)
FASTAPI_TUNED = Candidate(
    "fastapi-tuned",
    "FastAPI, tuned",
    "fastapi",
    (*UVICORN, "--loop", "uvloop", "--http", "httptools", f"{SERVERS}.fastapi_tuned:app"),
    (
        Way(f"1 process, {CORES} threads", threads=CORES),
        Way(f"1 process, {CORES + 1} threads", threads=CORES + 1),
        Way("1 process, all cores on one picture", intra_op=CORES),
        Way(f"{CORES} processes, 1 thread each", workers=CORES),
        Way(f"{CORES} processes, 2 threads each", workers=CORES, threads=2),
    ),
)
LIGHT = {"PEERS_LITSERVE_LIGHT": "1"}  # its default is an HTTP process for each worker, and no fast queue
LITSERVE = Candidate(
    "litserve",
    "LitServe",
    "litserve",
    ("{python}", "-m", f"{SERVERS}.litserve_server"),
    (
        Way("1 worker, all cores on one picture", intra_op=CORES, encode=as_form("request")),
        Way(f"{CORES} workers", workers=CORES, encode=as_form("request")),
        Way(f"{CORES} workers, 1 HTTP process, fast queue", workers=CORES, encode=as_form("request"), told=LIGHT),
        Way(f"{CORES} workers, batches of 4", workers=CORES, batch=4, encode=as_form("request")),
    ),
)
BENTOML = Candidate(
    "bentoml",
    "BentoML",
    "bentoml",
    ("{bin}/bentoml", "serve", f"{SERVERS}.bentoml_service:LesionService", "--port", "{port}", "--host", "127.0.0.1"),
    (
        Way(f"1 worker, {CORES} threads", threads=CORES),
        Way(f"{CORES} workers", workers=CORES),
        Way(f"{CORES} workers, batches of 4", workers=CORES, batch=4, path="/predict_batch", encode=as_form("images")),
    ),
    variables={"BENTOML_DO_NOT_TRACK": "True"},
)
MLSERVER = Candidate(
    "mlserver",
    "MLServer",
    "mlserver",
    ("{bin}/mlserver", "start", "loadtests/peers/servers"),
    (
        *(
            Way(label, workers, threads, 1, batch, "/v2/models/lesion/infer", as_v2_request, read_v2_answer)
            for label, workers, threads, batch in (
                (f"no parallel workers, {CORES} threads", 0, CORES, 1),
                (f"{CORES} parallel workers", CORES, 1, 1),
                (f"{CORES} parallel workers, batches of 4", CORES, 1, 4),
            )
        ),
        Way(f"custom handler, {CORES} threads", workers=0, threads=CORES),
    ),
    variables={
        "MLSERVER_HTTP_PORT": "{port}",
        "MLSERVER_GRPC_PORT": "{port_1}",
        "MLSERVER_METRICS_PORT": "{port_2}",
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_DEBUG": "false",  # access logs
        "MLSERVER_PARALLEL_WORKERS": "{workers}",
        "MLSERVER_MODEL_NAME": "lesion",
        "MLSERVER_MODEL_IMPLEMENTATION": f"{SERVERS}.mlserver_runtime.LesionRuntime",
        "MLSERVER_MODEL_MAX_BATCH_SIZE": "{batch}",
        "MLSERVER_MODEL_MAX_BATCH_TIME": "0.005",
    },
)
RIVALS = (FASTAPI_DEFAULT, FASTAPI_TUNED, LITSERVE, BENTOML, MLSERVER)


def dermserve(variant: str) -> Candidate:
    """The service of this checkout with a variant set by hand, or "auto"."""
    title = "dermserve, its own choice" if variant == "auto" else f"dermserve, {variant}"
    return Candidate(
        f"dermserve-{variant}",
        title,
        None,
        ("{python}", "-m", "service"),
        (Way("as shipped", path="/v1/predictions"),),
        variant,
        OURS,
        {"DERMSERVE_HOST": "127.0.0.1", "DERMSERVE_PORT": "{port}", "DERMSERVE_VARIANT": "{variant}"},
    )


def bare(variant: str) -> Loop:
    """Decoding and inference alone, on both cores."""
    return Loop(
        f"bare-{variant}", f"bare loop, {variant}, no HTTP", variant, (("threads", CORES), ("processes", CORES))
    )


def candidates(variant: str, only: Sequence[str], variants: Sequence[str]) -> list[Candidate | Loop]:
    """Every row of the table; rivals serve `variant`. `only` keeps those of these names or families.

    Raises ValueError for a name that nobody has.
    """
    rivals = [replace(rival, variant=variant) for rival in RIVALS]
    rows: list[Candidate | Loop] = [
        dermserve("fp32"),
        dermserve("auto"),
        *(bare(name) for name in variants),
        *rivals,
        *(
            replace(rival, name=f"{rival.name}-our-decoder", title=f"{rival.title}, our decoder", decoder=OURS)
            for rival in rivals
        ),
    ]
    unknown = [name for name in only if not any(_belongs(row.name, name) for row in rows)]
    if unknown:
        raise ValueError(f"no candidate {', '.join(unknown)}; there are {', '.join(row.name for row in rows)}")
    return [row for row in rows if not only or any(_belongs(row.name, name) for name in only)]


def _belongs(name: str, family: str) -> bool:
    return name == family or name.startswith(f"{family}-")
