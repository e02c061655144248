// SPDX-License-Identifier: Apache-2.0
// IPIP (RFC 2003) where the kernel has no device for it: the outer header is written when a packet leaves by our own link, and
// taken away where it comes in by an uplink; from there it goes on as received by our own link, so all rules see it.
//
// Where a packet goes stands in the destination of its frame: the permanent neighbour of a peer's address has the hardware address
// 02:49:A:B:C:D of the peer at A.B.C.D. So there is no table of ranges beside the kernel's routes.
//
// What is not surely ours is left to the stack: fragments, options, strangers.

#include "kernel.h"

// What holds for all packets: one entry.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct ipip_config);
} CONFIG SEC(".maps");

// The outer addresses of peers, with the uplinks to them: what others send is not taken.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 65536);
    __type(key, __be32);
    __type(value, struct ipip_peer);
} PEERS SEC(".maps");

#define ETH_LEN 14
#define OUTER_LEN 20
#define PROTOCOL_IPIP 4
#define DONT_FRAGMENT 0x4000
#define ECN 3
#define ECN_ECT_0 2
#define ECN_CE 3

// The sum of an IPv4 header without options, for its checksum (RFC 1071).
static __always_inline __u16 checksum(const struct ipv4 *ip)
{
    const __u16 *words = (const __u16 *)ip;
    __u32 sum = 0;
#pragma unroll
    for (int i = 0; i < OUTER_LEN / 2; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

SEC("classifier")
int ipip_out(struct __sk_buff *skb)
{
    struct frame *frame = (void *)(long)skb->data;
    if ((void *)(frame + 1) > (void *)(long)skb->data_end)
        return TC_ACT_SHOT;
    // Nobody else may send by our link: it leads nowhere but to peers.
    if (skb->protocol != htons(ETH_P_IP) || frame->to.mark != IPIP_MARK)
        return TC_ACT_SHOT;
    __u32 first = 0;
    const struct ipip_config *config = bpf_map_lookup_elem(&CONFIG, &first);
    __be32 to = frame->to.peer;
    const struct ipip_peer *peer = bpf_map_lookup_elem(&PEERS, &to);
    if (!config || !peer)
        return TC_ACT_SHOT;
    struct ipv4 outer = {
        .version_ihl = 0x45,
        // Congestion can be told of on the outer header, too; what is known already stays inside, as with the kernel's device.
        .tos = (frame->ip.tos & ECN) == ECN_CE ? ECN_ECT_0 : frame->ip.tos & ECN,
        .fragment = htons(DONT_FRAGMENT),
        .ttl = 64,
        .protocol = PROTOCOL_IPIP,
        .from = config->local,
        .to = to,
    };
    // Of a packet that the hardware cuts, the length is that of all, or none where it does not fit; who cuts it writes each one's.
    __u32 length = skb->len - ETH_LEN + OUTER_LEN;
    outer.length = length > 0xffff ? 0 : htons(length);
    outer.checksum = checksum(&outer);

    // Segments stay as long as they are: pods know that their packets have to be shorter.
    if (bpf_skb_adjust_room(skb, OUTER_LEN, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_FIXED_GSO))
        return TC_ACT_SHOT;
    if (bpf_skb_store_bytes(skb, ETH_LEN, &outer, sizeof(outer), 0))
        return TC_ACT_SHOT;
    return bpf_redirect_neigh(peer->link, 0, 0, 0);
}

SEC("classifier")
int ipip_in(struct __sk_buff *skb)
{
    if (skb->protocol != htons(ETH_P_IP))
        return TC_ACT_UNSPEC;
    struct frame *frame = (void *)(long)skb->data;
    if ((void *)(frame + 1) > (void *)(long)skb->data_end)
        return TC_ACT_UNSPEC;
    const struct ipv4 *outer = &frame->ip;
    if (outer->protocol != PROTOCOL_IPIP || outer->version_ihl != 0x45)
        return TC_ACT_UNSPEC;
    __u32 first = 0;
    const struct ipip_config *config = bpf_map_lookup_elem(&CONFIG, &first);
    if (!config || outer->to != config->local)
        return TC_ACT_UNSPEC;
    if (outer->fragment & ~htons(DONT_FRAGMENT))
        return TC_ACT_UNSPEC;
    __be32 from = outer->from;
    if (!bpf_map_lookup_elem(&PEERS, &from))
        return TC_ACT_UNSPEC;
    __u8 ecn = outer->tos & ECN;
    __u8 inner = 0;
    if (bpf_skb_load_bytes(skb, ETH_LEN + OUTER_LEN, &inner, 1) || inner >> 4 != 4)
        return TC_ACT_SHOT;
    if (bpf_skb_adjust_room(skb, -OUTER_LEN, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
        return TC_ACT_SHOT;
    // A packet that cannot tell of congestion is dropped instead (RFC 6040).
    if (ecn == ECN_CE && !bpf_skb_ecn_set_ce(skb))
        return TC_ACT_SHOT;
    if (bpf_skb_store_bytes(skb, 0, config->mac, sizeof(config->mac), 0))
        return TC_ACT_SHOT;
    return bpf_redirect(config->link, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Apache-2.0";
