# The ranking server. Build from the root of the checkout:
#
#   docker build --file deploy/server.Dockerfile --tag animora-server .
#
# Dependencies are installed by the hashes of deploy/requirements. TORCH is the PyTorch build; one that is not
# locked there is installed as its index offers it. The default runs, on Linux x86-64, on CUDA and on the CPU. For
# a smaller image that runs on the CPU alone, name PyTorch's index of CPU builds:
#
#   docker build ... --build-arg TORCH=torch==2.13.0+cpu --build-arg PIP_EXTRA_INDEX_URL=...
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH=torch==2.13.0
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/animora
WORKDIR /build
COPY constraints.txt deploy/requirements ./
# PyTorch first, in a layer of its own: it is most of the image and changes least. The default build is installed by
# hash; another one is what its index offers.
RUN if grep -q "^${TORCH} " torch.txt; then \
        /opt/animora/bin/pip install --no-deps --require-hashes --requirement torch.txt; \
    else \
        /opt/animora/bin/pip install --constraint constraints.txt "${TORCH}"; \
    fi
RUN /opt/animora/bin/pip install --no-deps --require-hashes --requirement server.txt \
    && pip install --no-deps --require-hashes --requirement build.txt
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY client client
COPY training training
COPY server server
COPY deploy/animora_demo deploy/animora_demo
COPY deploy/sql deploy/sql
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/animora/bin/pip install --no-deps dist/*.whl \
    && /opt/animora/bin/pip check

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="animora-server" \
      org.opencontainers.image.licenses="Apache-2.0"
# Volumes inherit the owner of the folders that they cover. Any user of group 0 may write, as on OpenShift.
RUN groupadd --gid 10001 animora \
    && useradd --uid 10001 --gid animora --no-create-home --shell /usr/sbin/nologin animora \
    && install --directory --owner=animora --group=root --mode=0775 /models /var/lib/animora
# An init: the first process of a container loses signals without a handler, and Python has none at first.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/animora /opt/animora
# Beyond loopback the server requires TLS, or ANIMORA_GRPC_INSECURE=true from the operator.
ENV PATH=/opt/animora/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    ANIMORA_GRPC_HOST=0.0.0.0 \
    ANIMORA_HTTP_HOST=0.0.0.0 \
    ANIMORA_HTTP_INSECURE=true \
    NUMBA_CACHE_DIR=/var/lib/animora/compiled \
    ANIMORA_MODELS_STORE=/models
WORKDIR /var/lib/animora
USER 10001:10001
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from os import environ; from urllib.request import urlopen; \
urlopen('http://127.0.0.1:' + environ.get('ANIMORA_HTTP_PORT', '9464') + '/livez', timeout=2)"]
ENTRYPOINT ["tini", "-s", "--", "animora-server"]
CMD ["serve"]
