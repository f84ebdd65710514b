# The service in a container: CPU only, not root, read-only root file system. Usage: docs/container.md
# tests/test_container.py checks this file against that page.

FROM python:3.11-slim-trixie AS build
# Index of torch's CPU builds, in addition to PyPI.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/genretree
# First and with its exact version, as in the Makefile: other builds add several gigabytes for GPUs.
RUN /opt/genretree/bin/python -m pip install -c constraints.txt torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/genretree/bin/python -m pip install -c constraints.txt '.[explain,openvino,serve]'

FROM python:3.11-slim-trixie
# Nothing is built in this stage: the step fails if it contains a compiler.
RUN ! command -v cc && ! command -v gcc && ! command -v clang && ! command -v make
RUN groupadd --gid 10001 genretree \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin genretree \
    && mkdir /bundles /cache \
    && chown 10001:10001 /bundles /cache
COPY --from=build /opt/genretree /opt/genretree
# Everything is written to /cache (pulled bundles and weights) or /tmp (uploads, numba's compiled code).
ENV PATH=/opt/genretree/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    GENRETREE_CACHE=/cache \
    HF_HOME=/cache/huggingface \
    XDG_CACHE_HOME=/tmp/cache \
    NUMBA_CACHE_DIR=/tmp/numba \
    MPLCONFIGDIR=/tmp/matplotlib
VOLUME ["/bundles", "/cache"]
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["genretree"]
CMD ["serve", "/bundles/default", "--host", "0.0.0.0", "--port", "8000"]
