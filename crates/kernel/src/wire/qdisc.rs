//! Queueing disciplines: `RTM_*QDISC` (linux/pkt_sched.h), a token bucket filter at the root.

use ripstop_netmodel::{Ns, Qdisc};

use super::Names;
use crate::netlink::uapi::*;
use crate::netlink::{Message, Reply};

const TCMSG: usize = 20;
/// `struct tc_tbf_qopt`: two `tc_ratespec` of 12 bytes, then limit, buffer and mtu.
const TBF_QOPT: usize = 36;

/// Handle of every root discipline of ours: 5200:.
pub(crate) const HANDLE: u32 = 0x5200_0000;

/// A queueing discipline as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawQdisc {
    pub(crate) index: u32,
    pub(crate) handle: u32,
    pub(crate) root: bool,
    pub(crate) kind: Box<str>,
    /// Rate in bits per second, bucket and limit in bytes, of a token bucket filter.
    pub(crate) bucket: Option<(u64, u32, u32)>,
}

impl RawQdisc {
    pub(crate) fn read(reply: Reply<'_>) -> Option<Self> {
        let (header, attrs) = reply.split::<TCMSG>()?;
        let u32_at = |at: usize| header[at..].first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
        let kind = attrs.str(TCA_KIND)?;
        let options = attrs.nested(TCA_OPTIONS);
        let bucket = match (kind, options.get(TCA_TBF_PARMS).and_then(|b| b.first_chunk::<TBF_QOPT>())) {
            ("tbf", Some(parameters)) => {
                let at = |at: usize| parameters[at..].first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
                let bytes = options.u64(TCA_TBF_RATE64).unwrap_or(u64::from(at(8)));
                // The bucket is kept as a time in ticks of 64 ns (PSCHED_SHIFT).
                let burst = u128::from(at(28)) * 64 * u128::from(bytes) / 1_000_000_000;
                Some((bytes * 8, u32::try_from(burst).unwrap_or(u32::MAX), at(24)))
            }
            _ => None,
        };
        Some(Self { index: u32_at(4), handle: u32_at(8), root: u32_at(12) == TC_H_ROOT, kind: kind.into(), bucket })
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.root && self.handle == HANDLE
    }

    pub(crate) fn to_qdisc(&self, ns: &Ns, names: &Names) -> Option<Qdisc> {
        let (rate, burst, limit) = self.bucket.filter(|_| self.is_ours())?;
        Some(Qdisc { ns: ns.clone(), link: names.get(&self.index)?.clone(), rate, burst, limit })
    }
}

fn header(index: u32, handle: u32, parent: u32) -> [u8; TCMSG] {
    let mut header = [0; TCMSG];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

/// Makes it; `flags` say what happens where there is one (`NLM_F_EXCL` or `NLM_F_REPLACE`).
pub(crate) fn create(qdisc: &Qdisc, index: u32, flags: u16) -> Message {
    let bytes = (qdisc.rate / 8).max(1);
    let mut parameters = [0; TBF_QOPT];
    parameters[1] = TC_LINKLAYER_ETHERNET;
    parameters[8..12].copy_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_ne_bytes());
    parameters[24..28].copy_from_slice(&qdisc.limit.to_ne_bytes());
    Message::new(RTM_NEWQDISC, NLM_F_CREATE | flags, &header(index, HANDLE, TC_H_ROOT))
        .str(TCA_KIND, "tbf")
        .nest(TCA_OPTIONS, |m| {
            m.bytes(TCA_TBF_PARMS, &parameters).u32(TCA_TBF_BURST, qdisc.burst).u64(TCA_TBF_RATE64, bytes)
        })
}

pub(crate) fn delete(index: u32) -> Message {
    Message::new(RTM_DELQDISC, 0, &header(index, HANDLE, TC_H_ROOT))
}

/// Asks for the disciplines of one link, or of all.
pub(crate) fn dump(index: Option<u32>) -> Message {
    Message::new(RTM_GETQDISC, 0, &header(index.unwrap_or(0), 0, 0))
}
