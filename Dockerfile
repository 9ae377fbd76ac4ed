# Images of Outrigger: one for each program, and one that holds a network namespace whose traffic a sidecar decides about.
# docs/COMPOSE.md says how they are used.
#
#   docker build --target sidecar  -t outrigger-sidecar .
#   docker build --target ingress  -t outrigger-ingress .
#   docker build --target tool     -t outrigger .              authority, tokens, examples
#   docker build --target redirect -t outrigger-redirect .
#
# `--build-arg PROGRAMS=prebuilt --build-arg RUST_IMAGE=debian:bookworm-slim` takes the programs from dist/ of the build context
# instead of compiling them.
# Instructions that the classic builder knows, so that it can be had without BuildKit.

ARG PROGRAMS=compiled
# Debian, whose C library can be linked statically.
ARG RUST_IMAGE=rust:1.95-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim
# What the programs stand on. Static ones need nothing; others need a base with their C library.
ARG BASE_IMAGE=scratch

# ---- the programs ----------------------------------------------------------------------------------------------------
FROM ${RUST_IMAGE} AS programs
ARG PROGRAMS
WORKDIR /src
COPY . .
# Where a proxy signs for the world: its certificate as extra-ca.pem in the build context.
RUN if [ -f extra-ca.pem ]; then cat extra-ca.pem >> /etc/ssl/certs/ca-certificates.crt; fi
# Paths of this machine and times are not part of a program: the same source makes the same bytes.
ENV CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt \
    CARGO_INCREMENTAL=0 \
    SOURCE_DATE_EPOCH=0 \
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/src=outrigger --remap-path-prefix=/usr/local/cargo=cargo"
RUN if [ "$PROGRAMS" = prebuilt ]; then cp -r dist /programs; exit; fi; \
    made=$(./release.sh) \
 && mkdir /programs \
 && for name in outrigger-sidecar outrigger-ingress outrigger; do cp "$made/$name" /programs/; done \
 && rm -rf target

# ---- what is not ours ------------------------------------------------------------------------------------------------
# The world's authorities, for identity providers and inspected egress; nftables for `redirect`.
FROM ${DEBIAN_IMAGE} AS debian
RUN if ! command -v nft || ! [ -f /etc/ssl/certs/ca-certificates.crt ]; then \
      apt-get update && apt-get install -y --no-install-recommends nftables ca-certificates && rm -rf /var/lib/apt/lists/*; \
    fi \
 && mkdir -p /own/lib/outrigger

# ---- what all images have --------------------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS base
COPY --from=debian /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
# Names first in /etc/hosts, as everywhere.
COPY compose/nsswitch.conf /etc/
COPY sidecar/policy/ /etc/outrigger/
# A volume that is mounted here first belongs to who writes it.
COPY --from=debian --chown=1337:1337 /own/ /var/
ARG VERSION=dev
LABEL org.opencontainers.image.title="Outrigger" \
      org.opencontainers.image.description="A mesh for MCP servers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
WORKDIR /var/lib/outrigger
# Of nobody on the host. The rules of `redirect` go by it: nothing else may run as this user.
USER 1337:1337

FROM base AS sidecar
COPY --from=programs /programs/outrigger-sidecar /outrigger-sidecar
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["/outrigger-sidecar", "health"]
EXPOSE 8443 15020
ENTRYPOINT ["/outrigger-sidecar"]

FROM base AS ingress
COPY --from=programs /programs/outrigger-ingress /outrigger-ingress
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["/outrigger-ingress", "health"]
EXPOSE 8080 8444 9090
ENTRYPOINT ["/outrigger-ingress"]

FROM base AS tool
COPY --from=programs /programs/outrigger /outrigger
EXPOSE 8440 9440
ENTRYPOINT ["/outrigger"]

# The one image with a shell, and the one that needs root, with NET_ADMIN and nothing else: it installs rules and waits.
FROM debian AS redirect
COPY --from=programs /programs/outrigger-sidecar /outrigger-sidecar
HEALTHCHECK --interval=1s --timeout=4s --start-period=10s CMD ["nft", "list", "table", "inet", "outrigger"]
ENTRYPOINT ["/outrigger-sidecar", "redirect"]
CMD ["install", "--dns-port", "15053", "--inbound", "8443,15020", "--hold"]
