//! Finds the few rules that a call may meet among ten thousand: by service, by how the capability's name begins, and
//! by whom the rule names.
//!
//! Whatever is found is asked again, so the index may find too much and must never find too little. A lookup takes no
//! lock and allocates nothing.

use super::quick::QuickMap;
use crate::capability::Capability;
use crate::principal::Principal;
use crate::rule::{Rule, name_key};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Patterns are told apart by at most so many bytes before their first `*`; one bit of [`Heads::lengths`] each.
const MAX_HEAD: usize = 31;
/// Fewer rules than this are asked one by one sooner than they are looked up.
const WORTH_KEYS: usize = 16;

/// All rules of one effect.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// Rules that name the service exactly.
    by_service: QuickMap<Box<str>, Slice>,
    /// Rules that name services by pattern; whether they cover the service is still to be asked.
    by_pattern: Slice,
    /// All of them.
    all: Group,
}

/// Rules about one service, or about services by pattern.
#[derive(Debug, Clone, Default)]
struct Slice {
    heads: Heads,
    all: Group,
}

/// Rules by what the names that they cover begin with.
#[derive(Debug, Clone, Default)]
struct Heads {
    /// The lengths that occur, as bits.
    lengths: u32,
    groups: QuickMap<Box<[u8]>, Group>,
}

/// Rules, in order, by whom they name.
#[derive(Debug, Clone, Default)]
struct Group {
    keyed: QuickMap<u64, Box<[u32]>>,
    open: Box<[u32]>,
    /// Both, in order.
    every: Box<[u32]>,
}

/// Indices of rules while an index is built.
#[derive(Default)]
struct Building<'r> {
    exact: HashMap<&'r str, SliceOf<'r>>,
    pattern: SliceOf<'r>,
    all: Vec<u32>,
}

#[derive(Default)]
struct SliceOf<'r> {
    heads: HashMap<&'r [u8], Vec<u32>>,
    all: Vec<u32>,
}

impl Index {
    /// An index of the rules that `wanted` picks.
    pub(super) fn new(rules: &[Rule], wanted: impl Fn(&Rule) -> bool) -> Index {
        let mut building = Building::default();
        for (index, rule) in (0_u32..).zip(rules).filter(|(_, rule)| wanted(rule)) {
            building.all.push(index);
            for service in &rule.coverage.services {
                let slice = match service.exact() {
                    Some(name) => building.exact.entry(name).or_default(),
                    None => &mut building.pattern,
                };
                slice.add(index, rule);
            }
        }
        let by_service = building.exact.into_iter().map(|(name, slice)| (name.into(), slice.finish(rules))).collect();
        let by_pattern = building.pattern.finish(rules);
        Index { by_service, by_pattern, all: Group::new(building.all, rules) }
    }

    /// Whether there is no rule.
    pub(super) fn is_empty(&self) -> bool {
        self.all.every.is_empty()
    }

    /// Lists, each in order, that together hold every rule that can cover the capability and be about the caller.
    pub(super) fn lists_for<B>(
        &self,
        who: &Principal,
        what: &Capability<'_>,
        mut visit: impl FnMut(&[u32]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.slices(what.service)
            .try_for_each(|slice| slice.heads.groups_of(what.name).try_for_each(|group| group.lists(who, &mut visit)))
    }

    /// Lists that together hold every rule that can cover the capability, whoever calls.
    pub(super) fn lists_covering<B>(
        &self,
        what: &Capability<'_>,
        mut visit: impl FnMut(&[u32]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.slices(what.service)
            .try_for_each(|slice| slice.heads.groups_of(what.name).try_for_each(|group| visit(&group.every)))
    }

    /// Lists that together hold every rule that can be about the service and the caller.
    pub(super) fn lists_of_service<B>(
        &self,
        who: &Principal,
        service: &str,
        mut visit: impl FnMut(&[u32]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.slices(service).try_for_each(|slice| slice.all.lists(who, &mut visit))
    }

    /// Lists that together hold, each once, every rule that can be about the caller.
    pub(super) fn lists_about<B>(
        &self,
        who: &Principal,
        mut visit: impl FnMut(&[u32]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.all.lists(who, &mut visit)
    }

    fn slices(&self, service: &str) -> impl Iterator<Item = &Slice> {
        self.by_service.get(service).into_iter().chain([&self.by_pattern])
    }
}

impl<'r> SliceOf<'r> {
    fn add(&mut self, index: u32, rule: &'r Rule) {
        let push = |list: &mut Vec<u32>| {
            if list.last() != Some(&index) {
                list.push(index);
            }
        };
        push(&mut self.all);
        for glob in &rule.coverage.capabilities {
            let head = glob.as_str().split('*').next().unwrap_or_default().as_bytes();
            push(self.heads.entry(head.get(..MAX_HEAD).unwrap_or(head)).or_default());
        }
    }

    fn finish(self, rules: &[Rule]) -> Slice {
        let lengths = self.heads.keys().fold(0, |lengths, head| lengths | 1_u32 << head.len());
        let groups = self.heads.into_iter().map(|(head, list)| (head.into(), Group::new(list, rules))).collect();
        Slice { heads: Heads { lengths, groups }, all: Group::new(self.all, rules) }
    }
}

impl Heads {
    fn groups_of(&self, name: &str) -> impl Iterator<Item = &Group> {
        let mut left = self.lengths;
        let lengths = std::iter::from_fn(move || {
            let length = left.trailing_zeros();
            left &= left.checked_sub(1)?;
            Some(length as usize)
        });
        lengths.filter_map(|length| self.groups.get(name.as_bytes().get(..length)?))
    }
}

impl Group {
    fn new(every: Vec<u32>, rules: &[Rule]) -> Group {
        let rule = |index: &u32| rules.get(*index as usize);
        if every.len() < WORTH_KEYS {
            return Group { keyed: QuickMap::default(), open: every.clone().into(), every: every.into() };
        }
        let (mut keyed, mut open) = (HashMap::<u64, Vec<u32>>::new(), Vec::new());
        for index in &every {
            match rule(index).and_then(|rule| rule.admits.name()) {
                Some((kind, name)) => keyed.entry(name_key(kind, &name)).or_default().push(*index),
                None => open.push(*index),
            }
        }
        let keyed = keyed.into_iter().map(|(key, list)| (key, list.into())).collect();
        Group { keyed, open: open.into(), every: every.into() }
    }

    fn lists<B>(&self, who: &Principal, visit: &mut impl FnMut(&[u32]) -> ControlFlow<B>) -> ControlFlow<B> {
        if !self.keyed.is_empty() {
            for list in who.keys().iter().filter_map(|key| self.keyed.get(key)) {
                visit(list)?;
            }
        }
        visit(&self.open)
    }
}
