// SPDX-License-Identifier: Apache-2.0
// What programs need of the kernel: its own header's words, and the functions that they call, by number (linux/bpf.h).
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
#define htons(value) __builtin_bswap16(value)

#define ETH_P_IP 0x0800

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 at, const void *from, __u32 len, __u64 flags) =
    (void *)BPF_FUNC_skb_store_bytes;
static long (*const bpf_skb_load_bytes)(const void *skb, __u32 at, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 by, __u32 mode, __u64 flags) =
    (void *)BPF_FUNC_skb_adjust_room;
static long (*const bpf_skb_ecn_set_ce)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_ecn_set_ce;
static long (*const bpf_redirect)(__u32 link, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const bpf_redirect_neigh)(__u32 link, struct bpf_redir_neigh *hop, int len, __u64 flags) =
    (void *)BPF_FUNC_redirect_neigh;

// An IPv4 header without options (RFC 791).
struct ipv4 {
    __u8 version_ihl;
    __u8 tos;
    __be16 length;
    __be16 id;
    __be16 fragment;
    __u8 ttl;
    __u8 protocol;
    __be16 checksum;
    __be32 from;
    __be32 to;
} __attribute__((packed, aligned(2)));

// A frame's head (IEEE 802.3). `to` names a peer where it is one of ours.
struct frame {
    struct {
        __be16 mark;
        __be32 peer;
    } __attribute__((packed)) to;
    __u8 from[6];
    __be16 type;
    struct ipv4 ip;
} __attribute__((packed, aligned(2)));

// The first two bytes of a hardware address that names a peer: 02:49.
#define IPIP_MARK htons(0x0249)

// What the programs of IPIP are told (`ripstop_bpf::ipip::Config`).
struct ipip_config {
    __be32 local;   // this node's outer address
    __u32 link;     // index of our own link
    __u8 mac[6];    // its hardware address
    __u8 unused[2];
};

// What they know of an outer address of a peer (`ripstop_bpf::ipip::Peer`).
struct ipip_peer {
    __u32 link;     // index of the uplink to it
};
