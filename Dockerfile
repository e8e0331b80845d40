# The daemon in a small image without build tools.
#
#   docker build -t dispatch .
#   docker run --init -p 8765:8765 -v dispatch-data:/data \
#       -v ./dispatch.toml:/etc/dispatch.toml:ro -e DISPATCH_CONFIG=/etc/dispatch.toml dispatch
#
# In a container the daemon has to listen beyond loopback, and there it refuses to start unless its
# configuration has an [auth] section: mount one that has, as above. DISPATCH_INSECURE=true in its
# place lets in whoever reaches the port. `--init` reaps what an agent's program leaves behind.

FROM python:3.13-slim AS build
RUN python -m venv /opt/dispatch
WORKDIR /src
# The locked packages have a layer of their own, which a change of our code leaves as it is.
COPY scripts/locks/run.txt ./
RUN /opt/dispatch/bin/pip install --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary :all: -r run.txt
COPY pyproject.toml README.md LICENSE ./
COPY dispatch ./dispatch
RUN /opt/dispatch/bin/pip install --no-cache-dir --disable-pip-version-check \
        --no-index --no-deps --no-build-isolation . \
    && /opt/dispatch/bin/pip uninstall --yes --quiet flit_core pip

FROM python:3.13-slim
# A fixed number, so that a volume's owner is the same in every build of the image.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin dispatch \
    && install --directory --owner dispatch --group dispatch --mode 0700 /data
COPY --from=build /opt/dispatch /opt/dispatch
ENV PATH=/opt/dispatch/bin:$PATH PYTHONUNBUFFERED=1
# By number, so that an orchestrator can tell that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8765
# Any answer but success raises, and so fails. By address, because `localhost` may try IPv6 first,
# and without proxies, because an http_proxy meant for agents would catch this request too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-c", \
    "from urllib.request import *; build_opener(ProxyHandler({})).open('http://127.0.0.1:8765/health', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["dispatch", "serve", "--host", "0.0.0.0", "--data", "/data"]
