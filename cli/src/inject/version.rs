//! Versions of Kubernetes, and what came with them.

/// A minor version, such as 1.29.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32);

impl Version {
    /// The first with native sidecars (init containers with `restartPolicy: Always`) unless they are turned off.
    pub(crate) const NATIVE_SIDECARS: Self = Self(1, 29);

    /// Of what `/version` says: clusters of some providers write `29+`.
    pub(crate) fn of(major: &str, minor: &str) -> Option<Self> {
        Some(Self(major.parse().ok()?, minor.trim_end_matches('+').parse().ok()?))
    }
}

/// `1.29`, `v1.29`, `1.29.3`.
pub(crate) fn parse(text: &str) -> Result<Version, String> {
    let mut parts = text.trim_start_matches('v').split('.');
    let version = parts.next().zip(parts.next()).and_then(|(major, minor)| Version::of(major, minor));
    version.ok_or_else(|| "a version, such as 1.29".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(parse("1.9").unwrap() < Version::NATIVE_SIDECARS);
        assert!(parse("v1.36.2").unwrap() >= Version::NATIVE_SIDECARS);
        assert_eq!(Version::of("1", "29+"), Some(Version::NATIVE_SIDECARS));
        assert!(parse("1").is_err() && parse("a.b").is_err() && parse("").is_err());
    }
}
