# The trainer: a job that ends, for a scheduler to start. Build from the root of the checkout:
#
#   docker build --file deploy/trainer.Dockerfile --tag animora-trainer .
#
# TORCH and the index arguments are those of server.Dockerfile.
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
RUN /opt/animora/bin/pip install --no-deps --require-hashes --requirement trainer.txt \
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
LABEL org.opencontainers.image.title="animora-trainer" \
      org.opencontainers.image.licenses="Apache-2.0"
# The same user as in the server's image, so that the server can read what the trainer publishes.
RUN groupadd --gid 10001 animora \
    && useradd --uid 10001 --gid animora --no-create-home --shell /usr/sbin/nologin animora \
    && install --directory --owner=animora --group=root --mode=0775 /models
# GCC compiles a version's native code (docs/models.md); the server needs no compiler. tini is an init: the first
# process of a container loses signals without a handler, and Python has none at first.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/animora /opt/animora
ENV PATH=/opt/animora/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    ANIMORA_MODELS_STORE=/models
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
ENTRYPOINT ["tini", "-s", "--", "animora-train"]
CMD ["fit", "--activate"]
