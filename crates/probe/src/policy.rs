//! Which addresses may be dialled: `network.refuse`.
//!
//! Checked on each address at the moment of dialling, at each redirect, on `connect_to` and on literals
//! behind a proxy; not on proxies and resolvers, which the operator named.

use ipnet::IpNet;
use sitemon_model::tree::{At, Faults};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The names that stand for ranges, in the order of the reference.
const NAMES: &[(&str, &[&str])] = &[
    ("metadata", &["169.254.169.254/32", "fd00:ec2::254/128", "100.100.100.200/32"]),
    ("link-local", &["169.254.0.0/16", "fe80::/10"]),
    ("loopback", &["127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"]),
    ("private", &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10"]),
    ("multicast", &["224.0.0.0/4", "ff00::/8"]),
    (
        "reserved",
        &[
            "0.0.0.0/8",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "240.0.0.0/4",
            "100::/64",
            "2001:2::/48",
            "2001:10::/28",
            "2001:20::/28",
            "2001:db8::/32",
            "3fff::/20",
            "5f00::/16",
        ],
    ),
];

/// Which addresses are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The ranges with the word in the configuration that refuses them.
    refused: Vec<(IpNet, Box<str>)>,
}

impl Default for Policy {
    /// `[metadata, link-local]`
    fn default() -> Self {
        Self::of(&["metadata", "link-local"]).unwrap_or(Self { refused: Vec::new() })
    }
}

impl Policy {
    /// Refuses nothing.
    pub const fn open() -> Self {
        Self { refused: Vec::new() }
    }

    /// Reads the list `network.refuse`, noting each fault: names, addresses and ranges.
    pub fn parse(at: &At<'_>, faults: &mut Faults) -> Self {
        let mut policy = Self::open();
        for item in at.one_or_list(faults) {
            let Some(word) = item.str(faults) else { continue };
            if !policy.add(word) {
                let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
                item.expected(
                    faults,
                    &format!("one of: {}, or a range of addresses such as 10.0.0.0/8", names.join(", ")),
                );
            }
        }
        policy
    }

    /// Of words as they stand in the configuration; `None` where one is not understood.
    pub fn of(words: &[&str]) -> Option<Self> {
        let mut policy = Self::open();
        words.iter().all(|word| policy.add(word)).then_some(policy)
    }

    /// The word of the configuration that refuses this address; `None` where it may be dialled. Addresses
    /// of IPv6 that hold one of IPv4 (mapped, compatible, NAT64) count as both.
    pub fn refuses(&self, address: IpAddr) -> Option<&str> {
        let held = match address {
            IpAddr::V6(v6) => embedded(v6).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        let hit =
            |address: IpAddr| self.refused.iter().find(|(net, _)| net.contains(&address)).map(|(_, word)| &**word);
        hit(address).or_else(|| held.and_then(hit))
    }

    fn add(&mut self, word: &str) -> bool {
        if let Some((_, nets)) = NAMES.iter().find(|(name, _)| *name == word) {
            self.refused.extend(nets.iter().filter_map(|net| Some((net.parse().ok()?, word.into()))));
            return true;
        }
        let net = word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
        match net {
            Some(net) => {
                // `::ffff:10.0.0.0/104` is the range of IPv4 that it holds.
                if let IpNet::V6(v6) = net
                    && let Some(v4) = v6.addr().to_ipv4_mapped()
                    && v6.prefix_len() >= 96
                    && let Ok(v4) = ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96)
                {
                    self.refused.push((IpNet::V4(v4), word.into()));
                }
                self.refused.push((net.trunc(), word.into()));
                true
            }
            None => false,
        }
    }
}

/// The address of IPv4 inside one of IPv6: mapped `::ffff:0:0/96` (RFC 4291), compatible `::/96`, NAT64
/// `64:ff9b::/96` (RFC 6052) and `64:ff9b:1::/48` with a /96 inside (RFC 8215), 6to4 `2002::/16` (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let low = Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
    match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Some(low),
        // `::` and `::1` are themselves, no addresses of IPv4.
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => Some(low),
        [0x2002, high, lower, ..] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(lower))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &[&str], address: &str, refused_by: Option<&str>) {
        let policy = Policy::of(words).unwrap();
        assert_eq!(policy.refuses(address.parse().unwrap()), refused_by, "{words:?} {address}");
    }

    #[test]
    fn ranges() {
        let default = &["metadata", "link-local"];
        check(default, "169.254.169.254", Some("metadata"));
        check(default, "169.254.1.1", Some("link-local"));
        check(default, "fe80::1", Some("link-local"));
        check(default, "fd00:ec2::254", Some("metadata"));
        check(default, "100.100.100.200", Some("metadata"));
        check(default, "::ffff:169.254.169.254", Some("metadata"));
        check(default, "64:ff9b::a9fe:a9fe", Some("metadata"));
        check(default, "64:ff9b:1::a9fe:a9fe", Some("metadata"));
        check(default, "2002:a9fe:a9fe::1", Some("metadata"));
        check(default, "127.0.0.1", None);
        check(default, "10.0.0.1", None);
        check(&["loopback"], "127.8.8.8", Some("loopback"));
        check(&["loopback"], "0.0.0.0", Some("loopback"));
        check(&["loopback"], "::", Some("loopback"));
        check(&["loopback"], "::1", Some("loopback"));
        check(&["loopback"], "::ffff:127.0.0.1", Some("loopback"));
        check(&["private"], "172.31.0.1", Some("private"));
        check(&["private"], "fd12::1", Some("private"));
        check(&["multicast"], "ff02::1", Some("multicast"));
        check(&["reserved"], "240.1.1.1", Some("reserved"));
        check(&["192.0.2.0/24"], "192.0.2.200", Some("192.0.2.0/24"));
        check(&["192.0.2.7"], "192.0.2.7", Some("192.0.2.7"));
        check(&["192.0.2.7"], "192.0.2.8", None);
        check(&["::ffff:10.0.0.0/104"], "10.2.3.4", Some("::ffff:10.0.0.0/104"));
        assert!(Policy::of(&["intranet"]).is_none());
    }
}
