# syntax=docker/dockerfile:1
# docker build -t dermserve .                                the service (the last stage is the default)
# docker build --target training -t dermserve-training .     the training job

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PATH=/opt/dermserve/bin:$PATH
RUN python -m venv /opt/dermserve
WORKDIR /src
# What pip needs to know of the project; versions come from requirements.lock alone
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY model_store/ model_store/


FROM base AS build-service
COPY service/ service/
RUN --mount=type=cache,target=/root/.cache/pip pip install -c requirements.lock ".[s3]"


FROM base AS training
LABEL org.opencontainers.image.title="dermserve-training" \
      org.opencontainers.image.description="Trains, calibrates, evaluates and publishes a lesion classifier" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY training/ training/
# For PyTorch without CUDA, gigabytes smaller, name an index that has it: --build-arg TORCH_INDEX=...
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c requirements.lock ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[training]"
# matplotlib and torch want somewhere to write; mount data at /data and the model store at /store
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /data
USER 10001:10001
ENTRYPOINT ["dermserve-train"]
CMD ["--help"]


FROM python:3.11-slim-bookworm AS service
LABEL org.opencontainers.image.title="dermserve" \
      org.opencontainers.image.description="Classifies dermatoscopic pictures of skin lesions within 3 seconds" \
      org.opencontainers.image.licenses="Apache-2.0"
# Nothing is ever written: the container runs with a read-only root file system and without /tmp
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/dermserve/bin:$PATH \
    DERMSERVE_HOST=0.0.0.0 \
    DERMSERVE_PORT=8000
COPY --from=build-service /opt/dermserve /opt/dermserve
WORKDIR /opt/dermserve
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# urlopen raises on every status but 2xx: the container is healthy when a verified model is serving
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['DERMSERVE_PORT']}/readyz\", timeout=2)"]
CMD ["dermserve"]
