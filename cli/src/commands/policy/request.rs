//! A request that somebody thinks of: who asks for what, and under which circumstances.

use std::net::IpAddr;
use std::time::SystemTime;

use anyhow::{Context, bail};
use outrigger_policy::{Annotations, CallFacts, Capability, CapabilityKind, Circumstances, Principal};

/// What is asked for, by whom.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// As people write it: alice, spiffe://..., anonymous.
    pub(crate) who: String,
    pub(crate) roles: Vec<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) claims: Vec<(String, Vec<String>)>,
    pub(crate) circumstances: Imagined,
}

/// Circumstances that were given; a call if one of its three facts was.
#[derive(Debug, Default)]
pub(crate) struct Imagined {
    pub(crate) arguments: Option<String>,
    pub(crate) time: Option<SystemTime>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) annotations: Option<Annotations>,
    /// It is a call even without any of its facts.
    pub(crate) is_call: bool,
}

impl Circumstances for Imagined {
    fn annotations(&self) -> Option<Annotations> {
        self.annotations.or(self.call().map(|_| Annotations::default()))
    }

    fn call(&self) -> Option<CallFacts<'_>> {
        let given = self.is_call || self.arguments.is_some() || self.time.is_some() || self.source.is_some();
        given.then(|| CallFacts {
            arguments: self.arguments.as_deref().map(str::as_bytes),
            time: self.time.unwrap_or_else(SystemTime::now),
            source: self.source,
        })
    }
}

impl Request {
    /// Who asks.
    pub(crate) fn principal(&self) -> anyhow::Result<Principal> {
        let granted = !self.scopes.is_empty() || !self.roles.is_empty() || !self.claims.is_empty();
        let principal = match self.who.as_str() {
            "anonymous" if granted => {
                bail!("an anonymous caller has no scopes, roles or claims; remove --scope, --role and --claim")
            }
            "anonymous" => Principal::anonymous(),
            workload if workload.starts_with("spiffe://") => Principal::workload(workload)?,
            user => Principal::user(user.strip_prefix("user:").unwrap_or(user))?,
        };
        Ok(principal.with_grants(&self.roles, &self.scopes)?.with_claims(self.claims.clone())?)
    }
}

/// `name=value`, several times, as claims with their values.
pub(crate) fn claims(given: &[String]) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let mut claims: Vec<(String, Vec<String>)> = Vec::new();
    for claim in given {
        let (name, value) = claim.split_once('=').with_context(|| format!("{claim}: expected NAME=VALUE"))?;
        match claims.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value.to_owned()),
            None => claims.push((name.to_owned(), vec![value.to_owned()])),
        }
    }
    Ok(claims)
}

/// A time as RFC 3339 writes it.
pub(crate) fn time(text: &str) -> Result<SystemTime, String> {
    let time = chrono::DateTime::parse_from_rfc3339(text);
    time.map(SystemTime::from).map_err(|_| "expected a time such as 2026-11-21T09:30:00Z".to_owned())
}

/// `fs.readFileText`, or as clients see it, `fs__readFileText`. A service's name has neither `.` nor `_`.
pub(crate) fn capability(text: &str, kind: CapabilityKind) -> anyhow::Result<Capability<'_>> {
    let at = text.find(['.', '_']).unwrap_or(text.len());
    let (service, rest) = text.split_at(at);
    let name = rest.strip_prefix("__").or_else(|| rest.strip_prefix('.')).unwrap_or_default();
    outrigger_mcp::names::check_service(service).with_context(|| format!("{text}: expected SERVICE.NAME"))?;
    if name.is_empty() {
        bail!("{text}: expected SERVICE.NAME, such as fs.readFileText");
    }
    Ok(Capability { kind, service, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_in_either_spelling() {
        let split = |text| capability(text, CapabilityKind::Tool).map(|what| (what.service, what.name));
        assert_eq!(split("fs.readFileText").unwrap(), ("fs", "readFileText"));
        assert_eq!(split("fs__read.file").unwrap(), ("fs", "read.file"));
        assert_eq!(split("my-fs.file:///a.txt").unwrap(), ("my-fs", "file:///a.txt"));
        for bad in ["fs", "fs.", ".x", "fs_x", "FS.x", ""] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn claims_gather_their_values() {
        let given = ["team=a", "badge=4=7", "team=b"].map(String::from);
        let expected = [("team", vec!["a", "b"]), ("badge", vec!["4=7"])];
        let expected = expected.map(|(name, values)| (name.to_owned(), values.into_iter().map(String::from).collect()));
        assert_eq!(claims(&given).unwrap(), expected);
        assert!(claims(&["team".to_owned()]).is_err());
    }
}
