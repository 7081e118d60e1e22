package steer

// The object is committed: only a change of bpf/ needs clang. -mcpu=v2 loads on
// every kernel from 6.1 on, with and without a JIT.
//go:generate go tool bpf2go -target bpfel -type action -type settings -type addr -type fragment -type prefix4 -type prefix6 -type event -type slot_hits steer bpf/steer.c -- -O2 -g -Wall -Werror -mcpu=v2 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
