//! Finds the rules that name a host without looking at the others: one look-up for the name, one for each name above it,
//! one for each length of prefix among the ranges.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::host::{Host, Name};
use super::rule::{EgressRule, HostPattern};

/// A rule by its place, and the destination of it that fits.
pub(super) type Entry = (u32, u32);

/// Built once per set of rules.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    exact: HashMap<Name, Vec<Entry>>,
    below: HashMap<Box<str>, Vec<Entry>>,
    ranges: HashMap<IpNet, Vec<Entry>>,
    /// Lengths of prefixes in `ranges`, IPv4 and IPv6.
    lengths: (Vec<u8>, Vec<u8>),
}

impl Index {
    pub(super) fn new(rules: &[EgressRule]) -> Index {
        let mut index = Index::default();
        for (rule, at) in rules.iter().zip(0_u32..) {
            for (destination, place) in rule.hosts.iter().zip(0_u32..) {
                let entry = (at, place);
                match &destination.host {
                    HostPattern::Exact(name) => index.exact.entry(name.clone()).or_default().push(entry),
                    HostPattern::Below(name) => index.below.entry(name.as_str().into()).or_default().push(entry),
                    HostPattern::Range(range) => {
                        index.note_length(range.0);
                        index.ranges.entry(range.0).or_default().push(entry);
                    }
                }
            }
        }
        index
    }

    fn note_length(&mut self, net: IpNet) {
        let lengths = match net {
            IpNet::V4(_) => &mut self.lengths.0,
            IpNet::V6(_) => &mut self.lengths.1,
        };
        if !lengths.contains(&net.prefix_len()) {
            lengths.push(net.prefix_len());
        }
    }

    /// What names the host, an exact name first, then from the longest name above it to the shortest.
    pub(super) fn find<'i>(&'i self, host: &'i Host) -> impl Iterator<Item = Entry> + 'i {
        let (name, address) = match host {
            Host::Name(name) => (Some(name), None),
            Host::Address(address) => (None, Some(*address)),
        };
        let exact = name.and_then(|name| self.exact.get(name));
        let below = name.filter(|_| !self.below.is_empty()).into_iter().flat_map(|name| self.above(name));
        let ranges = address.into_iter().flat_map(|address| self.holding(address));
        exact.into_iter().chain(below).chain(ranges).flatten().copied()
    }

    /// Whether only names below this one are named.
    pub(super) fn is_apex(&self, name: &Name) -> bool {
        self.below.contains_key(name.as_str())
    }

    fn above<'i>(&'i self, name: &'i Name) -> impl Iterator<Item = &'i Vec<Entry>> {
        let text = name.as_str();
        text.match_indices('.').filter_map(move |(dot, _)| self.below.get(text.get(dot + 1..)?))
    }

    fn holding(&self, address: IpAddr) -> impl Iterator<Item = &Vec<Entry>> {
        let lengths = match address {
            IpAddr::V4(_) => &self.lengths.0,
            IpAddr::V6(_) => &self.lengths.1,
        };
        lengths.iter().filter_map(move |length| self.ranges.get(&IpNet::new(address, *length).ok()?.trunc()))
    }
}
