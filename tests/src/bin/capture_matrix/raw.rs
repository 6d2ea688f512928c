//! Packets of the job's own making: raw sockets, frames, a tunnel.

use crate::{checked, sent, set, socket, tcp::raw};
use anyhow::{Context as _, Result, bail, ensure};
use lockgate_tests::matrix::{HOST_MAC, POD_INTERFACE, POD_V4, PORT, TARGET_V4, TARGET_V6, TUNNEL_V4};
use socket2::{SockAddr, Socket};
use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
    process::Command,
};

pub(crate) fn attempt(name: &str, mark: &str) -> Result<String> {
    // A raw socket's address carries no port; the packet does.
    let (v4, v6) = (SocketAddr::from((TARGET_V4, 0)), SocketAddr::from((TARGET_V6, 0)));
    match name {
        "raw-v4-with-header" => {
            let packet = packet(POD_V4, mark);
            send(socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?.into(), &packet, &raw(v4))
        }
        "raw-v4-udp" => {
            let datagram = datagram(mark);
            send(socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP)?.into(), &datagram, &raw(v4))
        }
        "raw-v6-udp" => {
            const IPV6_CHECKSUM: i32 = 7; // linux/in6.h: where the kernel shall write it
            let socket = Socket::from(socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_UDP)?);
            set(&socket, libc::IPPROTO_IPV6, IPV6_CHECKSUM, &6i32)?;
            send(socket, &datagram(mark), &raw(v6))
        }
        "packet" => by_packet_socket(mark, false),
        "packet-past-the-queue" => by_packet_socket(mark, true),
        "tun" => by_tunnel(mark),
        other => bail!("nobody tries {other}"),
    }
}

fn send(socket: Socket, packet: &[u8], to: &SockAddr) -> Result<String> {
    socket.send_to(packet, to)?;
    sent()
}

/// A UDP header and its data, from port 40000; no checksum.
fn datagram(mark: &str) -> Vec<u8> {
    let mut bytes = 40_000u16.to_be_bytes().to_vec();
    bytes.extend(PORT.to_be_bytes());
    bytes.extend(((8 + mark.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(mark.as_bytes());
    bytes
}

/// An IPv4 packet around it.
fn packet(from: Ipv4Addr, mark: &str) -> Vec<u8> {
    let datagram = datagram(mark);
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + datagram.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, libc::IPPROTO_UDP as u8, 0, 0]);
    packet.extend(from.octets());
    packet.extend(TARGET_V4.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(datagram);
    packet
}

/// An Ethernet frame around that.
pub(crate) fn frame(mark: &str) -> Result<Vec<u8>> {
    let mut frame = HOST_MAC.to_vec();
    let own = std::process::Command::new("ip").args(["-brief", "link", "show", POD_INTERFACE]).output()?;
    let own = String::from_utf8_lossy(&own.stdout).into_owned();
    let mac = own.split_whitespace().nth(2).context("the pod's own Ethernet address")?;
    for byte in mac.split(':') {
        frame.push(u8::from_str_radix(byte, 16)?);
    }
    frame.extend([8, 0]);
    frame.extend(packet(POD_V4, mark));
    Ok(frame)
}

fn by_packet_socket(mark: &str, past_the_queue: bool) -> Result<String> {
    const PACKET_QDISC_BYPASS: i32 = 20; // linux/if_packet.h
    let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    if past_the_queue {
        set(&socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1i32)?;
    }
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = 0x0800u16.to_be();
    address.sll_ifindex = nix::net::if_::if_nametoindex(POD_INTERFACE)? as i32;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&HOST_MAC);
    let frame = frame(mark)?;
    // SAFETY: the frame and the address live through the call, with their lengths.
    let result = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    checked(result as i64)?;
    sent()
}

/// A device whose packets the pod's own kernel forwards.
fn by_tunnel(mark: &str) -> Result<String> {
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca; // linux/if_tun.h
    const IFF_TUN: i16 = 1;
    const IFF_NO_PI: i16 = 0x1000;
    const NAME: &str = "around0";
    let mut device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = IFF_TUN | IFF_NO_PI;
    // SAFETY: the request reads and writes the ifreq that it is given.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    let gateway = Ipv4Addr::from(u32::from(TUNNEL_V4) - 1);
    let script = format!("ip address add {gateway}/24 dev {NAME} && ip link set {NAME} up");
    let status = Command::new("sh").args(["-c", &script]).status()?;
    ensure!(status.success(), "{script}: {status}");
    File::create("/proc/sys/net/ipv4/ip_forward")?.write_all(b"1")?;
    device.write_all(&packet(TUNNEL_V4, mark))?;
    // The device goes with its descriptor, the packet has left by then.
    sent()
}
