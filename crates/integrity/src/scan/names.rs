//! Names that pass for other names, and texts that speak of what belongs to another service.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog_kind::Kind;
use unicode_security::MixedScript;

use super::phrases::plain;
use super::{Class, Finding, MAX_SHOWN};
use crate::show::visible;

/// A text that says what to do with something.
const TELLS: &[&str] = &[
    "instead of",
    "before calling",
    "before using",
    "after calling",
    "after using",
    "when calling",
    "when using",
    "whenever",
    "do not use",
    "don't use",
    "never use",
    "must use",
    "must call",
    "always call",
    "always use",
];

/// Service, kind and name of what looks like something.
type Looks<'a> = (&'a str, &'static str, &'a str);

/// The names of everything that is called by name; what takes long is learned when first asked for.
pub(super) struct Names<'a> {
    services: &'a [(&'a str, &'a Catalog)],
    /// Names that are no words, with the services that have them.
    named: OnceLock<HashMap<&'a str, Vec<&'a str>>>,
    /// Whose names are put before others where the mesh lists things.
    catalogs: OnceLock<HashMap<&'a str, &'a Catalog>>,
    /// The phrases of [`TELLS`] in the form of texts.
    tells: Vec<String>,
}

impl<'a> Names<'a> {
    pub(super) fn of(services: &'a [(&'a str, &'a Catalog)]) -> Self {
        let tells = TELLS.iter().map(|text| plain(text)).collect();
        Self { services, named: OnceLock::new(), catalogs: OnceLock::new(), tells }
    }

    /// Service, kind and name of everything.
    fn all(&self) -> impl Iterator<Item = Looks<'a>> + use<'a> {
        self.services.iter().flat_map(|(service, catalog)| {
            let kinds = [Kind::Tool, Kind::Prompt].into_iter();
            kinds.flat_map(move |kind| {
                catalog.list(kind).items().iter().map(move |item| (*service, kind.as_str(), item.key()))
            })
        })
    }

    /// Looks of names, with those that have them.
    fn looks(&self) -> BTreeMap<String, BTreeSet<Looks<'a>>> {
        let mut looks = BTreeMap::<_, BTreeSet<_>>::new();
        let services = self.services.iter().map(|(service, _)| (*service, "service", *service));
        for one in services.chain(self.all()) {
            looks.entry(plain(one.2)).or_default().insert(one);
        }
        looks
    }

    /// Names that differ and look the same, and names in which scripts are mixed.
    pub(super) fn look_alikes(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |(service, kind, name): (&str, &'static str, &str), what: String| {
            let (service, name) = (service.to_owned(), visible(name, MAX_SHOWN));
            findings.push(Finding { service, kind, name, at: "name".into(), class: Class::LookAlike, what });
        };
        for same in self.looks().values() {
            let (services, others): (Vec<_>, Vec<_>) = same.iter().partition(|one| one.1 == "service");
            let firsts = [first_two(&others), first_two(&services)];
            for one in same {
                let firsts = firsts[usize::from(one.1 == "service")].into_iter().flatten();
                let other = firsts.into_iter().find(|other| other.2 != one.2);
                if let Some((service, kind, name)) = other {
                    find(*one, format!("it looks like the {kind} `{}` of {service}", visible(name, MAX_SHOWN)));
                } else if !one.2.is_single_script() {
                    find(*one, "letters of several scripts in one name".to_owned());
                }
            }
        }
        findings
    }

    /// Whether a text of a service tells what to do with a capability of another one.
    pub(super) fn other_service(&self, service: &str, text: &str, plain: &str) -> Option<String> {
        if !self.tells.iter().any(|phrase| plain.contains(phrase.as_str())) {
            return None;
        }
        let words = text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')));
        let mut words = words.map(|word| word.trim_matches('.')).filter(|word| !word.is_empty());
        words.find_map(|word| {
            let owners = self.named().get(word).map_or(&[][..], Vec::as_slice);
            let listed = self.listed_as(word);
            let other = owners.iter().copied().chain(listed).find(|owner| *owner != service)?;
            let own = listed == Some(service) || owners.contains(&service);
            (!own).then(|| format!("it speaks of `{}` of {other}", visible(word, MAX_SHOWN)))
        })
    }

    fn named(&self) -> &HashMap<&'a str, Vec<&'a str>> {
        self.named.get_or_init(|| {
            let mut named = HashMap::<_, Vec<&str>>::new();
            for (service, _, name) in self.all().filter(|(_, _, name)| is_no_word(name)) {
                named.entry(name).or_default().push(service);
            }
            named
        })
    }

    /// The service of which the mesh lists something under this name.
    fn listed_as(&self, name: &str) -> Option<&'a str> {
        ["__", "."].into_iter().find_map(|joiner| {
            let (service, own) = name.split_once(joiner)?;
            let catalogs = self.catalogs.get_or_init(|| self.services.iter().copied().collect());
            let (service, catalog) = catalogs.get_key_value(service)?;
            let has = |kind| catalog.find(kind, own).is_some();
            (has(Kind::Tool) || has(Kind::Prompt)).then_some(*service)
        })
    }
}

/// The first, and the first that has another name: whoever looks for one of another name finds the first of these two.
fn first_two<'a, 'b>(same: &[&'b Looks<'a>]) -> [Option<&'b Looks<'a>>; 2] {
    let first = same.first().copied();
    [first, same.iter().copied().find(|one| first.is_some_and(|first| first.2 != one.2))]
}

/// Whether a name would not stand in a sentence by chance.
fn is_no_word(name: &str) -> bool {
    let inner = |c: char| c == '_' || c == '-' || c == '.' || c.is_ascii_digit();
    let humps = name.chars().skip(1).any(char::is_uppercase) && name.chars().any(char::is_lowercase);
    name.len() >= 5 && (name.contains(inner) || humps)
}
