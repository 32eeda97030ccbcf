# The commands, with everything that they need: docker build -t ofa-frontier . &&
# docker run --rm -v "$PWD/runs:/work/runs" ofa-frontier search target=v100_b64
FROM python:3.11-slim
ARG EXTRAS=all
WORKDIR /opt/ofa-frontier
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY search search
COPY supernet supernet
COPY latency latency
COPY configs configs
RUN pip install --no-cache-dir ".[${EXTRAS}]" && useradd --create-home user && install -d -o user /work/runs
USER user
WORKDIR /work
ENTRYPOINT ["ofa-frontier"]
CMD ["--help"]
