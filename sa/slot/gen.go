package slot

// The object is committed: only a change of bpf/fence.c needs clang. -mcpu=v2
// loads on every kernel from 6.1 on.
//go:generate go tool bpf2go -target bpfel fence bpf/fence.c -- -O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
