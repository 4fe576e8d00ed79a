# The command in an image of its own, for hosts that run everything in containers. It needs the host's cgroup namespace,
# network namespace and pid namespace, and the capabilities of pkg/kernel.RequiredCapabilities:
#   docker run --pid=host --network=host --cgroupns=host --cap-drop=ALL \
#     --cap-add=BPF --cap-add=PERFMON --cap-add=NET_ADMIN --cap-add=SYS_PTRACE --cap-add=DAC_READ_SEARCH \
#     -v /sys/fs/bpf:/sys/fs/bpf -v /sys/fs/cgroup:/sys/fs/cgroup -v /etc/headgate:/etc/headgate:ro -v /var/lib/headgate:/var/lib/headgate headgate
# It has not been built or run by the tests.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags=-s -o /headgate ./cmd/headgate

FROM scratch
COPY --from=build /headgate /headgate
ENTRYPOINT ["/headgate"]
CMD ["daemon"]
