# The services, the payment gateway and `saga` in one image: which one runs is the command.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the layer; what the image needs is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release -p saga-services -p saga-cli --bins --features saga-core/ssl \
    && mkdir /out \
    && cp target/release/order target/release/payment target/release/shipping target/release/gateway \
        target/release/saga /out/

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home saga \
    && install -d -o saga -g saga /data
COPY --from=build /out/ /usr/local/bin/
# A SQLite file without a path of its own lands here.
WORKDIR /data
USER saga
CMD ["order", "--help"]
