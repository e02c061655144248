//! IPVS: `IPVS_CMD_*` of the generic netlink family `IPVS` (linux/ip_vs.h, linux/genetlink.h).

use std::net::{IpAddr, SocketAddr};

use ripstop_netmodel::{IpvsDestination, IpvsService, VirtualServer};
use ripstop_types::Family;

use super::{AF_INET, AF_INET6, address_family};
use crate::netlink::uapi::*;
use crate::netlink::{Attrs, Message, Reply, ip_bytes, read_ip};

/// Bytes of `struct genlmsghdr`.
const GENL: usize = 4;

/// Bytes of `union nf_inet_addr`.
const ADDRESS: usize = 16;

/// Asks for the number of the family; the kernel loads its module if need be.
pub(crate) fn get_family() -> Message {
    Message::new(GENL_ID_CTRL, 0, &[CTRL_CMD_GETFAMILY, 1, 0, 0]).str(CTRL_ATTR_FAMILY_NAME, IPVS_GENL_NAME)
}

/// The number that was asked for.
pub(crate) fn read_family(reply: Reply<'_>) -> Option<u16> {
    let (_, attrs) = reply.split::<GENL>()?;
    attrs.get(CTRL_ATTR_FAMILY_ID)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn command(family: u16, command: u8) -> Message {
    Message::new(family, 0, &[command, IPVS_GENL_VERSION, 0, 0])
}

/// Makes a virtual server, or changes the one that is there.
pub(crate) fn write_service(family: u16, service: &IpvsService, is_new: bool) -> Message {
    let flags = if service.persistence.is_some() { IP_VS_SVC_F_PERSISTENT } else { 0 };
    // All flags, and what they are.
    let flags = [flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
    // A client is one address. Of IPv6 the length of its prefix is told, in host order.
    let netmask = if service.server.ip.is_ipv4() { u32::MAX } else { 128 };
    command(family, if is_new { IPVS_CMD_NEW_SERVICE } else { IPVS_CMD_SET_SERVICE }).nest(IPVS_CMD_ATTR_SERVICE, |m| {
        named(m, &service.server)
            .str(IPVS_SVC_ATTR_SCHED_NAME, &service.scheduler)
            .bytes(IPVS_SVC_ATTR_FLAGS, &flags)
            .u32(IPVS_SVC_ATTR_TIMEOUT, service.persistence.unwrap_or(0))
            .u32(IPVS_SVC_ATTR_NETMASK, netmask)
    })
}

/// Removes a virtual server with its destinations.
pub(crate) fn delete_service(family: u16, server: &VirtualServer) -> Message {
    command(family, IPVS_CMD_DEL_SERVICE).nest(IPVS_CMD_ATTR_SERVICE, |m| named(m, server))
}

/// Makes a destination, or changes the one that is there.
pub(crate) fn write_destination(family: u16, destination: &IpvsDestination, is_new: bool) -> Message {
    let method = if destination.translated { IP_VS_CONN_F_MASQ } else { IP_VS_CONN_F_DROUTE };
    command(family, if is_new { IPVS_CMD_NEW_DEST } else { IPVS_CMD_SET_DEST })
        .nest(IPVS_CMD_ATTR_SERVICE, |m| named(m, &destination.server))
        .nest(IPVS_CMD_ATTR_DEST, |m| {
            to(m, destination.to)
                .u32(IPVS_DEST_ATTR_FWD_METHOD, method)
                .u32(IPVS_DEST_ATTR_WEIGHT, destination.weight)
                .u32(IPVS_DEST_ATTR_U_THRESH, 0)
                .u32(IPVS_DEST_ATTR_L_THRESH, 0)
        })
}

/// Removes a destination. Connections that it has go on.
pub(crate) fn delete_destination(family: u16, server: &VirtualServer, endpoint: SocketAddr) -> Message {
    command(family, IPVS_CMD_DEL_DEST)
        .nest(IPVS_CMD_ATTR_SERVICE, |m| named(m, server))
        .nest(IPVS_CMD_ATTR_DEST, |m| to(m, endpoint))
}

/// Asks for all virtual servers.
pub(crate) fn dump_services(family: u16) -> Message {
    command(family, IPVS_CMD_GET_SERVICE)
}

/// Asks for all destinations of one.
pub(crate) fn dump_destinations(family: u16, server: &VirtualServer) -> Message {
    command(family, IPVS_CMD_GET_DEST).nest(IPVS_CMD_ATTR_SERVICE, |m| named(m, server))
}

fn named(message: Message, server: &VirtualServer) -> Message {
    address(
        message
            .u16(IPVS_SVC_ATTR_AF, address_family(Family::of(server.ip)).into())
            .u16(IPVS_SVC_ATTR_PROTOCOL, server.protocol.into()),
        IPVS_SVC_ATTR_ADDR,
        server.ip,
    )
    .be16(IPVS_SVC_ATTR_PORT, server.port)
}

fn to(message: Message, endpoint: SocketAddr) -> Message {
    address(message, IPVS_DEST_ATTR_ADDR, endpoint.ip())
        .be16(IPVS_DEST_ATTR_PORT, endpoint.port())
        .u16(IPVS_DEST_ATTR_ADDR_FAMILY, address_family(Family::of(endpoint.ip())).into())
}

/// An address at its full width, whatever the family.
fn address(message: Message, kind: u16, ip: IpAddr) -> Message {
    message.bytes(kind, &ip_bytes(ip).0)
}

fn read_address(attrs: Attrs<'_>, kind: u16, family: u8) -> Option<IpAddr> {
    let bytes: &[u8; ADDRESS] = attrs.get(kind)?.first_chunk()?;
    match family {
        AF_INET => read_ip(&bytes[..4]),
        AF_INET6 => read_ip(bytes),
        _ => None,
    }
}

/// A virtual server from a message; `None` for one that is known by a mark of packets.
pub(crate) fn read_service(reply: Reply<'_>) -> Option<IpvsService> {
    let (_, attrs) = reply.split::<GENL>()?;
    let service = attrs.nested(IPVS_CMD_ATTR_SERVICE);
    let family = u8::try_from(service.u16(IPVS_SVC_ATTR_AF)?).ok()?;
    let ip = read_address(service, IPVS_SVC_ATTR_ADDR, family)?;
    let protocol = u8::try_from(service.u16(IPVS_SVC_ATTR_PROTOCOL)?).ok()?;
    let flags = service.u32(IPVS_SVC_ATTR_FLAGS)?;
    let timeout = service.u32(IPVS_SVC_ATTR_TIMEOUT)?;
    Some(IpvsService {
        server: VirtualServer { ip, protocol, port: service.be16(IPVS_SVC_ATTR_PORT)? },
        scheduler: service.str(IPVS_SVC_ATTR_SCHED_NAME)?.into(),
        persistence: (flags & IP_VS_SVC_F_PERSISTENT != 0).then_some(timeout),
    })
}

/// A destination of a virtual server from a message.
pub(crate) fn read_destination(reply: Reply<'_>, server: &VirtualServer) -> Option<IpvsDestination> {
    let (_, attrs) = reply.split::<GENL>()?;
    let destination = attrs.nested(IPVS_CMD_ATTR_DEST);
    // Kernels before 4.1 do not say, and have none of another family.
    let family = destination.u16(IPVS_DEST_ATTR_ADDR_FAMILY).and_then(|family| u8::try_from(family).ok());
    let family = family.unwrap_or(address_family(Family::of(server.ip)));
    let ip = read_address(destination, IPVS_DEST_ATTR_ADDR, family)?;
    Some(IpvsDestination {
        server: *server,
        to: SocketAddr::new(ip, destination.be16(IPVS_DEST_ATTR_PORT)?),
        weight: destination.u32(IPVS_DEST_ATTR_WEIGHT)?,
        translated: destination.u32(IPVS_DEST_ATTR_FWD_METHOD)? & IP_VS_CONN_F_FWD_MASK == IP_VS_CONN_F_MASQ,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{message_bytes, reply_to};

    fn service(ip: &str, persistence: Option<u32>) -> IpvsService {
        let server = VirtualServer { ip: ip.parse().unwrap(), protocol: 6, port: 0x1234 };
        IpvsService { server, scheduler: "rr".into(), persistence }
    }

    /// Attributes as linux/ip_vs.h counts them, on a machine of this byte order.
    fn attribute(kind: u16, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + data.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    const NESTED: u16 = 0x8000;

    #[test]
    fn a_virtual_server_is_written_as_the_header_says() {
        let message = write_service(28, &service("10.96.0.10", Some(10_800)), true);
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 96, 0, 10]);
        let inner = [
            attribute(1, &2u16.to_ne_bytes()),
            attribute(2, &6u16.to_ne_bytes()),
            attribute(3, &address),
            attribute(4, &[0x12, 0x34]),
            attribute(6, b"rr\0"),
            attribute(7, &[1u32.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat()),
            attribute(8, &10_800u32.to_ne_bytes()),
            attribute(9, &[255; 4]),
        ];
        let expected = [vec![1, 1, 0, 0], attribute(1 | NESTED, &inner.concat())].concat();
        assert_eq!(message_bytes(&message), (28, expected));
    }

    #[test]
    fn a_destination_is_written_as_the_header_says() {
        let server = service("fd00:96::10", None).server;
        let to = "[fd00::2]:8080".parse().unwrap();
        let destination = IpvsDestination { server, to, weight: 1, translated: true };
        let octets = |ip: &str| ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let named = [
            attribute(1, &10u16.to_ne_bytes()),
            attribute(2, &6u16.to_ne_bytes()),
            attribute(3, &octets("fd00:96::10")),
            attribute(4, &[0x12, 0x34]),
        ];
        let endpoint = [
            attribute(1, &octets("fd00::2")),
            attribute(2, &8080u16.to_be_bytes()),
            attribute(11, &10u16.to_ne_bytes()),
            attribute(3, &[0; 4]),
            attribute(4, &1u32.to_ne_bytes()),
            attribute(5, &[0; 4]),
            attribute(6, &[0; 4]),
        ];
        let nested = |kind: u16, inner: &[Vec<u8>]| attribute(kind | NESTED, &inner.concat());
        let expected = [vec![5, 1, 0, 0], nested(1, &named), nested(2, &endpoint)].concat();
        assert_eq!(message_bytes(&write_destination(28, &destination, true)), (28, expected));
        let gone = [vec![7, 1, 0, 0], nested(1, &named), nested(2, &endpoint[..3])].concat();
        assert_eq!(message_bytes(&delete_destination(28, &server, to)), (28, gone));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for service in [service("10.96.0.10", None), service("fd00:96::10", Some(60))] {
            let (kind, body) = message_bytes(&write_service(28, &service, false));
            assert_eq!(read_service(reply_to(kind, &body)), Some(service.clone()));
            for (to, translated) in [("10.244.1.2:8080", true), ("[fd00::2]:53", false)] {
                let to = to.parse().unwrap();
                let destination = IpvsDestination { server: service.server, to, weight: 7, translated };
                let (kind, body) = message_bytes(&write_destination(28, &destination, false));
                assert_eq!(read_destination(reply_to(kind, &body), &service.server), Some(destination));
            }
        }
    }

    #[test]
    fn a_server_known_by_a_mark_is_none_of_ours() {
        let inner = [attribute(1, &2u16.to_ne_bytes()), attribute(5, &7u32.to_ne_bytes()), attribute(6, b"rr\0")];
        let body = [vec![1, 1, 0, 0], attribute(1 | NESTED, &inner.concat())].concat();
        assert_eq!(read_service(reply_to(28, &body)), None);
    }
}
