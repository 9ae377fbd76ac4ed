# Orders and payments. No sidecar in here, and nothing that knows of a mesh but the names of other services.
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE}
WORKDIR /srv
RUN python3 -c 'import mcp' 2>/dev/null || pip install --no-cache-dir 'mcp>=2.3,<3'
COPY order.py payment.py ./
ENTRYPOINT ["python3"]
