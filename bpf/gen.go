// Package bpf holds the programs that run in the kernel, and what bpf2go makes
// of them: the object, and Go types for every layout that both sides share.
//
// There is no logic here; pkg/kernel loads, attaches and talks to it. clang is
// needed only to regenerate. One little-endian object serves amd64 and arm64.
package bpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -target bpfel -type proc -type daemon_settings -type origin -type flow -type share -type listener -type dest4_key -type dest6_key -type dest_value -type verdict -type transport -type exe_key -type cgroup_name -type socket_file -type unix_path_key -type unix_file_key -type name_value -type refusal -type owned -type direct_total -type counter -type event_header -type event_kind -type event -type event_flags Headgate headgate.bpf.c -- -I./headers -O2 -g -mcpu=v3 -Wall -Werror
