# syntax=docker/dockerfile:1
# A broker node. `docker build -t clarion .`; with a list of all that is in it: `docker buildx build --sbom=true --provenance=true .`
ARG RUST=1.95.0
ARG DEBIAN=bookworm
# The list names what Cargo.lock has as well: the binaries themselves do not tell.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

FROM rust:${RUST}-${DEBIAN} AS build
WORKDIR /build
# Names of functions stay for backtraces; lines of code are most of the size.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
# The dependencies, in a layer of their own that only a change of manifests makes anew: everything of ours is empty here.
COPY Cargo.toml Cargo.lock ./
COPY heap/Cargo.toml heap/
COPY protocol/Cargo.toml protocol/
COPY ring/Cargo.toml ring/
COPY bus/Cargo.toml bus/
COPY hub/Cargo.toml hub/
COPY broker/Cargo.toml broker/
COPY publisher-cli/Cargo.toml publisher-cli/
COPY testkit/Cargo.toml testkit/
COPY loadtest/Cargo.toml loadtest/
COPY fuzz/Cargo.toml fuzz/
RUN for crate in */; do mkdir "$crate/src" && touch "$crate/src/lib.rs" && echo 'fn main() {}' > "$crate/src/main.rs"; done \
    && cargo build --release --locked -p clarion-broker -p clarion-cli -p clarion-loadtest \
    && rm -rf */src target/release/.fingerprint/clarion-*
COPY . .
RUN cargo build --release --locked -p clarion-broker -p clarion-cli -p clarion-loadtest

# What runs HEALTHCHECK: the image below has no shell and no other program.
FROM busybox:1.37-musl AS tools

# libc, the certificates of public authorities, and a user without rights (65532).
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Clarion" \
      org.opencontainers.image.description="Pushes messages from any backend to the browsers and apps of the people who should see them" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=tools /bin/wget /usr/bin/wget
COPY --from=build /build/target/release/clarion-broker /build/target/release/clarion /build/target/release/clarion-loadtest /usr/local/bin/
# Beyond loopback the broker insists on keys: CLARION_JWT_SECRET or CLARION_JWKS_URL, and CLARION_API_KEYS.
ENV CLARION_LISTEN=0.0.0.0:8000 \
    CLARION_ADMIN_LISTEN=0.0.0.0:8001 \
    CLARION_LOG_FORMAT=json
USER 65532:65532
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/bin/wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8001/health/live"]
ENTRYPOINT ["/usr/local/bin/clarion-broker"]
