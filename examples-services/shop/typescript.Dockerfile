# The inventory. No sidecar in here, and nothing that knows of a mesh.
ARG NODE_IMAGE=node:24-slim
FROM ${NODE_IMAGE}
WORKDIR /srv
COPY package.json inventory.ts ./
RUN node --input-type=module -e "await import('@modelcontextprotocol/server')" 2>/dev/null || npm install --omit=dev
ENTRYPOINT ["node"]
