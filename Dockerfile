# merge-search for CPUs, or with --build-arg TORCH=cuda for NVIDIA's GPUs; see docs/how-to/container.md.
FROM python:3.12-slim

# Bubblewrap is a layer of the sandbox; the compiler makes merging on a CPU faster, and compiles kernels for a GPU.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# PyPI's torch is that for CUDA, whose libraries it brings.
ARG TORCH=cpu
RUN case "$TORCH" in \
        cpu) pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu ;; \
        cuda) pip install --no-cache-dir torch==2.13.0 ;; \
        *) echo "TORCH is cpu or cuda, not $TORCH" >&2; exit 1 ;; \
    esac

ARG EXTRAS=
COPY . /merge-search
RUN pip install --no-cache-dir "/merge-search${EXTRAS:+[$EXTRAS]}"

# Whoever runs it, with --user too, may write here.
RUN mkdir --mode 1777 /work /cache && mkdir --mode 1777 /cache/huggingface
ENV USER=searcher HOME=/cache HF_HOME=/cache/huggingface
USER nobody
WORKDIR /work
ENTRYPOINT ["merge-search"]
