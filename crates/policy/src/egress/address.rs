//! Addresses that are never dialled unless a rule names their range, and ranges as rules write them.
//!
//! The table follows the special-purpose registries of IANA (RFC 6890 and its successors) for what is not globally
//! reachable, and adds what clouds serve on addresses of their own. Forms of IPv6 that carry an IPv4 address (mapped,
//! NAT64, 6to4, Teredo) are special themselves, and the address inside them is looked at as well.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address is special.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    /// This machine.
    Loopback,
    /// This link; the metadata services of clouds live here.
    LinkLocal,
    /// A metadata service on an address of its own.
    Metadata,
    /// A private network (RFC 1918, RFC 4193, site-local).
    Private,
    /// Shared by the customers of a provider (RFC 6598).
    CarrierNat,
    /// Many receivers at once, or all of them.
    Multicast,
    /// An IPv4 address inside an IPv6 one (mapped, compatible, NAT64, 6to4, Teredo).
    Embedded,
    /// No address of anybody: unspecified, documentation, benchmarks, future use.
    Reserved,
}

impl Special {
    /// The word for logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Special::Loopback => "loopback",
            Special::LinkLocal => "link-local",
            Special::Metadata => "metadata",
            Special::Private => "private",
            Special::CarrierNat => "carrier NAT",
            Special::Multicast => "multicast",
            Special::Embedded => "embedded IPv4",
            Special::Reserved => "reserved",
        }
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, special: Special) -> (Ipv4Net, Special) {
    (Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix), special)
}

const fn v6(segments: [u16; 8], prefix: u8, special: Special) -> (Ipv6Net, Special) {
    let [a, b, c, d, e, f, g, h] = segments;
    (Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix), special)
}

/// The first that holds an address counts, so narrow ones stand before those around them.
const V4: &[(Ipv4Net, Special)] = &[
    v4(127, 0, 0, 0, 8, Special::Loopback),
    v4(169, 254, 0, 0, 16, Special::LinkLocal),
    // Alibaba Cloud, inside the carrier range.
    v4(100, 100, 100, 200, 32, Special::Metadata),
    // Azure's platform address, public by its number and the host's agent by its use.
    v4(168, 63, 129, 16, 32, Special::Metadata),
    v4(10, 0, 0, 0, 8, Special::Private),
    v4(172, 16, 0, 0, 12, Special::Private),
    v4(192, 168, 0, 0, 16, Special::Private),
    v4(100, 64, 0, 0, 10, Special::CarrierNat),
    v4(224, 0, 0, 0, 4, Special::Multicast),
    v4(255, 255, 255, 255, 32, Special::Multicast),
    v4(0, 0, 0, 0, 8, Special::Reserved),
    v4(192, 0, 0, 0, 24, Special::Reserved),
    v4(192, 0, 2, 0, 24, Special::Reserved),
    // The anycast relay of 6to4 (RFC 7526).
    v4(192, 88, 99, 0, 24, Special::Reserved),
    v4(198, 18, 0, 0, 15, Special::Reserved),
    v4(198, 51, 100, 0, 24, Special::Reserved),
    v4(203, 0, 113, 0, 24, Special::Reserved),
    v4(240, 0, 0, 0, 4, Special::Reserved),
];

const V6: &[(Ipv6Net, Special)] = &[
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Special::Loopback),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, Special::Reserved),
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, Special::Embedded),
    // IPv4-translated (RFC 2765).
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, Special::Embedded),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, Special::Embedded),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, Special::Embedded),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Special::Embedded),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Special::Embedded),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Special::Embedded),
    // Amazon's metadata service over IPv6, inside the unique local range.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, Special::Metadata),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Special::Private),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Special::Private),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Special::LinkLocal),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Special::Multicast),
    // Of 2001::/23 what is left after Teredo: protocol assignments, benchmarks, ORCHID.
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Special::Reserved),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Special::Reserved),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Special::Reserved),
];

/// Only 2000::/3 is given out for global use; whatever lies outside and is not listed above is reserved.
const GLOBAL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// The special range that an address lies in, the narrowest of those listed; nothing for a public address.
pub fn special(address: IpAddr) -> Option<(Range, Special)> {
    match address {
        IpAddr::V4(address) => {
            V4.iter().find(|(net, _)| net.contains(&address)).map(|(net, why)| (Range(IpNet::V4(*net)), *why))
        }
        IpAddr::V6(address) => {
            let listed = V6.iter().find(|(net, _)| net.contains(&address)).map(|(net, why)| (*net, *why));
            let outside = || {
                let all = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);
                (!GLOBAL_V6.contains(&address)).then_some((all, Special::Reserved))
            };
            listed.or_else(outside).map(|(net, why)| (Range(IpNet::V6(net)), why))
        }
    }
}

/// The IPv4 address that an IPv6 one stands for, or may be translated to on its way.
pub fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        [0, 0, 0, 0, 0, 0] if (g, h) != (0, 0) && (g, h) != (0, 1) => v4(g, h),
        [0x2002, ..] => v4(b, c),
        // Teredo hides the client's address by inverting it (RFC 4380 section 4).
        [0x2001, 0, ..] => v4(!g, !h),
        _ => None,
    }
}

/// A range of addresses as a rule names it: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range(pub(crate) IpNet);

impl Range {
    /// Reads a range. One with bits set behind its prefix is refused: it is a typing error more often than a wish.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Range, &'static str> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => prefixed(text).ok_or("not an address range; write 10.0.0.0/8 or fd00::/8")?,
        };
        if net.trunc() != net {
            return Err("it has bits set behind its prefix; write the first address of the range");
        }
        Ok(Range(net))
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether this range was named on purpose for what `special` holds: it lies wholly inside. `0.0.0.0/0` thus never
    /// opens loopback.
    fn names(&self, special: &Range) -> bool {
        special.0.contains(&self.0)
    }
}

/// As strict about digits as the standard library is: a leading zero means octal to some.
fn prefixed(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    IpNet::new(address.parse().ok()?, length.parse().ok().filter(|_| digits)?).ok()
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

/// The guard: whether an address may be dialled under a rule that names these ranges.
///
/// # Errors
/// Why it is special.
pub fn check<'r>(address: IpAddr, named: impl Iterator<Item = &'r Range> + Clone) -> Result<(), Special> {
    if let Some((block, why)) = special(address)
        && !named.clone().any(|range| range.contains(address) && range.names(&block))
    {
        return Err(why);
    }
    match embedded(address) {
        Some(inside) => check(inside.into(), named),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
