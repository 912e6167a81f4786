# CUDA by default; --build-arg VARIANT=cpu makes the small one. docs/deployment.md says how to run it.
ARG BASE=python:3.11-slim-bookworm
ARG VARIANT=cuda

FROM ${BASE} AS build
ARG VARIANT
# For builders without the registries: a directory of wheels, and 1 to use nothing else.
ARG PIP_FIND_LINKS=
ARG PIP_NO_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/unmask
COPY docker/constraints.txt docker/
# PyTorch by itself, since it is most of the image and seldom changes. Its CPU build counts as newer than the other one.
RUN if [ "${VARIANT}" = cpu ]; then export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; fi; \
    /opt/unmask/bin/pip install torch -c docker/constraints.txt
COPY . .
RUN /opt/unmask/bin/pip install . -c docker/constraints.txt

FROM ${BASE} AS runtime-cpu

FROM ${BASE} AS runtime-cuda
# Triton builds the launchers of its kernels when they are first used. The versions are those of the base's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3006
FROM runtime-${VARIANT}
LABEL org.opencontainers.image.title="Unmask" \
      org.opencontainers.image.description="Inference server for any-to-any masked discrete diffusion models" \
      org.opencontainers.image.licenses="Apache-2.0"
# Group 0 may write what the user may, so that any user id of that group will do.
RUN useradd --uid 1000 --gid 0 --home-dir /data --no-create-home unmask \
    && mkdir -p /data \
    && chown 1000:0 /data \
    && chmod 2775 /data
COPY --from=build /opt/unmask /opt/unmask
# USER is for libraries that look up the name of a user that /etc/passwd does not have.
ENV PATH=/opt/unmask/bin:${PATH} \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    USER=unmask \
    HF_HOME=/data/hf \
    HF_HUB_DISABLE_TELEMETRY=1 \
    UNMASK_HOME=/data/unmask \
    UNMASK_HOST=0.0.0.0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
USER 1000:0
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=600s --interval=30s --timeout=10s CMD ["unmask", "health"]
ENTRYPOINT ["unmask"]
CMD ["serve"]
